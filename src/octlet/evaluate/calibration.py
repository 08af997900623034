"""Do probabilities mean what they say: reliability bins, expected calibration error, log loss."""

import numpy as np
from numpy.typing import NDArray

from octlet.evaluate.metrics import Floats, ratio

BINS = 15


def confidence_bins(confidence: Floats, bins: int = BINS) -> NDArray[np.int64]:
    """Return the bin 0 to bins-1 of each confidence; bin m holds (m / bins, (m + 1) / bins].

    The first also holds 0 (Guo et al. 2017, "On calibration of modern neural networks", ICML, equation 2).
    """
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def reliability(
    probabilities: Floats, labels: NDArray[np.int64], bins: int = BINS
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return for each bin of the top probability its count, mean confidence and accuracy, each (bins,).

    Confidence and accuracy of an empty bin are NaN.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    where = confidence_bins(confidence, bins)
    count = np.bincount(where, minlength=bins)
    mean = ratio(np.bincount(where, confidence, bins), count)
    return count, mean, ratio(np.bincount(where, right, bins), count)


def calibration_gaps(probabilities: Floats, labels: NDArray[np.int64], bins: int = BINS) -> Floats:
    """Return (n, bins): each scan's correctness minus its confidence, in the column of its bin, else 0.

    Sums of its rows are all that the calibration error of any resample needs.
    """
    confidence = probabilities.max(axis=1)
    gaps = np.zeros((len(labels), bins))
    rows = np.arange(len(labels))
    gaps[rows, confidence_bins(confidence, bins)] = (probabilities.argmax(axis=1) == labels) - confidence
    return gaps


def expected_calibration_error(probabilities: Floats, labels: NDArray[np.int64], bins: int = BINS) -> float:
    """Return the mean over scans of |accuracy - confidence| of their bin: Guo et al. 2017, equation 3."""
    return float(np.abs(calibration_gaps(probabilities, labels, bins).sum(axis=0)).sum() / len(labels))


def log_losses(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return -ln p(actual class) of each scan, (n,), in nats.

    A probability of 0 counts as 2.2e-16 (float64 epsilon, as in scikit-learn): 36 nats, not infinity.
    """
    actual = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(actual, np.finfo(np.float64).eps))
