"""The ranges of activations, from training scans that are shown without augmentation."""

import numpy as np
import torch
from numpy.typing import NDArray

from octlet.compress.config import QuantConfig
from octlet.compress.quant.fakequant import Watch
from octlet.compress.quant.graph import FakeQuantised
from octlet.data.index import Progress
from octlet.train.showing import Fold

BATCH = 16


def calibrate(twin: FakeQuantised, fold: Fold, config: QuantConfig, seed: int, progress: Progress) -> int:
    """Set every activation's range and switch the rounding on; return how many scans were shown.

    One pass finds the smallest and largest values. Where a histogram is asked for, a second pass counts, and
    the range is cut to its percentiles or to the least squared error (see `ranges`). The network computes in
    float meanwhile, so that no layer's rounding colours another's range.

    Args:
        twin: on the CPU; left in eval mode.
        fold: training scans, of which `config.calibration` are drawn, the same share of every class.
        config: settings.
        seed: of the draw.
        progress: a wrapper of a counting iterable.
    """
    picks = _draw(fold.labels, config.calibration, seed)
    watches = [Watch.WIDEN] if config.observer == "min-max" else [Watch.WIDEN, Watch.COUNT]
    starts = range(0, len(picks), BATCH)
    twin.eval()
    twin.round(False)
    with torch.no_grad():
        for k in progress(range(len(watches) * len(starts))):
            twin.watch(watches[k // len(starts)])
            first = starts[k % len(starts)]
            scans, _ = fold.batch(picks[first : first + BATCH], torch.device("cpu"))
            twin(scans)
    twin.watch(Watch.NOTHING)
    if config.observer != "min-max":
        for each in twin.activations():
            each.settle(config.percentile if config.observer == "percentile" else None)
    twin.round(True)
    return len(picks)


def _draw(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return up to n positions: the classes' scans in a random order each, dealt in turn."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turn[mine] = np.arange(len(mine))
    return np.lexsort((order, turn))[:n]
