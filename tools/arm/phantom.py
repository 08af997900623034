"""Simulated scans and small model files for `make arm`, made once with the real commands and kept."""

import subprocess
import sys
from pathlib import Path

from arm.userland import PROJECT
from octlet.cli.ui import say
from octlet.core.bundle import open_bundle
from octlet.core.errors import ModelFileError, OctletError

DEMO = PROJECT / "demo/model.octlet"
# Enough to tell the classes apart: of one that guesses, every other image stands between two labels, and the
# integers' gate at export finds it (3 epochs on 80 scans: 99.0 % of labels the same, 99.5 % asked).
_SCANS = 320
_TRAINING = ("--model", "resnet18", "--size", "64", "--batch", "8", "--epochs", "8", "--lr", "0.001")
_IMAGES = 200  # on which export compares the engine with torch: the fewest that it takes


def scans(folder: Path) -> list[Path]:
    """Return 24 simulated scans of every class, of patients that no network here was trained on."""
    root = folder / "phantom/scans"
    if not root.exists():
        _octlet("data", "phantom", root.with_suffix(".part"), "--n", 24, "--seed", 11)
        root.with_suffix(".part").replace(root)
    return sorted(root.rglob("*.jpeg"))


def models(folder: Path) -> tuple[Path, ...]:
    """Return a float and an int8 model file: small ones, or in place of the float one what `make demo` left.

    One that this version of Octlet does not read any more is made again.
    """
    made = folder / "phantom"
    floats, integers = made / "float.octlet", made / "int8.octlet"
    if not (_readable(floats) and _readable(integers)):
        say("training a small network on simulated scans")
        run = made / f"run-{len(list(made.glob('run-*')))}"  # a verb writes over no run
        _octlet("data", "phantom", run / "scans", "--n", _SCANS, "--seed", 7)
        data = ("--data", run / "scans")
        _octlet("train", *data, "--out", run / "float", *_TRAINING)
        _octlet("quantize", run / "float", *data, "--method", "ptq", "--out", run / "int8")
        for out in (floats, integers):
            out.unlink(missing_ok=True)
            name = ("--name", f"phantom-{out.stem}", "--images", _IMAGES)
            _octlet("export", run / out.stem, "--out", out, *name)
    return (DEMO if _readable(DEMO) else floats), integers


def test_model(folder: Path) -> Path:
    """Return the model file that tests read where torch is not (OCTLET_TEST_MODEL)."""
    file = folder / "phantom/tiny.octlet"
    if not _readable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        _run(sys.executable, PROJECT / "tests/tiny.py", file)
    return file


def _readable(model: Path) -> bool:
    try:
        open_bundle(model)
    except ModelFileError:
        return False
    return True


def _octlet(*words: object) -> None:
    _run(sys.executable, "-m", "octlet", *words)


def _run(*words: object) -> None:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, cwd=PROJECT)
    if done.returncode:
        rule = f"'{' '.join(map(str, words[1:5]))} ...' ended with {done.returncode}: {done.stderr[-300:]}"
        raise OctletError(rule, remedy="see whether it works by itself")
