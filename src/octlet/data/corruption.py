"""The six corruptions of MedMNIST-C for OCT, each at its five strengths, on scans of any size.

Di Salvo, Doerrich & Ledig 2024, "MedMNIST-C", arXiv:2406.17536; the strengths are those of the table
`octmnist` in `medmnistc/corruptions/registry.py` of medmnistc 0.1.0. They are meant for 224 x 224 pixels, a
square of the shorter side. So one of their pixels is `min(H, W) / 224` of a scan's, and every length is
multiplied by that: grain, radius, blur, block. Shares of a grey value, and the quality of a JPEG file, whose
blocks are 8 pixels of that file, are taken as they are. White padding is corrupted with the rest.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from octlet.core.errors import UsageError
from octlet.core.image import Gray

FRAME = 224  # pixels: the side of the pictures that the strengths were chosen on
SEVERITIES = (1, 2, 3, 4, 5)

SPECKLE = (0.15, 0.30, 0.40, 0.50, 0.60)  # standard deviation, as a share of the grey value
DEFOCUS = ((0.5, 0.6), (1.0, 0.5), (1.5, 0.1), (2.0, 0.5), (2.5, 0.1))  # radius and blur of the disc, pixels
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # half the reach and sigma, pixels
CONTRAST = (0.6, 0.4, 0.3, 0.2, 0.15)  # what is left of the distance from the mean
JPEG = (30, 15, 10, 7, 5)  # quality
PIXELATE = (0.30, 0.25, 0.20, 0.15, 0.10)  # blocks for each pixel of a side

Kernel = NDArray[np.float32]


def corrupt(gray: Gray, name: str, severity: int, rng: np.random.Generator) -> Gray:
    """Return a corrupted scan; the same generator state gives the same one.

    Args:
        gray: uint8 (H, W).
        name: one of `CORRUPTIONS`.
        severity: 1, the weakest, to 5.
        rng: read by speckle and motion only.

    Returns:
        uint8 (H, W).

    Raises:
        UsageError: no such corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise UsageError(f"no corruption '{name}'", remedy=f"there are {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UsageError(f"a severity is 1 to 5, not {severity}")
    return CORRUPTIONS[name](gray, severity, rng)


def speckle(gray: Gray, severity: int, rng: np.random.Generator) -> Gray:
    """Multiply each grain by 1 + strength * N(0, 1) and clip; uint8 (H, W) to the same.

    MedMNIST-C draws one number for each of its pixels. A grain is as large as one of these, so that bringing
    a scan to a network's size averages no more of it away.
    """
    rows, columns = ((np.arange(side) / max(_scale(gray), 1.0)).astype(np.intp) for side in gray.shape)
    noise = rng.standard_normal((int(rows[-1]) + 1, int(columns[-1]) + 1), dtype=np.float32)
    return _levels(gray * (1 + np.float32(SPECKLE[severity - 1]) * noise[np.ix_(rows, columns)]))


def defocus(gray: Gray, severity: int, _: np.random.Generator) -> Gray:
    """Convolve with `disc`, the scan being mirrored at its edges; uint8 (H, W) to the same."""
    radius, blur = (_scale(gray) * length for length in DEFOCUS[severity - 1])
    return _filtered(gray, disc(radius, blur), "reflect")


def disc(radius: float, blur: float) -> Kernel:
    """Return a disc, its edge drawn by the share of each pixel that it covers, blurred by a Gaussian.

    Hendrycks & Dietterich 2019 (ICLR, "Benchmarking neural network robustness"), whose disc of whole pixels
    leaves no radius between them.

    Args:
        radius: in pixels, above 0.
        blur: standard deviation of the Gaussian in pixels, above 0.

    Returns:
        float32 (2 k + 1, 2 k + 1) of sum 1, its middle at [k, k].
    """
    reach = math.ceil(radius) + math.ceil(4 * blur)
    parts = 9  # samples of a pixel along each axis; an odd number has one in the middle
    fine = (np.arange((2 * reach + 1) * parts) + 0.5) / parts - reach - 0.5
    inside = fine[:, None] ** 2 + fine**2 <= max(radius, 0.5 / parts) ** 2
    covered = inside.reshape(2 * reach + 1, parts, 2 * reach + 1, parts).mean(axis=(1, 3))
    place = np.arange(2 * reach + 1)
    gauss = np.exp(-((place[:, None] - place) ** 2) / (2 * blur**2))
    blurred = gauss @ covered @ gauss
    return np.asarray(blurred / blurred.sum(), np.float32)


def motion(gray: Gray, severity: int, rng: np.random.Generator) -> Gray:
    """Convolve with `streak` at an angle of -45 to 45 degrees, edges repeated; uint8 (H, W) to the same."""
    radius, sigma = (_scale(gray) * length for length in MOTION[severity - 1])
    return _filtered(gray, streak(radius, sigma, float(rng.uniform(-45, 45))), "edge")


def streak(radius: float, sigma: float, angle: float) -> Kernel:
    """Return half a Gaussian along a line: a pixel takes from what lies ahead of it, up to 2 radius away.

    What ImageMagick's MotionBlurImage computes: weights exp(-i^2 / 2 sigma^2) at i = 0, 1, ... 2 radius
    pixels, each place rounded to whole pixels.

    Args:
        radius: half the reach, pixels.
        sigma: of the Gaussian, pixels, above 0.
        angle: of the line, degrees; 0 points to the right, 90 down.

    Returns:
        float32 (2 k + 1, 2 k + 1) of sum 1, to convolve with; its middle is at [k, k].
    """
    reach = max(1, round(2 * radius))
    steps = np.arange(reach + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    down, right = (
        np.rint(steps * part(math.radians(angle))).astype(np.intp) for part in (math.sin, math.cos)
    )
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    np.add.at(kernel, (reach - down, reach - right), weights / weights.sum())
    return kernel.astype(np.float32)


def contrast(gray: Gray, severity: int, _: np.random.Generator) -> Gray:
    """Bring every level nearer to the mean m: m + factor * (level - m); uint8 (H, W) to the same."""
    image = Image.fromarray(np.ascontiguousarray(gray))
    return np.asarray(ImageEnhance.Contrast(image).enhance(CONTRAST[severity - 1]))


def jpeg(gray: Gray, severity: int, _: np.random.Generator) -> Gray:
    """Write as JPEG (ITU-T T.81) of a low quality, on libjpeg's scale, and read; uint8 (H, W) to the same."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(gray)).save(file, "JPEG", quality=JPEG[severity - 1])
    with Image.open(file) as image:
        return np.asarray(image)


def pixelate(gray: Gray, severity: int, _: np.random.Generator) -> Gray:
    """Give blocks of pixels their mean; uint8 (H, W) to the same."""
    share = min(1.0, PIXELATE[severity - 1] / _scale(gray))
    height, width = gray.shape
    blocks = max(1, int(width * share)), max(1, int(height * share))
    image = Image.fromarray(np.ascontiguousarray(gray)).resize(blocks, Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST))


CORRUPTIONS: dict[str, Callable[[Gray, int, np.random.Generator], Gray]] = {
    "speckle": speckle,
    "defocus": defocus,
    "motion": motion,
    "contrast": contrast,
    "jpeg": jpeg,
    "pixelate": pixelate,
}


def _scale(gray: Gray) -> float:
    """Return how many of a scan's pixels, (H, W), one pixel of the 224 x 224 frame is."""
    return float(min(gray.shape)) / FRAME


def _filtered(gray: Gray, kernel: Kernel, edges: str) -> Gray:
    """Convolve a scan, uint8 (H, W), with a kernel, (2 k + 1, 2 k + 1), by way of their spectra."""
    reach = len(kernel) // 2
    # numpy calls for the mode by its literal name, of which there are many
    wide = np.pad(gray.astype(np.float32), reach, edges)  # type: ignore[call-overload]
    placed = np.zeros_like(wide)
    placed[: len(kernel), : len(kernel)] = kernel
    spectrum = np.fft.rfft2(wide) * np.fft.rfft2(placed)
    found = np.fft.irfft2(spectrum, wide.shape)
    height, width = gray.shape
    return _levels(found[2 * reach :, 2 * reach :][:height, :width])


def _levels(values: NDArray[np.floating]) -> Gray:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
