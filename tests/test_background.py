"""An engine that is loaded while the first scan is read."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Run

from octlet.core.bundle import ONNX, Bundle, open_bundle, write_bundle
from octlet.core.errors import ModelFileError, UsageError
from octlet.runtime.predictor import Predictor

SCAN = np.random.default_rng(0).integers(0, 200, (90, 120), dtype=np.uint8)


def test_it_computes_the_same(model_file: Path) -> None:
    early, late = Predictor.opening(model_file, threads=1), Predictor.open(model_file, threads=1)
    one, other = (each.run([SCAN]) for each in (early, late))
    np.testing.assert_array_equal(one.logits, other.logits)
    assert early.identity == late.identity


def test_what_loading_raised_comes_from_each_computation(model_file: Path, tmp_path: Path) -> None:
    bundle = open_bundle(model_file)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(tmp_path / "x.octlet", bundle.manifest, files | {ONNX: b"no"})
    predictor = Predictor.opening(tmp_path / "x.octlet")
    for _ in range(2):
        with pytest.raises(ModelFileError, match="not a network"):
            predictor.run([SCAN])


def test_an_engine_that_is_not_there_is_told_at_once(model_file: Path) -> None:
    with pytest.raises(UsageError, match="unknown engine"):
        Predictor.opening(model_file, engine="abacus")


def test_a_process_that_ends_before_the_engine_is_loaded_ends_well(
    octlet: Run, model_file: Path, tmp_path: Path
) -> None:
    scan = tmp_path / "scan.png"
    scan.write_bytes(b"no image")
    done = octlet("predict", "-m", model_file, scan)
    assert (done.returncode, done.stdout) == (3, "")


def test_pillow_is_left_until_the_engine_loads(model_file: Path) -> None:
    """Two threads that import share the interpreter; one that builds a network leaves it to the other."""
    script = """
import sys
from octlet.runtime import predictor
predictor.BackgroundEngine = lambda *_: print("onnxruntime" in sys.modules, "PIL" in sys.modules)
predictor.Predictor.opening(sys.argv[1], threads=1)
"""
    command = [sys.executable, "-c", script, str(model_file)]
    assert subprocess.check_output(command, text=True).split() == ["True", "False"]


def test_the_network_is_read_once(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(bundle: Bundle, name: str) -> bytes:
        raise AssertionError(name)

    expected = Predictor.open(model_file, threads=1).run([SCAN])
    monkeypatch.setattr(Bundle, "read", read)
    for opening in (Predictor.open, Predictor.opening):
        np.testing.assert_array_equal(opening(model_file, threads=1).run([SCAN]).logits, expected.logits)
