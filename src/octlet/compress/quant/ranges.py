"""From the histogram of an activation's values to the range that its integers should cover."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 2048
_KEEP = np.linspace(1.0, 0.2, 81)  # shares of the full range that are tried


def grid(low: float, high: float, levels: int) -> tuple[float, int]:
    """Return scale and zero point of `levels` integers over [low, high], which is widened to hold 0.

    Asymmetric quantisation of Jacob et al. 2018, arXiv:1712.05877, section 2.1: real = scale * (q - zero).
    A range that is all but 0 gets scale 2**-16.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / (levels - 1), 2.0**-16)))
    return scale, int(min(max(round(-low / scale), 0), levels - 1))


def percentile_range(counts: Floats, low: float, high: float, percent: float) -> tuple[float, float]:
    """Return the range between the (100 - percent)th and the percent-th percentile.

    Args:
        counts: (B,) values in each of B equal bins.
        low: edge of the first bin.
        high: edge of the last bin.
        percent: 50 to 100; 100 gives the range back. Values spread evenly in their bin.
    """
    edges = np.linspace(low, high, len(counts) + 1)
    cumulated = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    share = percent / 100
    # at a flat stretch, the end that keeps every value that there is
    above = int(np.searchsorted(cumulated, 1 - share, side="right")) - 1
    below = int(np.searchsorted(cumulated, share, side="left"))
    return _between(edges, cumulated, above, 1 - share), _between(edges, cumulated, below - 1, share)


def _between(edges: Floats, cumulated: Floats, bin_: int, share: float) -> float:
    bin_ = min(max(bin_, 0), len(edges) - 2)
    inside = cumulated[bin_ + 1] - cumulated[bin_]
    part = (share - cumulated[bin_]) / inside if inside > 0 else 0.0
    return float(edges[bin_] + (edges[bin_ + 1] - edges[bin_]) * min(max(part, 0.0), 1.0))


def least_squares_range(counts: Floats, low: float, high: float, levels: int = 256) -> tuple[float, float]:
    """Return the range, cut at one end or both, whose integers are nearest to the values (least squares).

    The histogram calibration of Wu et al. 2020, arXiv:2004.09602, section 3.2, with squared error instead of
    entropy: the ends are moved inwards in turn, each to the best of 81 places, until neither moves.

    Args:
        counts: (B,) values in each of B equal bins; a value counts as its bin's middle.
        low: edge of the first bin.
        high: edge of the last bin.
        levels: integers of the grid.
    """
    middles = low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts)
    best = (low, high)
    while True:
        above = _best_of([(best[0], high * keep) for keep in _KEEP], middles, counts, levels)
        chosen = _best_of([(low * keep, above[1]) for keep in _KEEP], middles, counts, levels)
        if chosen == best:
            return best
        if _error(chosen, middles, counts, levels) >= _error(best, middles, counts, levels):
            return best
        best = chosen


def _best_of(
    ranges: list[tuple[float, float]], middles: Floats, counts: Floats, levels: int
) -> tuple[float, float]:
    return min(ranges, key=lambda each: _error(each, middles, counts, levels))


def _error(between: tuple[float, float], middles: Floats, counts: Floats, levels: int) -> float:
    scale, zero = grid(*between, levels)
    rounded = (np.clip(np.rint(middles / scale) + zero, 0, levels - 1) - zero) * scale
    return float(counts @ (middles - rounded) ** 2)
