"""How an image is laid out: what tells a B-scan from another picture, and its top from its bottom.

No network is asked. A retina is a bright, layered band across a dark ground. The measures are made on a grid
of 64 x 32 blocks, so that neither noise nor the number of samples tells, and lean on no absolute grey level,
so that a poor scan is still one. What they come to in training scans, and how far from that an image is
refused, is fitted (`octlet.core.trust.Layout`); how well that works: docs/trust.md.
"""

import numpy as np
from numpy.typing import NDArray

from octlet.core.image import Gray

MEASURES = ("layers", "jump", "bend", "dark", "bright", "thickness", "across", "rows", "depth")

Floats = NDArray[np.float64]

_ROWS, _COLUMNS = 64, 32
_FAINT = 1e-3  # of the contrast: keeps ratios finite in a picture without any edge
_TISSUE, _BRIGHT = 0.15, 0.5  # of the contrast, from the median up
_RIM = 2  # blocks at the upper and lower edge that may hold what is left of blurred padding


def levels_of(scan: Gray) -> Floats:
    """Return the blocks that all measures are made on.

    Args:
        scan: uint8 (h, w), padding cut off and blanked.

    Returns:
        float64 (64, 32), their mean grey value: 0 the median, 1 the 99th percentile of them.
    """
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(scan)).resize((_COLUMNS, _ROWS), Image.Resampling.BOX)
    grey = np.asarray(small, np.float64)
    low = _quantile(grey.ravel(), 0.5)
    levels: Floats = (grey - low) / max(float(_quantile(grey.ravel(), 0.99) - low), 1.0)
    return levels


def upright_of(levels: Floats) -> float:
    """Tell from `levels_of` a scan whether its tissue begins more sharply than it ends.

    Returns:
        1 where all sharp changes down the median column are rises, as at the inner limiting membrane; -1
        where all are falls, as in a scan that lies upside down: the choroid only fades. Changes count by
        their cube, and grey levels to half of the contrast, so that this membrane counts as much as brighter
        layers.
    """
    steps = np.diff(np.clip(levels, 0, _BRIGHT), axis=0)[_RIM:-_RIM] ** 3
    return float(_quantile(steps.sum(axis=0) / (np.abs(steps).sum(axis=0) + _FAINT**2), 0.5))


def layout_of(level: Floats) -> tuple[float, ...]:
    """Measure how an image is laid out, of its `levels_of`.

    Returns:
        the values of `MEASURES`, all finite:
        layers: log of how much the grey value changes down, over how much it changes along a row;
        jump: the 90th percentile of how far the tissue's middle moves from a column to the next, as a share
        of the height;
        bend: the standard deviation of that middle about a parabola, as a share of the height;
        dark, bright: shares of the area under 15 % and over 50 % of the contrast;
        thickness: the median column's share that is brighter than the middle of that column's own range;
        across: the median correlation of two columns, an eighth of the width apart;
        rows: the median correlation of two rows, a sixteenth of the height apart;
        depth: the median correlation of a column with itself, moved down by 6 of 64 blocks.
    """
    down, along = (float(np.abs(np.diff(level, axis=axis)).mean()) for axis in (0, 1))
    middle = _middle(np.maximum(level - _TISSUE, 0))
    places = np.linspace(-1, 1, _COLUMNS)
    bow = middle - np.polyval(np.polyfit(places, middle, 2), places)
    by_column, by_row = level - level.mean(axis=0), level - level.mean(axis=1, keepdims=True)
    found = (
        np.log((2 * down + _FAINT) / (along + _FAINT)),  # a block is half as high as it is wide
        _quantile(np.abs(np.diff(middle)), 0.9),
        bow.std(),
        (level < _TISSUE).mean(),
        (level > _BRIGHT).mean(),
        _thickness(level),
        _quantile(_correlation(by_column[:, 4:], by_column[:, :-4], axis=0), 0.5),
        _quantile(_correlation(by_row[4:], by_row[:-4], axis=1), 0.5),
        _quantile((by_column[6:] * by_column[:-6]).sum(axis=0) / ((by_column**2).sum(axis=0) + _FAINT), 0.5),
    )
    return tuple(map(float, found))


def _middle(tissue: Floats) -> Floats:
    """Return the centre of mass of each column, 0 to 1; 0 where there is nothing."""
    rows = np.arange(_ROWS)[:, None] / _ROWS
    middle: Floats = (tissue * rows).sum(axis=0) / (tissue.sum(axis=0) + _FAINT**2)
    return middle


def _thickness(level: Floats) -> float:
    """Return the median column's share that is brighter than the middle of its own range."""
    low, high = _quantile(level, 0.2), _quantile(level, 0.98)
    own = (level - low) / np.maximum(high - low, 0.05)
    return float(_quantile((own > 0.5).mean(axis=0), 0.5))


def _quantile(values: Floats, share: float) -> Floats:
    """Return what numpy.quantile does along the first axis, which would import numpy.ma, for 5 ms."""
    place = share * (len(values) - 1)
    below = int(place)
    lower, upper = np.sort(values, axis=0)[below : below + 2]
    found: Floats = lower + (place - below) * (upper - lower)
    return found


def _correlation(a: Floats, b: Floats, axis: int) -> Floats:
    """Return the cosines of rows or columns that are centred already; 0 where one of them is flat."""
    lengths = np.sqrt((a**2).sum(axis=axis) * (b**2).sum(axis=axis))
    found: Floats = (a * b).sum(axis=axis) / (lengths + _FAINT**2)
    return found
