"""Volumes over HTTP: the answer is that of `octlet predict`, with pictures where they are asked for."""

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clinical_files as write
import numpy as np
import pytest
from asking import PREDICT, Gate, ask, check, client, encoded, entered, error_of, multipart
from easy import result_of
from PIL import Image
from starlette.testclient import TestClient

from octlet.core.errors import UsageError
from octlet.serve.app import App
from octlet.serve.predict import Query

SCANS = write.grays(5, (64, 80), seed=3)
DICOM = write.dicom(write.dataset(SCANS, ImageLaterality="L"))


@pytest.fixture
def gate(model_file: Path) -> Gate:
    return Gate(model_file)


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def app(gate: Gate, log: list[str]) -> Iterator[App]:
    made = App(gate.predictor, log=log.append)
    yield made
    made.worker.close()


@pytest.fixture
def http(app: App) -> TestClient:
    return client(app)


def answer(http: TestClient, query: str = "", *files: tuple[str, bytes]) -> dict[str, Any]:
    body, headers = multipart(files or [("a.dcm", DICOM)])
    got = http.post(PREDICT + query, content=body, headers=headers)
    assert got.status_code == 200, got.text
    check("Predictions", got.json())
    document: dict[str, Any] = got.json()
    return document


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.dcm", DICOM),
        ("a.tif", write.tiff(list(SCANS))),
        ("a.vol", write.vol(SCANS / np.float32(256))),
        ("a.fda", write.fda(SCANS)),
        ("one.tif", write.tiff([SCANS[0]])),
    ],
)
def test_the_answer_is_that_of_predict(
    name: str,
    data: bytes,
    http: TestClient,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(data)
    expected = result_of("predict", "-m", model_file, name)
    found = answer(http, "", (name, data))
    assert [each["file"] for each in found["predictions"]] == [
        each["file"] for each in expected["predictions"]
    ]
    for one, other in zip(found["predictions"], expected["predictions"], strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    for one, other in zip(found["eyes"], expected["eyes"], strict=True):
        assert one.pop("probabilities") == pytest.approx(other.pop("probabilities"), abs=1e-5)
        assert one == other


def test_a_body_of_dicom(http: TestClient) -> None:
    got = http.post(PREDICT, content=DICOM, headers={"content-type": "application/dicom"})
    assert [each["file"] for each in got.json()["predictions"]] == [f"scan.dcm#{k}" for k in range(1, 6)]
    assert got.json()["eyes"][0]["eye"] == "L"


def test_pictures_of_some_scans(http: TestClient) -> None:
    found = answer(http, "?scan=png&map=all&heatmap=predicted&slices=2-3")
    assert [each["file"] for each in found["predictions"]] == ["a.dcm#2", "a.dcm#3"]
    assert found["eyes"] == []
    for each, pixels in zip(found["predictions"], SCANS[1:3], strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(each["scan"])))
        np.testing.assert_array_equal(np.asarray(picture), pixels)
        assert set(each) >= {"map", "heatmap"}
    assert [each["file"] for each in answer(http, "?slices=5-99")["predictions"]] == ["a.dcm#5"]
    whole = answer(http, "?scan=png", ("x.png", encoded(SCANS[0])), ("a.dcm", DICOM))
    assert [("scan" in each) for each in whole["predictions"]] == [True] * 6
    assert len(whole["eyes"]) == 1


def test_answers_that_would_be_too_large(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octlet.serve.answer.DRAWN_PIXELS", 2 * SCANS[0].size)
    body, headers = multipart([("a.dcm", DICOM)])
    got = http.post(PREDICT + "?scan=png", content=body, headers=headers)
    assert (got.status_code, error_of(got)["file"]) == (422, "a.dcm")
    assert "slices=" in error_of(got)["remedy"]
    assert len(answer(http, "?scan=png&slices=1-2")["predictions"]) == 2
    assert len(answer(http)["predictions"]) == 5


@pytest.mark.parametrize("slices", ["0", "0-3", "x", "1-2-3", "-1", "1-", "12345", " 1"])
def test_ranges_that_are_none(slices: str) -> None:
    with pytest.raises(UsageError):
        Query(slices=slices)


def test_faults_of_volumes(http: TestClient) -> None:
    body, headers = multipart([("a.dcm", DICOM[:2000])])
    got = http.post(PREDICT, content=body, headers=headers)
    assert (got.status_code, error_of(got)["file"]) == (422, "a.dcm")
    body, headers = multipart([("a.dcm", DICOM)])
    got = http.post(PREDICT + "?slices=6", content=body, headers=headers)
    assert (got.status_code, error_of(got)["file"]) == (422, "a.dcm")
    white = SCANS.copy()
    white[2] = 255
    found = answer(http, "", ("a.dcm", write.dicom(write.dataset(white))), ("b.vol", b"x"))
    assert [each["file"] for each in found["errors"]] == ["a.dcm#3", "b.vol"]
    assert found["eyes"][0]["scans"] == 5


def test_nothing_of_the_file_is_logged(http: TestClient, log: list[str]) -> None:
    answer(
        http,
        "",
        ("SECRET.dcm", write.dicom(write.dataset(SCANS[:1], PatientName="SECRET", PatientID="SECRET"))),
    )
    assert log
    assert "SECRET" not in "".join(log)


def test_one_decoded_volume_at_a_time(app: App, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second volume is not decoded while the first is computed, but an image is let in between."""
    read: list[str] = []
    whole = "octlet.serve.answer.read_upload"
    from octlet.serve.predict import read_upload

    monkeypatch.setattr(whole, lambda upload: read.append(upload.name) or read_upload(upload))

    async def story() -> None:
        gate.open.clear()
        kind = {"content-type": "application/dicom"}
        first, second = (asyncio.create_task(ask(app, DICOM, headers=kind)) for _ in range(2))
        await entered(gate)
        image = asyncio.create_task(ask(app, encoded(SCANS[0])))
        for _ in range(20):
            await asyncio.sleep(0)
        assert read == ["scan.dcm"]
        gate.open.set()
        done, _ = await asyncio.wait((first, second, image), return_when=asyncio.FIRST_COMPLETED)
        assert image in done
        assert [(await each).status for each in (first, second, image)] == [200] * 3
        assert read == ["scan.dcm"] * 2

    asyncio.run(story())
