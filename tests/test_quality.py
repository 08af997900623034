"""Whether a scan can be judged at all."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from octlet.core.image import padding_mask
from octlet.core.layout import levels_of, upright_of
from octlet.core.quality import UPRIGHT, measure
from octlet.data.phantom import simulate


def phantom():
    return simulate("NORMAL", np.random.default_rng(3), shape=(496, 768)).pixels


def test_a_phantom_is_fair():
    assert measure(phantom()).fault is None


def test_what_is_wrong_with_a_scan():
    scan = phantom()
    rng = np.random.default_rng(0)
    tissue = int(np.argmax(np.where(padding_mask(scan), 0, scan).mean(axis=1)))
    noisy = np.clip(scan * 0.1 + rng.normal(80, 40, scan.shape), 0, 255).astype(np.uint8)
    half = scan.copy()
    half[:, : int(0.9 * scan.shape[1])] = 12
    bright = scan.copy()
    bright[tissue : tissue + 40, 50:-50] = 255
    faults = {
        "blank": np.full((100, 100), 30, np.uint8),
        "white": np.full((100, 100), 255, np.uint8),
        "noisy": noisy,
        "cut": scan[tissue:],
        "empty": half,
        "saturated": bright,
        "turned": np.rot90(scan, 2),
        "mirrored": scan[::-1],
    }
    words = {name: measure(image).fault for name, image in faults.items()}
    assert "blank" in words["blank"]
    assert "blank" in words["white"]
    assert "noisy" in words["noisy"]
    assert "cut off" in words["cut"]
    assert "empty" in words["empty"]
    assert "saturated" in words["saturated"]
    assert "upside down" in words["turned"]
    assert "upside down" in words["mirrored"]


def test_only_the_outermost_rows_tell_that_a_scan_is_cut():
    scan = np.full((400, 600), 12, np.uint8)
    scan[200:215] = 60
    tissue = np.random.default_rng(0).integers(50, 90, (12, 600))  # of one level it would be padding
    for first, share in ((8, 0.0), (0, 1.0)):  # 2 % of the height are 8 rows
        near = scan.copy()
        near[first : first + 12] = tissue
        assert measure(near).cut == share


@pytest.mark.parametrize("rows", [7, 8, 9])
def test_a_scan_of_a_row_or_two_in_white_padding_is_measured(rows):
    gray = np.full((64, 64), 255, np.uint8)
    gray[30 : 30 + rows] = 60
    assert (~padding_mask(gray)).any(axis=1).sum() == rows - 6  # the rim of the padding is padding
    assert measure(gray).fault is not None


def test_a_bright_fringe_does_not_make_the_rest_empty():
    scan = np.full((400, 600), 12, np.uint8)
    scan[200:215] = 60
    scan[:, 0] = 240  # what compression leaves of white padding at a side
    assert measure(scan).empty < 0.1


def test_the_noise_is_that_which_was_added():
    """Immerkaer's estimate on a smooth picture, whose noise is all that was added."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 200, 400)[:, None] + np.zeros((400, 600))
    smooth = np.asarray(Image.fromarray(ramp.astype(np.uint8)).filter(ImageFilter.GaussianBlur(3)), float)
    for sigma in (4.0, 8.0):
        found = measure(np.clip(smooth + rng.normal(0, sigma, smooth.shape), 0, 255).astype(np.uint8))
        assert found.noise * found.contrast == pytest.approx(sigma, rel=0.1)


def columns(*grey):
    """Return a picture of 64 x 32 pixels, a block each; all columns have these grey levels."""
    return np.repeat(np.pad(np.array(grey, np.uint8), (20, 44 - len(grey)))[:, None], 32, axis=1)


def test_upright_is_how_much_more_sharply_tissue_begins_than_ends():
    assert upright_of(levels_of(columns(200, 200, 200))) == pytest.approx(0, abs=1e-6)
    fading = upright_of(levels_of(columns(100, 75, 50, 25)))  # clipped at 50, half of the contrast
    assert fading == pytest.approx((50**3 - 2 * 25**3) / (50**3 + 2 * 25**3), abs=1e-4)
    assert upright_of(levels_of(columns())) == 0


@pytest.mark.parametrize("label", ["CNV", "DME", "DRUSEN", "NORMAL"])
@pytest.mark.parametrize("seed", range(5))
def test_phantoms_are_told_from_those_upside_down(label, seed):
    scan = simulate(label, np.random.default_rng(seed)).pixels
    found, turned = measure(scan).upright, measure(scan[::-1]).upright
    assert found > -UPRIGHT
    assert turned == pytest.approx(-found, abs=0.05)  # the rim of the padding is another


@given(st.integers(16, 40), st.integers(16, 40), st.integers(0, 2**32 - 1))
def test_any_image_can_be_measured(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    found = measure(image)
    assert all(math.isfinite(value) for value in found.as_dict().values())
    assert 0 <= found.saturated <= 1
    assert 0 <= found.cut <= 1
    assert 0 <= found.empty <= 1
    assert -1 <= found.upright <= 1
