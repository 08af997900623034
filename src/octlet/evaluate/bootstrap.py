"""95 % intervals that know that scans of one patient are alike: the patient-cluster bootstrap.

Whole patients are drawn with replacement, as many as there are, and each brings all its scans
(Field & Welsh 2007, "Bootstrapping clustered data", J. R. Statist. Soc. B 69:369, their "cluster bootstrap").
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import UsageError
from octlet.evaluate.metrics import Floats

RESAMPLES = 2000
LEVEL = 0.95

# Weights of one block of resamples: 8 MB of float64 whatever the number of scans. Larger blocks are slower
# (they leave the processor's cache).
_BLOCK = 1_000_000


def clusters_of(patients: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """Return each scan's cluster number, (n,), and the number of clusters; first come, first numbered."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(patient, len(numbers)) for patient in patients]), len(numbers)


def clusters_among(cluster: NDArray[np.int64], scans: NDArray[np.bool_]) -> int:
    """Return how many clusters the marked scans come from."""
    return len(np.unique(cluster[scans]))


def draws(clusters: int, resamples: int, seed: int, width: int) -> Iterator[Floats]:
    """Yield (clusters, b) blocks that say how often each cluster stands in each of b resamples.

    The b add up to `resamples`; `width`, the number of rows that the caller will hold per resample, bounds b.
    """
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(width, clusters))
    for start in range(0, resamples, block):
        b = min(block, resamples - start)
        drawn = rng.integers(clusters, size=(b, clusters)) + clusters * np.arange(b)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=b * clusters).reshape(b, clusters)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def resample(
    patients: Sequence[str],
    statistics: Callable[[Floats], Floats],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """Return the statistics of every resample, (resamples, k).

    `statistics` takes (clusters, b) cluster weights, in the order of `clusters_of`, and returns (b, k).
    Raises UsageError for fewer than 100 resamples, whose 2.5 % tails would rest on one or two of them.
    """
    if resamples < 100:
        raise UsageError(f"an interval needs at least 100 resamples, not {resamples}")
    clusters = clusters_of(patients)[1]
    return np.concatenate([statistics(w) for w in draws(clusters, resamples, seed, len(patients))])


def interval(resampled: Floats) -> tuple[float, float]:
    """Return the percentile interval of one statistic's (resamples,) values, at `LEVEL`.

    Resamples in which the statistic is undefined (a class was not drawn) are left out; NaN if all are.
    """
    defined = resampled[np.isfinite(resampled)]
    if defined.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def widened_at_bounds(low: float, high: float, patients: int) -> tuple[float, float]:
    """Return the interval of a share, repaired where it has no width because every resample is 0 or 1.

    A bootstrap cannot draw the error it never saw, so a perfect score would claim certainty. The other end is
    then the exact binomial bound with patients as the trials, (alpha / 2) ** (1 / patients) from the perfect
    end (Clopper & Pearson 1934, Biometrika 26:404). For a mean over groups, `patients` is that of the
    smallest group, which is cautious. Fewer than two patients show no spread at all: NaN.
    """
    if patients < 2:
        return float("nan"), float("nan")
    reach = 1 - ((1 - LEVEL) / 2) ** (1 / patients)
    if low == high == 1.0:
        return 1.0 - reach, 1.0
    if low == high == 0.0:
        return 0.0, reach
    return low, high
