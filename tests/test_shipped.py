"""The model file that comes with the package: whole, small, honest of itself, taken where none is named."""

import io
import json
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from easy import command, result_of
from PIL import Image

from octlet.core.bundle import ONNX, open_bundle
from octlet.core.labels import LABELS, NOTICE
from octlet.data.phantom import simulate
from octlet.pi.wheels import own_wheel
from octlet.runtime.shipped import SHIPPED, shipped

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bundle():
    return open_bundle(shipped())


def test_it_is_small_and_computes_here_what_it_computed_there(bundle):
    assert bundle.path.stat().st_size < 8_000_000
    report = result_of("verify")
    assert report["passed"]
    assert bundle.manifest.name == bundle.path.stem == "oct4-pi5"


def test_its_card_tells_what_it_is_and_what_it_is_not(bundle):
    card, manifest = bundle.read("README.md").decode(), bundle.manifest
    assert NOTICE in card
    assert "CC BY 4.0" in card
    assert "trained on all of\nthem and tested on no others" in card
    assert (manifest.training["data"]["scans"], manifest.training["data"]["patients"]) == (722, 516)
    assert manifest.trust is not None
    figures = json.loads((REPOSITORY / "docs/results/release/metrics.json").read_text())
    told = manifest.metrics["cross_validation"]
    for name in ("accuracy", "balanced_accuracy", "macro_auc"):
        assert told[name] == figures[name]
    notes = (REPOSITORY / "recipes/pi5-notes.md").read_text().strip()
    assert f"## Notes\n{notes}\n" in card


def test_a_scan_is_predicted_without_naming_it(tmp_path):
    pixels = simulate("NORMAL", np.random.default_rng(0)).pixels
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    document = result_of("predict", tmp_path / "scan.png")
    (prediction,) = document["predictions"]
    assert document["model"]["name"] == "oct4-pi5"
    assert prediction["label"] in LABELS
    assert sum(prediction["probabilities"].values()) == pytest.approx(1)
    code, out, _ = command("doctor", "--json")
    assert code in (0, 1)  # whatever this machine lacks
    assert str(SHIPPED) in out


def test_it_is_in_the_wheel(bundle, tmp_path):
    with zipfile.ZipFile(own_wheel(tmp_path, [])) as wheel:
        packed = wheel.read("octlet/models/oct4-pi5.octlet")
    assert packed == bundle.path.read_bytes()
    assert files("octlet.models").joinpath("oct4-pi5.octlet").is_file()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert ONNX in archive.namelist()
