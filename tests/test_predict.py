"""`octlet predict` and `octlet verify` as a user meets them."""

import csv
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import Run
from PIL import Image

from octlet.cli.main import main
from octlet.core.image import MAX_BYTES
from octlet.core.labels import LABELS, NOTICE, URGENCY
from octlet.core.prediction import CSV_COLUMNS
from octlet.data.phantom import simulate
from octlet.runtime import shipped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good scans in three folders, six bad files, and what is to be left out."""
    root = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for i, place in enumerate(["a", "a", "b", "b", "b", "", "", "", "", ""]):
        (root / place).mkdir(exist_ok=True)
        pixels = simulate(LABELS[i % 4], rng, shape=(496, 512)).pixels
        Image.fromarray(pixels).save(
            root / place / f"scan-{i % 2 if place else i}.{('jpeg', 'PNG', 'bmp')[i % 3]}"
        )
    good = sorted(root.rglob("scan*"))
    (root / "text.jpeg").write_text("a renamed text\n")
    (root / "zero.png").touch()
    (root / "cut.jpeg").write_bytes(next(p for p in good if p.suffix == ".jpeg").read_bytes()[:9000])
    Image.new("L", (64, 64), 255).save(root / "b" / "white.png")
    with (root / "huge.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse
    Image.new("L", (4, 4)).save(root / "tiny.png")
    (root / "notes.txt").write_text("not an image, and not named like one")
    (root / ".hidden").mkdir()
    for hidden in (root / ".hidden" / "x.png", root / ".y.png"):
        hidden.write_bytes(b"hidden")
    (root / "link").symlink_to(root)
    return root


BAD = {"text.jpeg", "zero.png", "cut.jpeg", "white.png", "huge.png", "tiny.png"}


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    return folder / "scan-6.jpeg"


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_one_scan(model_file: Path, one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "predict", "-m", model_file, one)
    assert code == 0
    header, _, row, blank, notice = out.splitlines()
    assert header.split() == ["file", "label", "urgency", *LABELS]
    file, label, urgency, *shares = row.split()
    assert (file, urgency) == (str(one), URGENCY[label])
    assert sum(map(float, shares)) == pytest.approx(1, abs=0.002)
    assert (blank, notice) == ("", NOTICE)
    assert err.startswith("next: octlet evaluate ")


def test_a_folder_with_bad_files(
    model_file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "new" / "out.csv"
    code, out, err = run(capsys, "predict", "-m", model_file, folder, "--json", "--csv", table)
    assert code == 3
    document = json.loads(out)
    assert set(document) == {"notice", "model", "eyes", "predictions", "errors"}
    assert (document["notice"], document["model"]["name"]) == (NOTICE, "tiny")
    assert {Path(each["file"]).name for each in document["errors"]} == BAD
    assert all(
        each["message"] and each["remedy"] and each["code"] == "bad-input" for each in document["errors"]
    )
    for name in BAD:
        assert sum(name in line for line in err.splitlines()) == 1
    assert "6 unreadable, 10 predicted" in err

    predictions = document["predictions"]
    expected = {str(path) for path in folder.rglob("scan*") if "link" not in path.parts}
    assert len(predictions) == len(expected) == 10
    assert {each["file"] for each in predictions} == expected
    for each in predictions:
        assert max(each["probabilities"], key=each["probabilities"].get) == each["label"]
        assert each["urgency"] == URGENCY[each["label"]]
        assert sum(each["probabilities"].values()) == pytest.approx(1, abs=1e-5)

    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [each["file"] for each in predictions]
    assert {row["notice"] for row in rows} == {NOTICE}
    assert tuple(rows[0]) == CSV_COLUMNS
    shares = [[float(row[f"p_{label}"]) for label in LABELS] for row in rows]
    assert shares == [list(each["probabilities"].values()) for each in predictions]


def test_a_folder_says_what_its_scans_say_alone(
    model_file: Path, folder: Path, one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    together = json.loads(run(capsys, "predict", "-m", model_file, folder, "--json")[1])["predictions"]
    (alone,) = json.loads(run(capsys, "predict", "-m", model_file, one, "--json")[1])["predictions"]
    assert alone in together


def test_single_faults(
    model_file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        folder / "absent.png": "no such file",
        folder / "text.jpeg": "not a readable",
        folder / "zero.png": "the file is empty",
        folder / "cut.jpeg": "cut short",
        folder / "huge.png": "over the limit of 64 MiB",
        folder / "b" / "white.png": "white throughout",
        folder / "notes.txt": "not a readable",
        tmp_path / "empty": "no image in this folder",
    }
    for path, rule in cases.items():
        code, out, err = run(capsys, "predict", "-m", model_file, path)
        assert (code, out) == (3, "")
        first = err.splitlines()[0]
        assert first.startswith(f"octlet: {path}: ")
        assert rule in first
        code, out, _ = run(capsys, "predict", "-m", model_file, path, "--json")
        assert code == 3
        assert rule in json.loads(out)["errors"][0]["message"]


def test_the_model_file_is_named_or_in_the_environment_or_came_with_octlet(
    model_file: Path, one: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OCTLET_MODEL", raising=False)
    monkeypatch.setattr(shipped, "SHIPPED", model_file.with_name("absent.octlet"))
    for verb in (["predict", one], ["verify"]):
        code, _, err = run(capsys, *verb)
        assert code == 2
        assert "OCTLET_MODEL" in err
    monkeypatch.setattr(shipped, "SHIPPED", model_file)
    assert run(capsys, "verify")[0] == 0
    code, out, _ = run(capsys, "predict", one, "--json")
    assert code == 0
    assert json.loads(out)["model"]["name"] == "tiny"
    monkeypatch.setattr(shipped, "SHIPPED", model_file.with_name("absent.octlet"))
    monkeypatch.setenv("OCTLET_MODEL", str(model_file))
    assert run(capsys, "predict", one)[0] == 0
    code, out, err = run(capsys, "predict", "-m", one, one, "--json")
    assert code == 4
    assert json.loads(out)["error"]["code"] == "bad-model-file"
    assert run(capsys, "predict", "-m", "absent.octlet", one)[0] == 4


def test_heatmaps(model_file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "maps"
    code, out, _ = run(capsys, "predict", "-m", model_file, folder, "--heatmap", place, "--json")
    assert code == 3
    predictions = json.loads(out)["predictions"]
    written = {Path(each["heatmap"]) for each in predictions}
    assert written == set(place.iterdir())
    assert len(written) == 10  # scan-0 and scan-1 stand in two folders
    for each in predictions:
        scan, heatmap = Image.open(each["file"]), Image.open(each["heatmap"])
        assert heatmap.size == scan.size
        assert each["label"] in heatmap.text["Description"]  # type: ignore[attr-defined]
        assert Path(each["heatmap"]).name.startswith(Path(each["file"]).stem)


def test_outputs_that_would_do_harm(
    model_file: Path, folder: Path, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = one.read_bytes()
    (tmp_path / "dir.csv").mkdir()
    for options in (
        ("--csv", one),
        ("--csv", tmp_path / "dir.csv"),
        ("--csv", one / "below a file.csv"),
        ("--heatmap", one),
        ("--heatmap", one / "below a file"),
        ("--threads", 0),
    ):
        code, out, err = run(capsys, "predict", "-m", model_file, one, *options)
        assert (code, out) == (2, ""), err
    code, _, err = run(capsys, "predict", "-m", model_file, folder, "--heatmap", folder / "maps")
    assert code == 2
    assert "would read the heatmaps" in err
    assert one.read_bytes() == before
    assert not (folder / "maps").exists()


def test_an_existing_table_is_replaced_whole(
    model_file: Path, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "out.csv"
    table.write_text("old\n" * 1000)
    assert run(capsys, "predict", "-m", model_file, one, "--csv", table)[0] == 0
    assert len(table.read_text().splitlines()) == 2
    assert list(tmp_path.iterdir()) == [table]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_names_that_are_not_text(
    model_file: Path, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (b"caf\xe9.jpeg", b"two\nlines \x1b[31m.jpeg"):
        shutil.copy(os.fsencode(one), os.fsencode(tmp_path) + b"/" + name)
    maps = tmp_path.parent / f"{tmp_path.name}-maps"
    table = maps / "out.csv"
    code, out, _ = run(capsys, "predict", "-m", model_file, tmp_path, "--heatmap", maps, "--csv", table)
    assert code == 0
    assert len(out.splitlines()) == 6
    assert "caf\ufffd.jpeg" in out
    assert "\x1b" not in out
    assert len(table.read_text(encoding="utf-8").splitlines()) == 3
    assert {path.name for path in maps.glob("*.png")} == {
        "caf\ufffd.heatmap.png",
        "two\ufffdlines \ufffd[31m.heatmap.png",
    }


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_goes_away(model_file: Path, one: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "octlet", "predict", "-m", str(model_file), str(one), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait() == 1, err  # click's answer to EPIPE
        assert err == ""  # no traceback, no "Exception ignored"


def test_predict_imports_no_training_library(
    model_file: Path, one: Path, folder: Path, tmp_path: Path
) -> None:
    script = """
