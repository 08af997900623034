"""Bodies that strangers send: each is answered, or refused with the rule that it breaks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import PNG, PREDICT, SCAN, Gate, check, client, encoded, error_of, multipart
from easy import band
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from octlet.core.errors import ModelFileError
from octlet.serve.app import App
from octlet.serve.limits import FILES, Limits
from octlet.serve.refusal import CODES
from octlet.serve.upload import IMAGES

FORM, OF_FORM = multipart([("first.png", SCAN), ("second.png", SCAN)])
FIELD = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'


@pytest.fixture(scope="module")
def gate(model_file: Path) -> Gate:
    return Gate(model_file)


@pytest.fixture(scope="module")
def log() -> list[str]:
    return []


@pytest.fixture(scope="module")
def http(gate: Gate, log: list[str]) -> Iterator[TestClient]:
    app = App(gate.predictor, limits=Limits(upload=100_000), log=log.append)
    with client(app) as http:
        yield http
    app.worker.close()


@pytest.mark.parametrize(
    ("status", "path", "body", "headers"),
    [
        (400, "?heatmp=CNV", SCAN, PNG),
        (400, "?heatmap=cnv", SCAN, PNG),
        (400, "?heatmap=CNV&heatmap=DME", SCAN, PNG),
        (400, "", b"", {"content-type": "multipart/form-data"}),
        (400, "", b"", {"content-type": "multipart/form-data; boundary=x"}),
        (400, "", b"nothing of the kind", {"content-type": "multipart/form-data; boundary=x"}),
        (400, "", *multipart([])),
        (400, "", *multipart([("x.png", SCAN)] * (FILES + 1))),
        (400, "", FIELD, {"content-type": "multipart/form-data; boundary=x"}),
        (400, "", FORM, {"content-type": OF_FORM["content-type"] + "; charset=undefined"}),
        (413, "", bytes(100_001), PNG),
        (413, "", *multipart([("x.png", bytes(100_001))])),
        (415, "", SCAN, {}),
        (415, "", SCAN, {"content-type": "image/gif"}),
        (415, "", SCAN, {"content-type": "application/x-www-form-urlencoded"}),
        (415, "", SCAN, PNG | {"content-encoding": "gzip"}),
        (422, "", b"", PNG),
        (422, "", SCAN[:200], PNG),
        (422, "", b"GIF89a", PNG),
        (422, "", encoded(np.zeros((4, 4), np.uint8)), PNG),
        (422, "", *multipart([("", b"")])),
    ],
)  # fmt: skip
def test_bad_requests(http: TestClient, status: int, path: str, body: bytes, headers: dict[str, str]) -> None:
    answer = http.post(PREDICT + path, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    error = error_of(answer)
    assert error["message"]
    assert error["remedy"]
    assert error["code"] == ("usage" if path else CODES.get(status, "bad-input"))


def test_a_body_of_unknown_length_is_counted(http: TestClient) -> None:
    answer = http.post(PREDICT, content=iter([bytes(60_000)] * 2), headers=PNG)
    assert "content-length" not in answer.request.headers
    assert (answer.status_code, error_of(answer)["code"]) == (413, "too-large")
    assert http.post(PREDICT, content=iter([SCAN[:100], SCAN[100:]]), headers=PNG).status_code == 200


@given(st.integers(0, len(FORM) - len("--\r\n")))
@settings(max_examples=40)
def test_a_form_cut_short_is_never_half_answered(http: TestClient, size: int) -> None:
    answer = http.post(PREDICT, content=FORM[:size], headers=OF_FORM)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad-request")


SEEDS = [
    SCAN,
    *(encoded(band(2, np.random.default_rng(1)), form) for form in ("TIFF", "JPEG", "BMP")),
    FORM,
]
splice = st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=9))
bodies = st.one_of(st.binary(max_size=300), st.tuples(st.sampled_from(SEEDS), st.lists(splice, max_size=6)))
kinds = st.one_of(
    st.sampled_from([*IMAGES, OF_FORM["content-type"]]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip),
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=",;"), max_size=9).map(
        lambda text: f"multipart/form-data; boundary=b0undary; charset={text}"
    ),
)


@given(bodies, kinds)
@settings(max_examples=150)
def test_no_body_is_the_servers_fault(http: TestClient, body: Any, kind: str) -> None:
    if isinstance(body, tuple):
        body, splices = body
        for where, size, new in splices:
            start = int(where * len(body))
            body = body[:start] + new + body[start + size :]
    answer = http.post(PREDICT, content=body, headers={"content-type": kind})
    assert answer.status_code in (200, 400, 413, 415, 422)
    check("Predictions" if answer.status_code == 200 else "Error", answer.json())


def test_what_pillow_raises_on_a_damaged_tiff_is_no_fault_of_ours(http: TestClient) -> None:
    whole = encoded(band(0, np.random.default_rng(0)), "TIFF")
    begin, count = (int.from_bytes(whole[at : at + size], "little") for at, size in ((4, 4), (8, 2)))
    following = begin + 2 + 12 * count  # where the directory of the next image is told
    damaged = whole[:following] + len(whole).to_bytes(4, "little") + whole[following + 4 :] + bytes(6)
    answer = http.post(PREDICT, content=damaged, headers={"content-type": "image/tiff"})
    assert answer.status_code == 422
    assert error_of(answer)["message"].startswith("the image is damaged or cut short")


@pytest.mark.parametrize(
    ("fault", "code"),
    [(ModelFileError("not finite", path="/srv/secret"), "bad-model-file"), (ValueError("Mueller"), "error")],
)
def test_our_own_faults(
    http: TestClient, gate: Gate, log: list[str], monkeypatch: pytest.MonkeyPatch, fault: Exception, code: str
) -> None:
    monkeypatch.setattr(gate, "fault", fault)
    log.clear()
    answer = http.post(PREDICT, content=SCAN, headers=PNG)
    assert (answer.status_code, error_of(answer)["code"]) == (500, code)
    assert "secret" not in answer.text
    assert "Mueller" not in answer.text + "".join(log)
    assert bool("octlet: fault: ValueError in " in "".join(log)) == (code == "error")
    monkeypatch.undo()
    assert http.post(PREDICT, content=SCAN, headers=PNG).status_code == 200  # the worker has survived it


def test_no_upload_touches_the_disk(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def rollover(self: object) -> None:
        raise AssertionError("a scan is written to a temporary file")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    app = App(gate.predictor, limits=Limits(upload=5_000_000), log=lambda line: None)
    large = SCAN + bytes(4_000_000)  # what follows a PNG's end is no part of it
    assert client(app).post(PREDICT, files={"scan": large}).status_code == 200
    app.worker.close()
