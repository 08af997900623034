"""Where in a scan the network saw its class: the class activation map, laid over the scan.

The map is the network's own logit before pooling (Zhou et al. 2016, CVPR), so what is shown is what was
summed, not an estimate. Only evidence FOR the class is shown: the positive part of the map, from 0
(transparent) to the map's largest value (full colour), or to `LEAST` where that is larger, so that a map with
next to nothing in it stays faint instead of being blown up.

A cell of the map lies where `Grid` says, not where the usual stretch from corner to corner would put it: in
a ResNet at 224 pixels that would show the evidence half a cell, 16 pixels, too far to the lower right.
"""

import io
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.files import write_bytes
from octlet.core.image import Gray
from octlet.core.labels import LABELS, NAMES, NOTICE
from octlet.runtime.predictor import Box, Grid

# Okabe & Ito's vermilion to a light amber: apart in lightness too, so that no colour vision is needed.
RAMP = np.array([[213, 94, 0], [255, 194, 30]], dtype=np.float32)
OPACITY = 0.6  # at full strength; the tissue stays visible below
LEAST = 1.0  # logits

Strength = NDArray[np.float32]


def strength(cam: NDArray[np.float32], grid: Grid, width: int, height: int) -> Strength:
    """Scale one class's map to 0..1 and, by bilinear interpolation, to the pixels that it covers.

    Args:
        cam: float32 (h, w).
        grid: where its cells lie in the network's input.
        width: of the result.
        height: of the result.

    Returns:
        float32 (height, width): 0 is no evidence for the class, 1 is `max(largest value of the map, LEAST)`.
    """
    from PIL import Image

    begin, end = (place + 1 for place in grid.span(cam.shape[1]))
    padded = Image.fromarray(np.pad(cam, 1, mode="edge"))
    wide = padded.resize((width, height), Image.Resampling.BILINEAR, box=(begin, begin, end, end))
    full = max(float(cam.max()), LEAST)
    scaled: Strength = np.clip(np.asarray(wide, dtype=np.float32) / np.float32(full), 0, 1)
    return scaled


def coarse(gray: Gray, cam: NDArray[np.float32], grid: Grid, box: Box) -> dict[str, Any]:
    """Return the maps of all classes in the network's own coarse cells, for who draws them at another place.

    Unlike `strength`, one scale is shared by the classes of a scan, so that their maps can be compared.

    Args:
        gray: uint8 (H, W), the scan as it was decoded.
        cam: float32 (4, h, w).
        grid: where the cells of the map lie in the network's input.
        box: (left, top, right, bottom) of the part of the scan that the maps cover, in scan pixels.

    Returns:
        Plain JSON types: `size`, the scan's width and height, which another decoder may see turned; `box`;
        `span`, from where to where along the map's cells `box` reaches, in both directions, cell i being i to
        i + 1; `full`, the logits that 255 stands for, the largest value of all the maps or `LEAST`;
        `evidence`, label -> rows of h x w integers, 0 (none for the class) to 255.
    """
    full = max(float(cam.max()), LEAST)
    levels = np.rint(np.clip(cam / np.float32(full), 0, 1) * 255).astype(np.uint8)
    return {
        "size": [gray.shape[1], gray.shape[0]],
        "box": list(box),
        "span": [round(place, 6) for place in grid.span(cam.shape[2])],
        "full": round(full, 4),
        "evidence": {label: rows.tolist() for label, rows in zip(LABELS, levels, strict=True)},
    }


def overlay(gray: Gray, cam: NDArray[np.float32], grid: Grid, box: Box) -> NDArray[np.uint8]:
    """Lay one class's map over a scan.

    Args:
        gray: uint8 (H, W), the scan as it was decoded.
        cam: float32 (h, w), the map of one class.
        grid: where the cells of the map lie in the network's input.
        box: (left, top, right, bottom) of the part of the scan that the map covers, in scan pixels.

    Returns:
        uint8 (H, W, 3), red, green, blue; outside of `box` the scan's own gray.
    """
    left, top, right, bottom = box
    image = np.repeat(gray[:, :, None], 3, axis=2)
    part = image[top:bottom, left:right]
    weight = strength(cam, grid, right - left, bottom - top)[:, :, None]
    colour = RAMP[0] + weight * (RAMP[1] - RAMP[0])
    alpha = OPACITY * weight
    part[:] = np.rint((1 - alpha) * part + alpha * colour).astype(np.uint8)
    return image


def overlay_png(
    gray: Gray, cam: NDArray[np.float32], grid: Grid, box: Box, label: str, level: int = 6
) -> bytes:
    """Return the overlay of `label`'s map, of `cam` (4, h, w), as PNG with the notice; level is zlib's."""
    from PIL import Image, PngImagePlugin

    image = Image.fromarray(overlay(gray, cam[LABELS.index(label)], grid, box))
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", f"Class activation map of {label} ({NAMES[label]})")
    text.add_text("Disclaimer", NOTICE)  # a keyword of the PNG specification
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text, compress_level=level)
    return buffer.getvalue()


def write_overlay(path: Path, gray: Gray, cam: NDArray[np.float32], grid: Grid, box: Box, label: str) -> None:
    """Write `overlay_png` to a file, whole or not at all."""
    write_bytes(path, overlay_png(gray, cam, grid, box, label))


def overlay_names(files: Iterable[str]) -> list[str]:
    """Return one PNG name for each scan, told apart by number where scans of several folders share a name.

    Only the file's own name is taken: a folder may carry a patient's name.
    """
    times: dict[str, int] = {}
    names: list[str] = []
    for file in files:
        stem = name = PurePath(file).stem
        while name.casefold() in times:  # some file systems do not tell upper from lower case
            times[stem.casefold()] += 1
            name = f"{stem}-{times[stem.casefold()]}"
        times[name.casefold()] = 1
        names.append(f"{name}.heatmap.png")
    return names
