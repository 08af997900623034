"""The server in this process: what it answers, what it refuses, and what it tells of itself."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from asking import PNG, PREDICT, SCAN, Gate, check, client, encoded, error_of
from easy import band, result_of
from openapi_spec_validator import validate
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

import octlet
from octlet.core.errors import GateError, InputError, ModelFileError, OctletError
from octlet.core.labels import LABELS, NOTICE
from octlet.runtime.heatmap import write_overlay
from octlet.runtime.machine import Condition
from octlet.runtime.predictor import Grid, Predictor
from octlet.serve import app as app_module
from octlet.serve import predict as predict_module
from octlet.serve.app import App, openapi
from octlet.serve.guard import is_loopback_name
from octlet.serve.limits import FILES, Limits
from octlet.serve.metrics import Metrics
from octlet.serve.refusal import CODES
from octlet.serve.upload import IMAGES

TOKEN = "a token of the tests".replace(" ", "-")


@pytest.fixture(scope="module")
def gate(model_file: Path) -> Gate:
    return Gate(model_file)


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def app(gate: Gate, log: list[str]) -> Iterator[App]:
    app = App(gate.predictor, limits=Limits(upload=100_000), log=log.append)
    yield app
    app.worker.close()


@pytest.fixture
def http(app: App) -> TestClient:
    return client(app)


# What is answered --------------------------------------------------------------------------------------


def test_the_answer_is_that_of_predict(http: TestClient, model_file: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    files = [tmp_path / f"{i}.{end}" for i, end in enumerate(("png", "jpeg", "tiff", "bmp"))]
    for number, file in enumerate(files):
        file.write_bytes(encoded(band(number, rng), file.suffix[1:]))
    told = result_of("predict", "-m", model_file, *files)
    expected = [each | {"file": Path(each["file"]).name} for each in told["predictions"]]

    form = http.post(PREDICT, files=[("any", (file.name, file.read_bytes())) for file in files])
    assert form.status_code == 200
    document = form.json()
    check("Predictions", document)
    assert document == told | {"predictions": expected, "errors": []}
    for file, kind, each in zip(files, ("png", "jpeg", "tiff", "bmp"), expected, strict=True):
        answer = http.post(PREDICT, content=file.read_bytes(), headers={"Content-Type": f"image/{kind}; x=y"})
        assert answer.json()["predictions"] == [each | {"file": "scan"}]


def test_scans_that_cannot_be_read_stand_beside_the_others(http: TestClient) -> None:
    white = encoded(np.full((32, 32), 255, np.uint8))
    parts = [("a.png", b"no image"), ("b.png", SCAN), ("c.png", white), ("b.png", SCAN)]
    answer = http.post(PREDICT, files=[("scan", part) for part in parts])
    check("Predictions", answer.json())
    assert [each["file"] for each in answer.json()["predictions"]] == ["b.png", "b.png"]
    assert [each["file"] for each in answer.json()["errors"]] == ["a.png", "c.png"]
    answer = http.post(PREDICT, files=[("scan", part) for part in (parts[0], parts[2])])
    assert answer.status_code == 422
    assert error_of(answer)["file"] == "a.png"


@pytest.mark.parametrize("label", ["predicted", *LABELS])
def test_a_heatmap_is_the_one_that_predict_writes(
    http: TestClient, gate: Gate, tmp_path: Path, label: str
) -> None:
    answer = http.post(PREDICT, params={"heatmap": label}, content=SCAN, headers=PNG)
    check("Predictions", answer.json())
    (prediction,) = answer.json()["predictions"]
    drawn = prediction["label"] if label == "predicted" else label
    assert prediction["heatmap"]["label"] == drawn
    gray = np.asarray(Image.open(io.BytesIO(SCAN)))
    scores = Predictor(gate.bundle, gate.engine).run([gray])
    write_overlay(tmp_path / "x.png", gray, scores.cam[0], Grid(64), scores.boxes[0], drawn)
    sent = Image.open(io.BytesIO(base64.b64decode(prediction["heatmap"]["png"])))
    with Image.open(tmp_path / "x.png") as written:
        assert (sent.format, sent.mode, sent.info) == ("PNG", "RGB", written.info)
        assert np.array_equal(np.asarray(sent), np.asarray(written))


def test_no_heatmap_is_drawn_over_a_vast_scan(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module, "HEATMAP_PIXELS", 48 * 64 - 1)
    assert http.post(PREDICT, content=SCAN, headers=PNG).status_code == 200
    answer = http.post(PREDICT, params={"heatmap": "CNV"}, content=SCAN, headers=PNG)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 405),
        ("GET", "/index.html", 404),
        ("GET", "/api", 404),
        ("POST", PREDICT + "/", 404),
        ("GET", PREDICT, 405),
        ("OPTIONS", PREDICT, 405),
        ("POST", "/metrics", 405),
    ],
)
def test_other_addresses_and_methods(http: TestClient, method: str, path: str, status: int) -> None:
    answer = http.request(method, path, follow_redirects=False)
    assert answer.status_code == status
    assert error_of(answer)["code"] == CODES[status]
    assert ("allow" in answer.headers) == (status == 405)


# Who may ask --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:80", "LOCALHOST:8000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:80"]
)
def test_names_of_loopback(host: str) -> None:
    assert is_loopback_name(host.lower())


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
             "10.0.0.1:8000", "[2001:db8::1]:80", "localhost:80:80", "127.0.0.1@evil"]
)  # fmt: skip
def test_a_host_that_is_not_loopback_is_refused_without_a_token(http: TestClient, host: str) -> None:
    assert not is_loopback_name(host)
    answer = http.post(PREDICT, content=SCAN, headers=PNG | {"Host": host})
    assert (answer.status_code, error_of(answer)["code"]) == (421, "other-host")


@pytest.mark.parametrize("path", [PREDICT, "/api/health", "/metrics", "/"])
@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1:8001", "http://localhost:8000"]
)  # fmt: skip
def test_a_page_of_another_origin_is_refused(http: TestClient, path: str, origin: str) -> None:
    answer = http.request("POST" if path == PREDICT else "GET", path, headers={"Origin": origin})
    assert (answer.status_code, error_of(answer)["code"]) == (403, "other-origin")


def test_our_own_page_may_ask_and_no_other_may_read(http: TestClient) -> None:
    answer = http.post(PREDICT, content=SCAN, headers=PNG | {"Origin": "http://127.0.0.1:8000"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xe9"],
)  # fmt: skip
def test_a_token_is_asked_for_everywhere(gate: Gate, header: str | None) -> None:
    app = App(gate.predictor, token=TOKEN, log=lambda line: None)
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for method, path in (("POST", PREDICT), ("GET", "/api/health"), ("GET", "/metrics"), ("GET", "/any")):
        answer = client(app).request(method, path, headers=headers)
        assert (answer.status_code, error_of(answer)["code"]) == (401, "no-token")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_with_the_token_any_host_will_do(gate: Gate) -> None:
    app = App(gate.predictor, token=TOKEN, log=lambda line: None)
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {TOKEN}", "Host": "pi.example"}
        assert client(app).get("/api/health", headers=headers).status_code == 200
        assert (
            client(app).get("/api/health", headers=headers | {"Origin": "https://pi.example"}).status_code
            == 200
        )
        assert (
            client(app).get("/api/health", headers=headers | {"Origin": "https://x.example"}).status_code
            == 403
        )


# What it tells of itself --------------------------------------------------------------------------------


def test_health(http: TestClient, app: App, model_file: Path) -> None:
    answer = http.get("/api/health")
    assert answer.status_code == 200
    health = answer.json()
    check("Health", health)
    assert health["model"] == result_of("verify", model_file)["model"]
    assert (health["status"], health["version"], health["notice"]) == ("ok", octlet.__version__, NOTICE)
    limits = {"upload_bytes": 100_000, "files": FILES, "seconds": 30, "waiting": 16, "batch": 1}
    assert health["limits"] == limits
    app.worker.stopping = True
    answer = http.get("/api/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
    check("Health", answer.json())


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = list(text_string_to_metric_families(text))
    assert all(family.type != "unknown" and family.documentation for family in families)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def test_metrics(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    label = http.post(PREDICT, files=[("a", SCAN), ("b", SCAN)]).json()["predictions"][0]["label"]
    http.post(PREDICT, content=b"", headers=PNG)
    http.get("/patients/Mueller")
    monkeypatch.setattr(app_module, "read_condition", lambda sources: Condition(celsius=51.5))
    answer = http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer.text)

    def value(name: str, **labels: str) -> float:
        return found[f"octlet_{name}", frozenset(labels.items())]

    assert value("requests_total", path=PREDICT, code="200") == 1
    assert value("requests_total", path=PREDICT, code="422") == 1
    assert value("requests_total", path="other", code="404") == 1
    assert [value("predictions_total", label=each) for each in LABELS] == [
        2 * (each == label) for each in LABELS
    ]
    assert value("predict_seconds_count") == value("predict_seconds_bucket", le="+Inf") == 1
    assert value("predict_seconds_sum") > 0
    assert (value("cpu_celsius"), value("requests_waiting"), value("requests_waiting_limit")) == (51.5, 0, 16)
    monkeypatch.setattr(app_module, "read_condition", lambda sources: Condition())
    assert "celsius" not in http.get("/metrics").text  # not told, rather than 0


def test_metrics_of_odd_names_and_slow_requests() -> None:
    metrics = Metrics()
    for seconds in (0.01, 0.011, 29, 31):  # a bound belongs to its own bucket
        metrics.predicted(["CNV"], seconds)
    odd = 'a "model" \\ of\ntwo lines'
    found = samples(metrics.text({"name": odd}, {}))
    assert found["octlet_info", frozenset({("name", odd)})] == 1
    counts = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if name.endswith("_bucket")
    }
    assert (counts["0.01"], counts["0.025"], counts["10.0"], counts["30.0"], counts["+Inf"]) == (
        1,
        2,
        2,
        3,
        4,
    )


def test_the_log_holds_no_name(http: TestClient, log: list[str]) -> None:
    http.post(PREDICT, files=[("Mueller", ("Mueller.png", SCAN)), ("x", ("Mueller.png", b"Mueller"))])
    http.post(PREDICT + "?heatmap=Mueller", content=SCAN, headers=PNG)
    http.get("/Mueller")
    patterns = ["POST /api/predict 200", "POST /api/predict 400", "GET other 404"]
    for line, pattern in zip(log, patterns, strict=True):
        assert re.fullmatch(pattern + r" \d+ ms", line)


def test_the_description_is_openapi_and_says_what_there_is(http: TestClient, app: App) -> None:
    document = http.get("/api/openapi.json").json()
    validate(document)
    assert document == openapi()
    assert document["info"]["version"] == octlet.__version__
    assert set(document["paths"]) == app._guard._paths - app._guard._public
    schemas = document["components"]["schemas"]
    own = {kind.code for kind in (OctletError, InputError, ModelFileError, GateError)} | {"usage"}
    assert schemas["Fault"]["properties"]["code"]["enum"] == sorted(own | set(CODES.values()))
    assert tuple(schemas["Label"]["enum"]) == LABELS
    predict = document["paths"][PREDICT]["post"]
    assert predict["parameters"][0]["schema"]["enum"] == ["none", "predicted", *LABELS]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/dicom", *IMAGES}
    assert f"1 to {FILES} files" in predict["description"]
