"""How the instrument shows the tissue: layers to grey values, shadows, roll-off, speckle, white border."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from octlet.data.phantom_anatomy import AXIAL_UM, INDEX, LAYERS, Anatomy, Array, Tissue
from octlet.data.phantom_lesion import Ellipse, Lesion

ROLL_OFF_UM: Final = 2200.0  # depth from zero delay at which the intensity has fallen to 1/e
WHITE: Final = 255


def layer_map(edges: Array, height: int) -> NDArray[np.uint8]:
    """Return for each pixel 0 above the retina, k + 1 in layer k, len(LAYERS) + 1 below: uint8 (H, W)."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    count = np.zeros((height, edges.shape[1]), np.uint8)
    for edge in edges:
        count += rows >= edge
    return count


def texture(shape: tuple[int, int], grain: tuple[float, float], rng: np.random.Generator) -> Array:
    """Return smooth noise, (H, W), of mean 0, with features about `grain` (rows, columns) in size."""
    small = tuple(max(2, round(side / size)) for side, size in zip(shape, grain, strict=True))
    coarse = Image.fromarray(rng.standard_normal(small, dtype=np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC), np.float32)


def ellipse_weight(ellipse: Ellipse, shape: tuple[int, int]) -> tuple[tuple[slice, slice], Array]:
    """Return the window of an ellipse in the frame and its soft membership there: 1 inside, 0 outside."""
    reach = 1.5
    top, bottom = (ellipse.row + side * reach * ellipse.half_height for side in (-1, 1))
    left, right = (ellipse.column + side * reach * ellipse.half_width for side in (-1, 1))
    window = (
        slice(*np.clip((int(top), int(bottom) + 1), 0, shape[0]).tolist()),
        slice(*np.clip((int(left), int(right) + 1), 0, shape[1]).tolist()),
    )
    rows = (np.arange(window[0].start, window[0].stop) - ellipse.row) / max(ellipse.half_height, 1.0)
    columns = (np.arange(window[1].start, window[1].stop) - ellipse.column) / max(ellipse.half_width, 1.0)
    radius = np.hypot(rows[:, None], columns)
    return window, np.asarray(np.clip((1.1 - radius) / 0.2, 0, 1), np.float32)


def expose(
    tissue: Tissue, lesion: Lesion, anatomy: Anatomy, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Image the tissue: return grey values uint8 (H, W) and the lesion's mask, bool (H, W)."""
    height = anatomy.shape[0]
    edges = tissue.boundaries()
    layers = layer_map(edges, height)
    shown = _reflectance(layers, edges[-1], tissue, anatomy, rng)
    mask = np.isin(layers, [INDEX[name] + 1 for name in lesion.layers])
    for ellipse in lesion.ellipses:
        window, weight = ellipse_weight(ellipse, anatomy.shape)
        shown[window] += weight * (ellipse.reflectance - shown[window])
        mask[window] |= weight > 0.5
    shown *= 1 - np.where(layers > INDEX["GCL+IPL"], _shadows(tissue.x, rng), np.float32(0))
    shown[1:-1] = (shown[:-2] + 2 * shown[1:-1] + shown[2:]) / 4  # the axial point spread
    return detect(shown, anatomy, rng), mask


def _reflectance(
    layers: NDArray[np.uint8], base: Array, tissue: Tissue, anatomy: Anatomy, rng: np.random.Generator
) -> Array:
    """Give every pixel its tissue's reflectance: layers from their table, a mottled choroid that fades."""
    nothing = np.zeros_like(tissue.reflectance[:1])
    table = np.concatenate([nothing, tissue.reflectance, nothing])
    shown = np.take_along_axis(table, layers.astype(np.intp), axis=0)
    shown *= 1 + 0.09 * texture(layers.shape, (3.0, 10.0), rng)
    depth = (np.arange(len(layers), dtype=np.float32)[:, None] - base) * np.float32(AXIAL_UM)
    stroma = 0.32 * anatomy.brightness * np.exp(-np.maximum(depth, 0) / np.float32(anatomy.choroid))
    vessels = np.clip(1 + 0.2 * texture(layers.shape, (12.0, 18.0), rng), 0.3, 1.4)
    return np.where(layers > len(LAYERS), stroma * vessels, shown)


def _shadows(x: Array, rng: np.random.Generator) -> Array:
    """Return the share of light that retinal vessels take from each A-scan, (W,)."""
    share = np.zeros_like(x)
    for _ in range(rng.integers(2, 8)):
        dark = rng.uniform(0.05, 0.35) * np.exp(
            -(((x - rng.uniform(x[0], x[-1])) / rng.uniform(15, 50)) ** 2)
        )
        share = np.maximum(share, dark)
    return share


def detect(shown: Array, anatomy: Anatomy, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn noiseless reflectance, 0 to 1 as displayed, into grey values.

    The display is the fourth root of the intensity. The intensity carries multiplicative speckle, gamma
    distributed with mean 1 and variance 1 / looks (Schmitt, Xiang & Yung 1999, J Biomed Opt 4:95), and falls
    with depth as the instrument's sensitivity rolls off; a noise floor is added and in part subtracted again.
    """
    looks = np.float32(anatomy.looks)
    depth = np.arange(len(shown), dtype=np.float32)[:, None] * np.float32(AXIAL_UM)
    intensity = shown**4 * np.exp(-((depth / np.float32(ROLL_OFF_UM)) ** 2))
    speckle, noise = rng.standard_gamma(anatomy.looks, (2, *shown.shape), dtype=np.float32) / looks
    signal = intensity * speckle + np.float32(anatomy.floor**4) * (noise - np.float32(0.6))
    grey = 255 * np.sqrt(np.sqrt(np.maximum(signal, 0)))
    shown_grey: NDArray[np.uint8] = np.minimum(np.rint(grey), 255).astype(np.uint8)
    return shown_grey


def white_border(
    shape: tuple[int, int], top: float, bottom: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return where a registered scan has no data: what a small shift and turn bring in from outside.

    About half of the scans have a border. It mostly spares the tissue, which lies in rows `top` to `bottom`.
    """
    if rng.uniform() < 0.5:
        return np.zeros(shape, np.bool_)
    height, width = shape
    turn = rng.normal(0.0, 0.04)
    slant = abs(turn) * width / 2
    room_below, room_above = height - bottom - slant, top - slant - 0.06 * height
    down = height * rng.uniform(
        -np.clip(room_below / height, 0, 0.12), np.clip(room_above / height, 0.02, 0.3)
    )
    aside = rng.normal(0.0, 4.0)
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2
    x = np.arange(width, dtype=np.float32) - width / 2
    row = y + turn * x - down + height / 2
    column = x - turn * y - aside + width / 2
    outside: NDArray[np.bool_] = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    return outside
