"""Each corruption against another way to compute it: scipy, Pillow, a closed form, loops."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats

from octlet.core.errors import UsageError
from octlet.core.image import Gray
from octlet.data import corruption
from octlet.data.corruption import CORRUPTIONS, SEVERITIES, corrupt, disc, streak
from octlet.data.phantom import simulate


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def scan() -> Gray:
    return simulate("DRUSEN", rng(1)).pixels


def error(one: Gray, other: Gray) -> float:
    return float(np.sqrt(np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_step_takes_more_of_the_scan_away(name: str, scan: Gray) -> None:
    losses = []
    for severity in SEVERITIES:
        found = corrupt(scan, name, severity, rng())
        assert (found.shape, found.dtype) == (scan.shape, np.uint8)
        np.testing.assert_array_equal(found, corrupt(scan, name, severity, rng()))
        losses.append(error(found, scan))
    assert losses[0] > 0.2
    assert losses == sorted(losses)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(16, 16), (28, 28), (496, 1536), (512, 17)])
def test_any_size_is_taken_and_the_scan_left_as_it_was(name: str, shape: tuple[int, int]) -> None:
    gray = rng().integers(0, 256, shape, dtype=np.uint8)
    before = gray.copy()
    assert corrupt(gray, name, 5, rng()).shape == shape
    np.testing.assert_array_equal(gray, before)


def test_what_is_not_listed_is_refused(scan: Gray) -> None:
    with pytest.raises(UsageError, match=r"no corruption 'fog' \(there are speckle, "):
        corrupt(scan, "fog", 1, rng())
    with pytest.raises(UsageError, match="1 to 5, not 6"):
        corrupt(scan, "jpeg", 6, rng())


def test_the_strengths_are_those_of_medmnist_c() -> None:
    """Typed here once more from the registry, so that neither slips alone."""
    assert {name: list(getattr(corruption, name.upper())) for name in CORRUPTIONS} == {
        "pixelate": [0.30, 0.25, 0.20, 0.15, 0.10],
        "jpeg": [30, 15, 10, 7, 5],
        "speckle": [0.15, 0.30, 0.40, 0.50, 0.60],
        "defocus": [(0.5, 0.6), (1, 0.5), (1.5, 0.1), (2.0, 0.5), (2.5, 0.1)],
        "motion": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        "contrast": [0.6, 0.4, 0.3, 0.2, 0.15],
    }


# Speckle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("level", [40, 200])
def test_speckle_has_the_moments_of_a_clipped_normal(severity: int, level: int) -> None:
    flat = np.full((448, 448), level, np.uint8)  # grains of 2 x 2
    found = corrupt(flat, "speckle", severity, rng()).astype(float)
    spread = level * corruption.SPECKLE[severity - 1]
    clipped = stats.norm(level, spread)
    low, high = clipped.cdf(0), clipped.sf(255)
    between = stats.truncnorm(-level / spread, (255 - level) / spread, level, spread)
    mean = (1 - low - high) * between.mean() + high * 255
    square = (1 - low - high) * (between.var() + between.mean() ** 2) + high * 255**2
    assert found.mean() == pytest.approx(mean, abs=4 * spread / 224)
    # rounding to whole levels adds the variance 1/12 of an even error
    assert found.std() == pytest.approx(np.sqrt(square - mean**2 + 1 / 12), rel=0.02)


def test_a_grain_of_speckle_is_a_pixel_of_the_frame() -> None:
    found = corrupt(np.full((448, 672), 100, np.uint8), "speckle", 3, rng()).astype(int)
    assert not (found[::2] - found[1::2]).any()
    assert not (found[:, ::2] - found[:, 1::2]).any()
    grains = found[::2, ::2] - found.mean()
    together = (grains[:, 1:] * grains[:, :-1]).mean() / grains.var()
    assert abs(together) < 4 / np.sqrt(grains.size)  # neighbours know nothing of each other


# Blur -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_is_the_convolution_with_its_disc(severity: int, scan: Gray) -> None:
    scale = min(scan.shape) / 224
    radius, blur = corruption.DEFOCUS[severity - 1]
    kernel = disc(scale * radius, scale * blur).astype(float)
    expected = ndimage.convolve(scan.astype(float), kernel, mode="mirror")
    found = corrupt(scan, "defocus", severity, rng())
    assert np.abs(found - expected).max() <= 0.51


@pytest.mark.parametrize(("radius", "blur"), [(0.2, 0.05), (1.3, 1.0), (5.5, 0.2), (4.4, 1.1)])
def test_a_disc_has_the_moments_of_a_disc_and_of_a_gaussian(radius: float, blur: float) -> None:
    kernel = disc(radius, blur).astype(float)
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)
    np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-7)
    spread = (kernel * places**2).sum()
    # along an axis: radius^2 / 4, the Gaussian's where it is wide enough for whole pixels, theirs of 1/12
    gauss = blur**2 if blur > 0.5 else 0.0
    assert spread == pytest.approx(radius**2 / 4 + gauss, abs=0.13)


def test_a_large_sharp_disc_is_flat_and_has_the_area_of_its_circle() -> None:
    whole = disc(40.0, 0.05)
    places = np.arange(len(whole)) - len(whole) // 2
    inside = places[:, None] ** 2 + places**2 <= 40.0**2
    assert (
        np.abs(whole / whole.max() - inside)[np.abs(np.hypot(places[:, None], places) - 40) > 1].max() < 1e-5
    )
    assert 1 / whole.max() == pytest.approx(np.pi * 40**2, rel=1e-3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_takes_from_what_lies_ahead(severity: int, scan: Gray) -> None:
    small = np.asarray(Image.fromarray(scan).resize((120, 112)))  # half a pixel of the frame
    radius, sigma = (0.5 * length for length in corruption.MOTION[severity - 1])
    angle = np.radians(rng(3).uniform(-45, 45))
    total, weights = np.zeros(small.shape), 0.0
    rows, columns = np.indices(small.shape)
    for step in range(round(2 * radius) + 1):
        weight = np.exp(-0.5 * (step / sigma) ** 2)
        ahead = (
            np.clip(rows + round(step * np.sin(angle)), 0, 111),
            np.clip(columns + round(step * np.cos(angle)), 0, 119),
        )
        total, weights = total + weight * small[ahead], weights + weight
    assert np.abs(corrupt(small, "motion", severity, rng(3)) - total / weights).max() <= 0.51


def test_a_streak_points_along_its_angle() -> None:
    moved = ndimage.convolve(np.pad([[1.0]], 90), streak(40, 24, 30.0).astype(float))
    rows, columns = np.indices(moved.shape) - 90
    middle = (moved * rows).sum(), (moved * columns).sum()
    assert np.degrees(np.arctan2(-middle[0], -middle[1])) == pytest.approx(30, abs=1)
    steps = np.arange(81)
    weights = stats.norm.pdf(steps, scale=24)
    assert np.hypot(*middle) == pytest.approx((steps * weights).sum() / weights.sum(), rel=0.01)


# Levels, files, blocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_is_a_line_through_the_mean(severity: int, scan: Gray) -> None:
    mean, factor = scan.mean(), corruption.CONTRAST[severity - 1]
    found = corrupt(scan, "contrast", severity, rng())
    assert np.abs(found - (mean + factor * (scan - mean))).max() < 1.51  # Pillow rounds the mean, and down


def block_dct(gray: Gray) -> NDArray[np.float64]:
    """Return the cosine transform of each block of 8 x 8, (H / 8, W / 8, 8, 8)."""
    height, width = gray.shape
    blocks = gray.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2).astype(float) - 128
    k, n = np.arange(8)[:, None], np.arange(8)
    basis = np.where(k == 0, np.sqrt(1 / 8), np.sqrt(2 / 8) * np.cos(np.pi * (2 * n + 1) * k / 16))
    return basis @ blocks @ basis.T


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_leaves_multiples_of_its_quantisation_table(severity: int, scan: Gray) -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", quality=corruption.JPEG[severity - 1])
    steps = np.array(Image.open(file).quantization[0], float).reshape(8, 8)
    gray = np.clip(scan[: len(scan) // 8 * 8, : scan.shape[1] // 8 * 8], 60, 190)  # far from clipping
    found = block_dct(corrupt(np.ascontiguousarray(gray), "jpeg", severity, rng()))
    off = np.abs(found / steps - np.rint(found / steps))
    coarse = steps >= 20  # where the pixels' rounding is small against a step
    assert np.quantile(off[..., coarse], 0.99) < 0.2
    assert np.abs(found - block_dct(gray))[..., coarse].max() < (0.5 * steps + 6).max()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_leaves_so_many_blocks(severity: int) -> None:
    gray = rng().integers(0, 256, (448, 672), dtype=np.uint8)
    found = corrupt(gray, "pixelate", severity, rng())
    expected = int(224 * corruption.PIXELATE[severity - 1]), int(336 * corruption.PIXELATE[severity - 1])
    for axis, blocks in enumerate(expected):
        assert np.diff(found.astype(int), axis=axis).any(axis=1 - axis).sum() == blocks - 1


def test_pixelate_of_whole_blocks_is_exact() -> None:
    gray = rng().integers(0, 256, (448, 672), dtype=np.uint8)  # at 0.25 of the frame, blocks of 8
    found = corrupt(gray, "pixelate", 2, rng())
    means = gray.reshape(56, 8, 84, 8).mean(axis=(1, 3))
    assert np.abs(found - np.kron(means, np.ones((8, 8)))).max() < 1.01  # Pillow rounds after each axis
