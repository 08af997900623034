"""The pictures of a page: a scan, and the same scan with where its class was seen."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from octlet.core.image import Gray
from octlet.core.labels import LABELS
from octlet.runtime.heatmap import overlay, strength
from octlet.runtime.predictor import Box, Grid

WIDTH = 1000  # pixels: 280 an inch in half of a sheet
HALF = 0.5  # of the full strength, where the line is drawn


def scan_png(gray: Gray, width: int = WIDTH) -> bytes:
    """Return a scan, uint8 (H, W), as PNG, no wider than so many pixels."""
    return _png(Image.fromarray(gray).resize(fitted(gray, width), Image.Resampling.LANCZOS))


def heat_png(gray: Gray, cam: NDArray[np.float32], grid: Grid, box: Box, label: str) -> bytes:
    """Return a scan with one class's map over it, and a line around where the map has half of its strength.

    The colours alone would be lost in black and white.

    Args:
        gray: uint8 (H, W), the scan.
        cam: float32 (4, h, w), the maps of all classes.
        grid: where the cells of the maps lie in the network's input.
        box: (left, top, right, bottom) of the part of the scan that the map covers.
        label: of the class.
    """
    own = cam[LABELS.index(label)]
    left, top, right, bottom = box
    weight = np.zeros(gray.shape, np.float32)
    weight[top:bottom, left:right] = strength(own, grid, right - left, bottom - top)
    shape = fitted(gray, WIDTH)
    picture = Image.fromarray(overlay(gray, own, grid, box)).resize(shape, Image.Resampling.LANCZOS)
    inside = np.asarray(Image.fromarray(weight).resize(shape, Image.Resampling.BILINEAR)) >= HALF
    pixels = np.array(picture)
    pixels[_rim(inside, 3)] = 0
    pixels[_rim(inside, 1)] = 255
    return _png(Image.fromarray(pixels))


def fitted(gray: Gray, width: int) -> tuple[int, int]:
    """Return the width and height of a scan's picture."""
    scale = min(1.0, width / gray.shape[1])
    return round(scale * gray.shape[1]), max(round(scale * gray.shape[0]), 1)


def _rim(inside: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return the pixels within `reach` of the other side of an edge."""
    grown, shrunk = inside, inside
    for _ in range(reach):
        grown = _spread(grown)
        shrunk = ~_spread(~shrunk)
    return grown & ~shrunk


def _spread(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    return wide


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
