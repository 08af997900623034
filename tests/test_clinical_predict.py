"""`octlet predict` on volumes: names, eyes and memory; nothing of a patient is ever shown or written."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import clinical_files as write
import numpy as np
import pytest
from easy import command
from PIL import Image
from pydicom.uid import generate_uid

from octlet.cli import predict as verb
from octlet.clinical.eye import JudgedVolume
from octlet.core.image import Prepared
from octlet.core.labels import LABELS, NOTICE
from octlet.data.phantom import simulate
from octlet.runtime.predictor import Predictor
from octlet.watch.content import Content
from octlet.watch.judge import judge

SENTINEL = "QQSENTINEL"
DATE = "19410203"


def phantoms(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    whole = (simulate(LABELS[k % 4], rng, shape=(496, 512)).pixels for k in range(count))
    return np.stack([np.asarray(Image.fromarray(each).resize((112, 96))) for each in whole])


SCANS = phantoms(5)


@pytest.fixture
def salt(tmp_path: Path) -> Path:
    file = tmp_path / "salt.bin"
    file.write_bytes(bytes(range(40)))
    return file


def named_patient(pixels: np.ndarray, **elements: Any) -> bytes:
    """A DICOM file with a sentinel in all that tells of a person, and a value that pydicom warns of."""
    made = write.dataset(pixels)
    for keyword in ("PatientName", "OtherPatientNames", "ReferringPhysicianName", "OperatorsName"):
        setattr(made, keyword, f"{SENTINEL}^{keyword}")
    texts = (
        "PatientID AccessionNumber StudyDescription SeriesDescription PatientComments InstitutionName StudyID"
    )
    for keyword in texts.split():
        setattr(made, keyword, f"{SENTINEL}{keyword}"[:16])
    for keyword in ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(made, keyword, DATE)
    made.StudyInstanceUID = made.SeriesInstanceUID = generate_uid()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return write.dicom(made).replace(made.SeriesInstanceUID[:9].encode(), SENTINEL[:9].encode())


def predict(model: Path, *words: object) -> tuple[int, dict[str, Any], str]:
    code, out, err = command("predict", "-m", model, *words, "--json")
    assert "Traceback" not in err
    return code, json.loads(out), err


def test_dicom_of_one_frame_under_another_name_keeps_its_eye(model_file: Path, tmp_path: Path) -> None:
    data = write.dicom(write.dataset(SCANS[:1], ImageLaterality="L", StudyInstanceUID="1.2"))
    (tmp_path / "a.tif").write_bytes(data)
    code, document, _ = predict(model_file, tmp_path / "a.tif")
    assert code == 0
    assert [eye["eye"] for eye in document["eyes"]] == ["L"]
    judged = judge(Predictor.open(model_file), Content("", len(data), data), "a.tif", beat=lambda: None)
    assert [eye.eye for eye in judged.eyes] == ["L"]


def test_a_volume(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.dcm"
    file.write_bytes(write.dicom(write.dataset(SCANS, ImageLaterality="R", StudyInstanceUID="1.2")))
    code, document, _ = predict(model_file, file)
    assert code == 0
    assert [each["file"] for each in document["predictions"]] == [f"{file}#{k}" for k in range(1, 6)]
    (eye,) = document["eyes"]
    assert (eye["files"], eye["eye"], eye["subject"], eye["scans"]) == ([str(file)], "R", None, 5)
    for k, pixels in enumerate(SCANS):
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    _, alone, _ = predict(model_file, *(tmp_path / f"{k}.png" for k in range(5)))
    for one, other in zip(document["predictions"], alone["predictions"], strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert alone["eyes"] == []


def test_as_a_person_reads_it(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(write.tiff(list(SCANS)))
    Image.fromarray(SCANS[0]).save(tmp_path / "one.tif")
    code, out, _ = command("predict", "-m", model_file, file, tmp_path / "one.tif", "--most-urgent", 2)
    assert code == 0
    assert out.startswith(f"{file}, eye: ")
    assert "5 B-scans, " in out
    assert "and 3 more" in out
    assert out.count("a.tif#") >= 2
    assert f"{tmp_path / 'one.tif'}  " in out
    assert "one.tif#" not in out
    assert out.endswith(f"{NOTICE}\n")


def test_both_eyes_and_the_files_of_a_series(model_file: Path, tmp_path: Path) -> None:
    for k, pixels in enumerate(SCANS):
        series = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "InstanceNumber": k}
        made = write.dataset(pixels[None], Laterality="R", **series)
        (tmp_path / f"IM{k}").write_bytes(write.dicom(made))  # as archives name them
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "IM0").read_bytes())
    (tmp_path / "x.e2e").write_bytes(write.e2e({(1, 1, 1): np.full((2, 32, 32), 60 << 10)}, {1: "L"}))
    code, document, _ = predict(model_file, tmp_path)
    assert code == 0
    assert {(each["eye"], len(each["files"]), each["scans"]) for each in document["eyes"]} == {
        ("R", 5, 5),
        ("L", 1, 2),
    }
    assert len(document["predictions"]) == 7


def test_heatmaps_and_tables(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(write.tiff(list(SCANS)))
    maps, rows = tmp_path / "maps", tmp_path / "out.csv"
    code, document, _ = predict(model_file, file, "--heatmap", maps, "--csv", rows)
    assert code == 0
    assert [each["heatmap"] for each in document["predictions"]] == [
        str(maps / "a" / f"{k:04d}.heatmap.png") for k in range(1, 6)
    ]
    assert {path.name for path in (maps / "a").iterdir()} == {f"{k:04d}.heatmap.png" for k in range(1, 6)}
    with rows.open() as opened:
        assert [row["file"] for row in csv.DictReader(opened)] == [f"{file}#{k}" for k in range(1, 6)]


def test_scans_that_cannot_be_used_do_not_spoil_a_volume(model_file: Path, tmp_path: Path) -> None:
    pixels = SCANS.copy()
    pixels[1] = 255
    (tmp_path / "a.dcm").write_bytes(write.dicom(write.dataset(pixels)))
    (tmp_path / "b.dcm").write_bytes(b"damaged")
    code, document, err = predict(model_file, tmp_path / "a.dcm", tmp_path / "b.dcm")
    assert code == 3
    assert {each["file"] for each in document["errors"]} == {f"{tmp_path}/a.dcm#2", f"{tmp_path}/b.dcm"}
    assert document["eyes"][0]["scans"] == 5
    assert document["eyes"][0]["refused"] >= 1
    assert "2 unreadable, 4 predicted" in err


def test_no_more_than_a_batch_is_prepared_at_a_time(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 3 * verb.BATCH + 1
    (tmp_path / "a.dcm").write_bytes(write.dicom(write.dataset(np.repeat(SCANS[:1], count, axis=0))))
    batches: list[int] = []
    score = Predictor.score

    def counted(self: Predictor, prepared: list[Prepared]) -> Any:
        batches.append(len(prepared))
        return score(self, prepared)

    monkeypatch.setattr(Predictor, "score", counted)
    _, document, _ = predict(model_file, tmp_path / "a.dcm")
    assert len(document["predictions"]) == count
    assert batches == [verb.BATCH] * 3 + [1]
    assert not any(hasattr(JudgedVolume, name) for name in ("scans", "pixels"))


@pytest.mark.parametrize("pseudonym", [True, False])
def test_nothing_of_a_patient_is_shown_or_written(
    pseudonym: bool, model_file: Path, tmp_path: Path, salt: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scans = tmp_path / (SENTINEL if pseudonym else "scans")
    scans.mkdir()
    prefix = SENTINEL if pseudonym else "file"
    (scans / f"{prefix}1.dcm").write_bytes(named_patient(SCANS[:2], ImageLaterality="R"))
    (scans / f"{prefix}2.dcm").write_bytes(named_patient(SCANS[:1])[:900])
    (scans / f"{prefix}3.vol").write_bytes(write.vol(SCANS[:2] / np.float32(256), patient=SENTINEL))
    codes = np.full((2, 64, 64), 60 << 10)
    (scans / f"{prefix}4.e2e").write_bytes(
        write.e2e({(1, 1, 1): codes, (1, 1, 2): codes}, {1: "R", 2: "L"}, SENTINEL)
    )
    (scans / f"{prefix}5.fda").write_bytes(write.fda(SCANS[:2], patient=SENTINEL))
    Image.fromarray(SCANS[0]).save(scans / f"{prefix}6.png")
    Image.fromarray(SCANS[0]).save(scans / f"{prefix}7.png")
    (scans / f"{prefix}8.jpeg").write_text("no image")
    (scans / f"{prefix}empty").mkdir()
    out = tmp_path / "out"
    words = ["--csv", out / "p.csv", "--heatmap", out / "maps", *(("--pseudonym", salt) if pseudonym else ())]
    written = ""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for form in ([], ["--json"]):
            code, stdout, stderr = command(
                "predict", "-m", model_file, scans, scans / f"{prefix}empty", *words, *form
            )
            assert code == 3
            written += stdout + stderr
    document = json.loads(stdout)
    assert len(document["predictions"]) == 12
    written += "".join(capfd.readouterr()) + (out / "p.csv").read_text()
    for path in out.rglob("*"):
        written += str(path.relative_to(tmp_path))
        if path.suffix == ".png":
            written += path.read_bytes().decode("latin-1")
    for told in (SENTINEL, SENTINEL[:9], DATE, "1941", "First", "Last"):
        assert told not in written, told
    names = [each["file"] for each in document["predictions"]]
    assert len(set(names)) == len(names)
    if pseudonym:
        assert [each["file"] for each in document["errors"]] == ["argument-2", "input-2", "input-8"]
        assert str(scans) not in written


def test_pseudonyms_are_the_same_again_and_only_under_the_same_salt(
    model_file: Path, tmp_path: Path, salt: Path
) -> None:
    file = tmp_path / "a.dcm"
    file.write_bytes(write.dicom(write.dataset(SCANS[:1], PatientID="17", Laterality="L")))

    def subject() -> str:
        _, document, _ = predict(model_file, file, "--pseudonym", salt)
        (eye,) = document["eyes"]
        assert document["predictions"][0]["file"] == f"{eye['subject']}-L-1#1"
        return str(eye["subject"])

    first = subject()
    assert first == subject()
    salt.write_bytes(bytes(range(100, 140)))
    assert subject() != first


@pytest.mark.parametrize("content", [None, b"", b"short", bytes(64), bytes(range(256)) * 20])
def test_a_salt_that_is_none(content: bytes | None, model_file: Path, tmp_path: Path) -> None:
    salt = tmp_path / "salt"
    if content is not None:
        salt.write_bytes(content)
    code, out, _ = command("predict", "-m", model_file, tmp_path, "--pseudonym", salt, "--json")
    assert code == 2
    assert "head -c 32 /dev/urandom" in json.loads(out)["error"]["remedy"]
    assert salt.exists() == (content is not None)
