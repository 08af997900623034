"""What makes a model's doubt mean something, fitted on scans that it has not seen."""

import math

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import InputError
from octlet.core.labels import LABELS
from octlet.evaluate.metrics import Floats

_COLDEST, _HOTTEST = 0.05, 20.0  # the range that a temperature is sought in
_FLAT = 1e-3  # the least deviation of a measure of layout; of real scans they are 0.01 to 0.3
_FLOOR = 0.1  # of the mean deviation: a dimension that hardly moves in training is not infinitely telling


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the temperature that gives logits (n, 4) the least log loss on labels (n,), 0.05 to 20.

    Guo et al. 2017, "On calibration of modern neural networks", ICML. The loss is convex in 1 / T; its
    derivative, mean E_p[z] - z_y, is bisected.

    Where no scan is wrong the loss falls for ever as the temperature does, and nothing says how sure is too
    sure: 1, which changes nothing.
    """
    actual = logits[np.arange(len(labels)), labels]
    if (actual == logits.max(axis=1)).all():
        return 1.0

    def slope(inverse: float) -> float:
        return float((_expected(logits, inverse) - actual).mean())

    low, high = math.log(1 / _HOTTEST), math.log(1 / _COLDEST)
    if slope(math.exp(low)) >= 0:
        return _HOTTEST
    if slope(math.exp(high)) <= 0:
        return _COLDEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def _expected(logits: Floats, inverse: float) -> Floats:
    """Return the mean logit of each scan, (n,), under the softmax of logits * inverse."""
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) * inverse)
    return np.asarray((powers * logits).sum(axis=1) / powers.sum(axis=1))


def conformal_thresholds(
    probabilities: Floats, labels: NDArray[np.int64], coverage: float
) -> dict[str, float]:
    """Return for each label the least probability with which it belongs into a prediction set.

    Split conformal prediction, class by class (Vovk 2012, "Conditional validity of inductive conformal
    predictors", ACML; the score is that of Sadinle, Lei & Wasserman 2019, JASA 114:223). A new scan of class
    y, exchangeable with those here, has y in its set with probability `coverage` or more.

    Args:
        probabilities: (n, 4), of scans that the model was not trained on.
        labels: (n,), their classes.
        coverage: 0 to 1, both excluded.

    Returns:
        label -> 0 to 1. A class with fewer than coverage / (1 - coverage) scans gets 0: no threshold above
        it can be vouched for, and the class is in every set.
    """
    lowest = {}
    for number, label in enumerate(LABELS):
        own = np.sort(probabilities[labels == number, number])
        rank = math.floor((1 - coverage) * (len(own) + 1) + 1e-9)  # that many of n + 1 may fall below
        lowest[label] = float(own[rank - 1]) if rank else 0.0
    return lowest


def prototypes(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the mean embedding of each class, (4, D), and the deviation about it, (D,).

    Args:
        embeddings: (n, D), of training scans.
        labels: (n,); InputError where a class is missing.
    """
    wide = embeddings.astype(np.float64)
    if missing := [label for number, label in enumerate(LABELS) if not (labels == number).any()]:
        raise InputError(f"no training scan of {', '.join(missing)}", remedy="give scans of every class")
    centres = np.stack([wide[labels == number].mean(axis=0) for number in range(len(LABELS))])
    deviation = (wide - centres[labels]).std(axis=0)
    floor = max(_FLOOR * float(deviation.mean()), float(np.finfo(np.float32).tiny))
    return centres, deviation + floor


def layout_of_many(measured: Floats) -> tuple[Floats, Floats]:
    """Return the mean of layouts (n, m) of training scans, (m,), and their standard deviation, (m,).

    The deviation has a floor: a measure that hardly moves in training is not infinitely telling.
    """
    return measured.mean(axis=0), measured.std(axis=0) + _FLAT


def distance_limit(distances: Floats, refusal: float) -> float:
    """Return the distance that a new scan like those of distances (n,) exceeds with chance `refusal` at most.

    The order statistic of rank ceil((n + 1)(1 - refusal)), as in conformal prediction; the largest of all
    where there are too few scans for that, whose chance of refusal is then 1 / (n + 1).
    """
    rank = math.ceil((len(distances) + 1) * (1 - refusal) - 1e-9)
    return float(np.sort(distances)[min(rank, len(distances)) - 1])


def confidence_limit(confidence: Floats, doubt: float) -> float:
    """Return the confidence under which a new scan like those of (n,) lies with chance `doubt` or less.

    The order statistic of rank floor((n + 1) doubt); 0, which doubts nothing, where there are too few scans.
    """
    rank = math.floor((len(confidence) + 1) * doubt + 1e-9)
    return float(np.sort(confidence)[rank - 1]) if rank else 0.0


def risk_at_coverage(confidence: Floats, right: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the share of scans answered and the share of those that are wrong, each (n,), the surest first.

    Geifman & El-Yaniv 2017, "Selective classification for deep neural networks", NeurIPS.
    """
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    return answered / len(order), np.cumsum(~right[order]) / answered
