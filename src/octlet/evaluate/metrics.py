"""Metrics of a four-class classifier, as pure functions of counts and scores.

Functions of a confusion matrix take any leading axes, `(..., K, K)`, so that the same line gives the value
on the data and the values on 2000 resamples. What a class without scans leaves undefined is NaN here
(never a warning, never a made-up 0), and null once it reaches JSON.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octlet.core.labels import LABELS, URGENCY

Floats = NDArray[np.float64]

URGENT: NDArray[np.bool_] = np.array([URGENCY[label] == "urgent" for label in LABELS])


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """Return part / whole, NaN where whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def mean_of_defined(values: Floats) -> Floats:
    """Return the mean over the last axis of the values that are not NaN; NaN where there are none."""
    return ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1))


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int = len(LABELS)
) -> NDArray[np.int64]:
    """Count scans by actual class (rows) and called class (columns): (classes, classes) int64."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def accuracy(confusion: ArrayLike) -> Floats:
    """Return the share of scans called by their label, (...)."""
    counts = np.asarray(confusion, float)
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def sensitivity(confusion: ArrayLike) -> Floats:
    """Return each class's share of its scans that were called so (recall), (..., K); NaN without scans."""
    counts = np.asarray(confusion, float)
    return ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def specificity(confusion: ArrayLike) -> Floats:
    """Return each class's share of the other classes' scans that were not called so, (..., K).

    NaN where no scan belongs to another class.
    """
    counts = np.asarray(confusion, float)
    others = counts.sum(axis=(-2, -1))[..., None] - counts.sum(axis=-1)
    false_calls = counts.sum(axis=-2) - np.diagonal(counts, axis1=-2, axis2=-1)
    return ratio(others - false_calls, others)


def balanced_accuracy(confusion: ArrayLike) -> Floats:
    """Return the mean sensitivity over the classes that are present, (...).

    Brodersen et al. 2010, "The balanced accuracy and its posterior distribution", ICPR, for K classes.
    """
    return mean_of_defined(sensitivity(confusion))


def f1(confusion: ArrayLike) -> Floats:
    """Return each class's harmonic mean of sensitivity and precision, (..., K); NaN for an absent class."""
    counts = np.asarray(confusion, float)
    actual, called = counts.sum(axis=-1), counts.sum(axis=-2)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return ratio(2 * hits, np.where(actual > 0, actual + called, 0.0))


def macro_f1(confusion: ArrayLike) -> Floats:
    """Return the mean F1 over the classes that are present, (...)."""
    return mean_of_defined(f1(confusion))


def urgent_called_normal_rate(confusion: ArrayLike) -> Floats:
    """Return the share of urgent scans (CNV, DME) called NORMAL, (...); NaN without an urgent scan."""
    urgent = np.asarray(confusion, float)[..., URGENT, :]
    return ratio(urgent[..., LABELS.index("NORMAL")].sum(axis=-1), urgent.sum(axis=(-2, -1)))


def urgent_called_normal(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of the urgent scans that were called NORMAL, ascending."""
    return np.flatnonzero(URGENT[labels] & (predicted == LABELS.index("NORMAL")))


class RankedScores:
    """One score per scan, sorted once, whose AUC can then be taken under many weightings of the scans.

    The AUC is the probability that a positive scan scores above a negative one, ties counting half: the
    Mann-Whitney statistic over its maximum (Hanley & McNeil 1982, Radiology 143:29). A weight of 2 counts
    a scan twice, which is how a bootstrap resample enters.
    """

    def __init__(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        self._order = np.argsort(scores, kind="stable")
        self._positive = positive[self._order][:, None]
        ranked = scores[self._order]
        self._ties = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))

    def auc(self, weights: Floats) -> Floats:
        """Return the AUC under each column of (n, B) weights, (B,); NaN where one side has no weight."""
        ranked = weights[self._order]
        positive = np.add.reduceat(ranked * self._positive, self._ties, axis=0)
        negative = np.add.reduceat(ranked * ~self._positive, self._ties, axis=0)
        below = np.cumsum(negative, axis=0) - negative / 2
        wins = np.einsum("gb,gb->b", positive, below)
        return ratio(wins, positive.sum(axis=0) * negative.sum(axis=0))


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve of (n,) scores; NaN where either side is empty."""
    return float(RankedScores(scores, positive).auc(np.ones((len(scores), 1)))[0])


def urgent_score(probabilities: Floats) -> Floats:
    """Return p(CNV) + p(DME), (n,): how sure the model is that the scan is urgent."""
    return np.asarray(probabilities[:, URGENT].sum(axis=1))


def roc_curve(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the false and true positive rates at every distinct threshold, from (0, 0) to (1, 1).

    Both are empty where either side has no scan.
    """
    if positive.all() or not positive.any():
        return np.empty(0), np.empty(0)
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], positive[order]
    last_of_ties = np.append(ranked[1:] != ranked[:-1], True)
    true, false = np.cumsum(hits)[last_of_ties], np.cumsum(~hits)[last_of_ties]
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])
