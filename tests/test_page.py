"""The page's files: how they are served, what they hold, and that an installation has them."""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from asking import PREDICT, SCAN, Gate, check, client, error_of
from starlette.testclient import TestClient

from octlet.core.image import decode
from octlet.core.labels import LABELS, NAMES, NOTICE
from octlet.core.prediction import CSV_COLUMNS, URGENCIES
from octlet.runtime.heatmap import LEAST, coarse, strength
from octlet.runtime.predictor import Grid, Predictor
from octlet.serve.app import App
from octlet.serve.page import KINDS, POLICY

TOKEN = "a-token-of-the-tests"  # noqa: S105
FILES = {each.name: each.read_bytes() for each in (files("octlet.serve") / "static").iterdir()}
PAGE = {name: data for name, data in FILES.items() if name.rpartition(".")[2] in KINDS}
HTML = PAGE["index.html"].decode()


@pytest.fixture(scope="module")
def gate(model_file: Path) -> Gate:
    return Gate(model_file)


@pytest.fixture(params=["", TOKEN], ids=["no token", "a token"])
def app(gate: Gate, request: pytest.FixtureRequest) -> Iterator[App]:
    app = App(gate.predictor, token=request.param or None, log=lambda line: None)
    yield app
    app.worker.close()


@pytest.fixture
def http(app: App) -> TestClient:
    return client(app)


def address(name: str) -> str:
    return "/" if name == "index.html" else f"/{name}"


@pytest.mark.parametrize("name", sorted(PAGE))
def test_every_file_is_served_with_or_without_a_token(http: TestClient, name: str) -> None:
    answer = http.get(address(name))
    assert (answer.status_code, answer.content) == (200, PAGE[name])
    assert answer.headers["content-type"].partition(";")[0] == KINDS[name.rpartition(".")[2]]
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-cache"
    tag = answer.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = http.get(address(name), headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert http.get(address(name), headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_policy_lets_nothing_in_from_elsewhere() -> None:
    assert POLICY == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def test_the_page_opens_no_other_door(gate: Gate) -> None:
    locked = client(App(gate.predictor, token=TOKEN, log=lambda line: None))
    for path in ("/api/health", "/metrics", "/openapi.json", "/index.html", "/../app.py", "/any"):
        assert locked.get(path).status_code == 401
    assert locked.post(PREDICT, content=SCAN).status_code == 401
    assert error_of(locked.get("/", headers={"Origin": "http://evil.example"}))["code"] == "other-origin"
    assert error_of(locked.post("/"))["code"] == "method-not-allowed"
    unlocked = client(App(gate.predictor, log=lambda line: None))
    assert error_of(unlocked.get("/", headers={"Host": "evil.example"}))["code"] == "other-host"
    assert unlocked.get("/openapi.json").status_code == 404


def test_the_page_is_small_and_holds_nothing_inline() -> None:
    assert sum(map(len, PAGE.values())) < 100_000
    assert max(data.count(b"\n") for data in PAGE.values()) < 400
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", HTML)
    for data in PAGE.values():
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)|innerHTML|eval\(|document\.write", data)
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', HTML))
    imported = set(
        re.findall(r'from "\./([^"]+)"', "".join(d.decode() for n, d in PAGE.items() if n.endswith("js")))
    )
    assert named == set(PAGE) - {"index.html"}  # all of them asked for at once, none after another
    assert imported <= named


def test_the_page_says_what_the_package_says() -> None:
    words = PAGE["words.js"].decode()
    for label in LABELS:
        assert f'{label}: "{NAMES[label]}"' in words
    assert str(list(URGENCIES)).replace("'", '"') in words
    assert str(list(LABELS)).replace("'", '"') in words
    assert NOTICE in HTML
    columns = PAGE["csv.js"].decode()
    assert all(f'"{column}"' in columns for column in CSV_COLUMNS if not column.startswith("p_"))


def test_maps_come_as_numbers_on_one_scale(gate: Gate) -> None:
    app = App(gate.predictor, log=lambda line: None)
    (told,) = client(app).post(PREDICT, params={"map": "all"}, files={"scan": SCAN}).json()["predictions"]
    check("Prediction", told)
    predictor = Predictor(gate.bundle, gate.engine)
    gray = decode(SCAN, "scan")
    scores = predictor.run([gray])
    cam, map_ = scores.cam[0], told["map"]
    assert map_ == coarse(gray, cam, predictor.grid, scores.boxes[0])
    assert (map_["size"], map_["box"]) == ([64, 48], list(scores.boxes[0]))
    assert map_["full"] == pytest.approx(max(cam.max(), LEAST), abs=1e-4)
    for label, values in zip(LABELS, cam, strict=True):
        levels = np.array(map_["evidence"][label])
        assert np.abs(levels * map_["full"] / 255 - values.clip(0)).max() <= map_["full"] / 510 + 1e-4
    begin, end = map_["span"]
    ramp = np.arange(cam.shape[2], dtype=np.float32)[None].repeat(cam.shape[1], 0) + 1
    drawn = strength(ramp, predictor.grid, 64, 64)[0] * max(float(ramp.max()), LEAST)
    at = begin + (np.arange(64) + 0.5) / 64 * (end - begin) - 0.5
    assert np.abs(drawn - 1 - at.clip(0, cam.shape[2] - 1)).max() < 0.05
    app.worker.close()


def test_a_map_of_little_evidence_stays_faint() -> None:
    cam = np.full((4, 2, 2), -3, np.float32)
    cam[1, 0, 1] = 0.5
    told = coarse(np.zeros((50, 40), np.uint8), cam, Grid(64), (1, 2, 30, 40))
    assert told["full"] == LEAST
    assert told["evidence"] == {
        "CNV": [[0, 0], [0, 0]],
        "DME": [[0, 128], [0, 0]],
        "DRUSEN": [[0, 0], [0, 0]],
        "NORMAL": [[0, 0], [0, 0]],
    }


def test_a_wheel_holds_the_page(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(words, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        for name, data in PAGE.items():
            assert packed.read(f"octlet/serve/static/{name}") == data
