"""`octlet data` as a user runs it: files, tables, JSON, exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from octlet.cli.main import main
from octlet.core.labels import LABELS
from octlet.data.split import check_leaks, read_split

Run = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Forty scans of twenty patients under train and test, one patient in both, one copy, one conflict."""
    root = tmp_path / "scans"
    rng = np.random.default_rng(0)
    for number in range(40):
        label, patient = LABELS[number % 4], number // 8 * 4 + number % 4
        split = "test" if number >= 28 else "train"
        coarse = Image.fromarray(rng.integers(0, 200, (9, 9), dtype=np.uint8))
        size = (64, 64) if label == "DME" else (80, 48)
        path = root / split / label / f"{label}-{patient}-{number}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize(size, Image.Resampling.BICUBIC).save(path)
    copied = (root / "train/CNV/CNV-0-0.jpeg").read_bytes()
    (root / "test/CNV/CNV-99-1.jpeg").write_bytes(copied)
    (root / "train/NORMAL/NORMAL-98-1.jpeg").write_bytes((root / "train/DRUSEN/DRUSEN-2-2.jpeg").read_bytes())
    return root


def out(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def test_check_then_split_as_a_user(scans: Path, tmp_path: Path, octlet: Run) -> None:
    done = octlet("data", "check", scans, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The shape 64x64 tells the label: 10 of 10 such scans" in done.stdout
    assert "In more than one given split: 4 patients" in done.stdout
    assert "next: octlet data split octlet-check/index.csv" in done.stderr
    files = {file.name for file in (tmp_path / "octlet-check").iterdir()}
    assert files == {"index.csv", "audit.json", "audit.html"}
    done = octlet("data", "split", "octlet-check/index.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "same bytes labelled DRUSEN and NORMAL" in done.stdout
    assert f"next: octlet train --data {scans} --split octlet-check/split.csv" in done.stderr
    rows = read_split(tmp_path / "octlet-check/split.csv")
    check_leaks(rows)
    assert len(rows) == 42


def test_check_json_is_one_document_and_the_same_as_the_file(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(scans), "--out", str(tmp_path / "c"), "--json"]) == 0
    document = out(capsys)
    assert document == json.loads((tmp_path / "c/audit.json").read_text())
    assert document["scans"] == 42
    first = (tmp_path / "c/index.csv").read_bytes()
    main(["data", "check", str(scans), "--out", str(tmp_path / "c"), "--json"])
    assert (tmp_path / "c/index.csv").read_bytes() == first


def test_unreadable_scans_end_with_3_after_everything_is_written(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "train/CNV/CNV-50-1.jpeg").write_bytes(b"nothing")
    assert main(["data", "check", str(scans), "--out", str(tmp_path / "c")]) == 3
    assert "Unreadable: 1 scan." in capsys.readouterr().out
    assert (tmp_path / "c/audit.html").stat().st_size > 1000


def test_folds_and_keep_given(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "c/index.csv"
    main(["data", "check", str(scans), "--out", str(tmp_path / "c"), "--json"])
    capsys.readouterr()
    assert main(["data", "split", str(index), "--folds", "3", "--out", str(tmp_path / "f"), "--json"]) == 0
    result = out(capsys)
    assert result["near_duplicates_verified"] is True
    folds = [read_split(tmp_path / f"f/fold-{number}.csv") for number in range(3)]
    tested = [row.path for rows in folds for row in rows if row.split == "test"]
    assert len(tested) == len(set(tested)) == 40  # all but the two in conflict
    assert main(["data", "split", str(index), "--keep-given", "--out", str(tmp_path / "k.csv")]) == 0
    kept = read_split(tmp_path / "k.csv")
    assert {row.path.partition("/")[0] for row in kept if row.split == "test"} == {"test"}
    assert "in the given test split" in capsys.readouterr().out
    assert main(["data", "split", str(index), "--given", "--out", str(tmp_path / "g.csv")]) == 3
    assert "no scan has the given split 'val'" in capsys.readouterr().err  # as it is


@pytest.mark.parametrize("words", [["--folds", "3", "--test", "0.2"], ["--folds", "3", "--keep-given"]])
def test_two_ways_to_choose_the_test_set_are_refused(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "split", str(tmp_path / "index.csv"), *words]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_an_index_without_its_audit_is_split_with_a_note(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["data", "check", str(scans), "--out", str(tmp_path / "c")])
    index = tmp_path / "c/index.csv"
    index.write_text(index.read_text().replace("NORMAL-3-3", "NORMAL-3-333"))
    capsys.readouterr()
    assert main(["data", "split", str(index), "--json"]) == 0
    captured = capsys.readouterr()
    assert "audit.json is of another index" in captured.err
    assert json.loads(captured.out)["near_duplicates_verified"] is False
    (tmp_path / "c/audit.json").write_text("[]")
    assert main(["data", "split", str(index)]) == 3
    assert "not an audit" in capsys.readouterr().err


def test_errors_have_one_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "none"), "--json"]) == 3
    assert out(capsys)["error"]["code"] == "bad-input"  # type: ignore[index]
    assert main(["data", "split", str(tmp_path / "none.csv")]) == 3
    assert "none.csv: cannot be read" in capsys.readouterr().err


def test_phantom_is_read_by_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "phantoms"
    assert main(["data", "phantom", str(folder), "--n", "4", "--masks", "--json"]) == 0
    assert out(capsys)["scans"] == 4
    assert main(["data", "check", str(folder), "--out", str(tmp_path / "c"), "--json"]) == 0
    document = out(capsys)
    assert document["scans"] == 4
    assert document["unknown_patients"] == 0
    assert document["near"] == []