import sys
from octlet.cli.main import main
assert main(sys.argv[1:]) in (0, 3)
heavy = {"torch", "matplotlib", "onnx", "onnxscript", "safetensors", "sklearn", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    predict = ["predict", "-m", model_file, one, "--heatmap", tmp_path, "--csv", tmp_path / "x.csv"]
    for args in (["predict", "--help"], predict, ["verify", model_file]):
        command = [sys.executable, "-c", script, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


SLOW = {"asyncio", "concurrent.futures", "email", "http", "importlib.metadata", "multiprocessing", "random"}
SLOW |= {"numpy.ma", "numpy.random", "numpy.testing", "sqlite3", "ssl", "tempfile", "tomllib", "unittest"}


def test_one_scan_is_predicted_without_slow_imports(model_file: Path, one: Path) -> None:
    """From a standing start most of the time goes into imports; benchmarks/cold_start.py measures it."""
    script = """
import sys
from octlet.cli.main import main
assert main(sys.argv[1:]) == 0
print(*sys.modules)
"""
    command = [sys.executable, "-c", script, "predict", "-m", model_file, one]
    out = subprocess.check_output(list(map(str, command)), text=True)
    imported = set(out.splitlines()[-1].split())
    assert not imported & SLOW
    rooms = {name for name in imported if name.startswith("octlet.") and name.count(".") == 1}
    assert rooms == {"octlet.cli", "octlet.clinical", "octlet.core", "octlet.runtime"}
    verbs = {name.rpartition(".")[2] for name in imported if name.startswith("octlet.cli.")}
    assert verbs == {"main", "options", "predict", "scans", "ui"}
    readers = {name.rpartition(".")[2] for name in imported if name.startswith("octlet.clinical.")}
    assert readers == {"read", "volume"}


@pytest.mark.parametrize(("verb", "taken_apart"), [("predict", False), ("verify", True)])
def test_the_process_ends_when_the_scan_is_predicted(
    model_file: Path, one: Path, verb: str, taken_apart: bool
) -> None:
    """What it printed is whole, and its exit code is that of the verb."""
    script = """
import atexit, runpy, sys
atexit.register(print, "taken apart")
print("before", end=" ")
runpy.run_module("octlet", run_name="__main__")
"""
    words = {"predict": ["-m", model_file, one], "verify": [model_file]}[verb]
    command = [sys.executable, "-c", script, verb, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("before ")
    assert lines[-1] == ("taken apart" if taken_apart else NOTICE)
    assert done.stderr.startswith("next: ")


def test_a_damaged_note_beside_the_picture_is_no_talk(octlet: Run, model_file: Path, tmp_path: Path) -> None:
    """Pillow warns of it with a path of this machine."""
    data = io.BytesIO()
    Image.fromarray(simulate("NORMAL", np.random.default_rng(0)).pixels).save(
        data, "TIFF", description="x" * 40
    )
    damaged, entry = bytearray(data.getvalue()), struct.pack("<HHI", 270, 2, 41)
    assert damaged.count(entry) == 1
    struct.pack_into("<I", damaged, damaged.index(entry) + 4, 10**6)  # it would end after the file
    (tmp_path / "a.tif").write_bytes(damaged)
    done = octlet("predict", "-m", model_file, tmp_path / "a.tif")
    assert (done.returncode, done.stderr.splitlines()[1:]) == (0, [])
    assert done.stderr.startswith("next: ")


def test_a_closed_output_is_no_fault(octlet: Run, model_file: Path, one: Path) -> None:
    done = octlet("predict", "-m", model_file, one, preexec_fn=lambda: os.close(1))
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


# octlet verify ----------------------------------------------------------------------------------------


def test_verify_a_sound_file(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "verify", model_file)
    assert code == 0
    assert out.splitlines()[0].split() == ["check", "measured", "allowed", "result"]
    assert all(line.endswith("ok") for line in out.splitlines()[2:])
    assert err.startswith("next: octlet predict")
    document: dict[str, Any] = json.loads(run(capsys, "verify", model_file, "--json")[1])
    assert document["passed"]
    assert document["notice"] == NOTICE
    assert len(document["checks"]) == len(out.splitlines()) - 2


def test_verify_tells_another_result_from_a_damaged_file(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.write_lying(model_file, tmp_path / "m.octlet")
    code, out, err = run(capsys, "verify", path)
    assert code == 5
    assert "FAILED" in out
    assert "2 of 14 checks failed" in err
    code, out, _ = run(capsys, "verify", path, "--json")
    assert code == 5
    assert json.loads(out)["passed"] is False  # one document, also on failure

    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert run(capsys, "verify", path)[0] == 4
    path.write_bytes(damaged[:1000])
    assert run(capsys, "verify", path)[0] == 4
    code, out, _ = run(capsys, "verify", tmp_path / "absent", "--json")
    assert code == 4
    assert json.loads(out)["error"]["message"] == "no such model file"
