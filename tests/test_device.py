"""The device's installation: everything that reads a model file works where torch was never installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from octlet.core.labels import LABELS, NOTICE
from octlet.data.phantom import simulate

PYTHON = os.environ.get("OCTLET_DEVICE_PYTHON", "")

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="OCTLET_DEVICE_PYTHON names no Python of an environment without torch"
)


def device(*args: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    python = Path(PYTHON).absolute()  # not resolved: the link tells the environment
    return subprocess.run([python, *map(str, args)], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    rng = np.random.default_rng(11)
    for label in LABELS:
        Image.fromarray(simulate(label, rng, shape=(496, 768)).pixels).save(folder / f"{label}.png")
    return folder


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxscript", "safetensors", "matplotlib", "scipy"])
def test_training_libraries_are_not_there(tmp_path: Path, package: str) -> None:
    done = device("-c", f"import {package}", cwd=tmp_path)
    assert done.returncode == 1
    assert f"No module named '{package}'" in done.stderr


def test_verify(model_file: Path, tmp_path: Path) -> None:
    done = device("-m", "octlet", "verify", model_file, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["passed"]


def test_the_same_bytes_give_the_same_array(scans: Path, tmp_path: Path) -> None:
    """The device's preprocessing, on its own numpy and Pillow, against the training side's: bit for bit."""
    files = sorted(map(str, scans.iterdir()))
    show = (
        "import hashlib, sys; from octlet.core.image import normalise, prepare, read_scan\n"
        "for name in sys.argv[1:]:\n"
        "    array = normalise(prepare(read_scan(name), 96).pixels[None])\n"
        "    print(array.shape, array.dtype, hashlib.sha256(array.tobytes()).hexdigest())"
    )
    there = device("-c", show, *files, cwd=tmp_path)
    here = subprocess.run([sys.executable, "-c", show, *files], capture_output=True, text=True)
    assert there.stdout == here.stdout
    assert there.stdout.count("(1, 1, 96, 96) float32") == len(files)


def test_predict_says_what_the_training_machine_says(
    model_file: Path, scans: Path, tmp_path: Path, octlet: "object"
) -> None:
    words = ("predict", "-m", model_file, scans, "--json", "--csv", "out.csv", "--heatmap", "maps")
    done = device("-m", "octlet", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert there["notice"] == NOTICE
    here = json.loads(octlet(*words[:5]).stdout)  # type: ignore[operator]
    for a, b in zip(there["predictions"], here["predictions"], strict=True):
        assert (a["file"], a["label"]) == (b["file"], b["label"])
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-4)
    assert len(list((tmp_path / "maps").glob("*.heatmap.png"))) == 4
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 5


def test_bad_files_and_missing_extras_are_told_clearly(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpeg").write_text("no image")
    done = device("-m", "octlet", "predict", "-m", model_file, "text.jpeg", cwd=tmp_path)
    assert done.returncode == 3
    done = device("-m", "octlet", "export", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "octlet[train]" in done.stderr
    assert "Traceback" not in done.stderr
