"""Two models on the same scans: McNemar's exact test and intervals of the differences, all B minus A."""

import math
from typing import Any

import numpy as np

from octlet.core.errors import InputError, UsageError
from octlet.core.labels import LABELS, NOTICE
from octlet.evaluate import metrics
from octlet.evaluate.bootstrap import LEVEL, RESAMPLES, clusters_among, clusters_of, resample
from octlet.evaluate.metrics import Floats
from octlet.evaluate.predictions import Predictions
from octlet.evaluate.summary import confusion_by_cluster, estimate

MARGIN = 0.01

OVERALL = ("accuracy", "balanced_accuracy")


def compare(
    a: Predictions, b: Predictions, *, margin: float = MARGIN, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Return every number of `octlet compare --json` for model B against model A.

    Scans are matched by path. `difference` holds B minus A, each `{"value", "low", "high"}` with a 95 %
    patient-cluster bootstrap interval that draws the same patients for both. `not_inferior` is true when
    the low end of the balanced accuracy's difference lies above -margin. McNemar's p-value counts scans as
    independent; the intervals do not, so where patients have many scans the intervals decide. Models that
    call every scan alike have the interval 0 to 0: they agree on these scans, which proves nothing of others.
    Raises InputError, naming the first difference, where scans, labels or patients differ, and UsageError
    for a margin outside 0 to 1.
    """
    if not 0 < margin < 1:
        raise UsageError(f"a non-inferiority margin lies between 0 and 1, not {margin}")
    b = matched(a, b)
    statistics = _Differences(a, b)
    values = statistics(np.ones((statistics.clusters, 1)))[0]
    drawn = resample(a.patients, statistics, resamples=resamples, seed=seed).T
    support = statistics.supporting_patients()
    estimates = [estimate(*row) for row in zip(values, drawn, support, strict=True)]
    overall = dict(zip(OVERALL, estimates, strict=False))
    low = overall["balanced_accuracy"]["low"]
    return {
        "n": len(a),
        "patients": statistics.clusters,
        "labels": list(LABELS),
        "a": _one_model(a),
        "b": _one_model(b),
        "difference": {
            **overall,
            "sensitivity": dict(zip(LABELS, estimates[len(OVERALL) :], strict=True)),
        },
        "discordant": _discordant(a, b),
        "margin": margin,
        "not_inferior": low is not None and low > -margin,
        "interval": {"level": LEVEL, "method": "patient-cluster bootstrap, percentile, paired"},
        "resamples": resamples,
        "seed": seed,
        "notice": NOTICE,
    }


def matched(a: Predictions, b: Predictions) -> Predictions:
    """Return `b` with its scans in the order of `a`; InputError names the first difference between them."""
    row_in_b = {path: row for row, path in enumerate(b.paths)}
    remedy = "a paired comparison needs the same scans in both"
    for path in a.paths:
        if path not in row_in_b:
            raise InputError(f"{path} is in A and not in B", remedy=remedy)
    if len(b) > len(a):
        in_a = set(a.paths)
        only_b = next(path for path in b.paths if path not in in_a)
        raise InputError(f"{only_b} is in B and not in A", remedy=remedy)
    b = b.select([row_in_b[path] for path in a.paths])
    for path, ours, theirs in zip(a.paths, a.labels, b.labels, strict=True):
        if ours != theirs:
            raise InputError(f"{path} is {LABELS[ours]} in A and {LABELS[theirs]} in B", remedy=remedy)
    for path, one, other in zip(a.paths, a.patients, b.patients, strict=True):
        if one != other:
            raise InputError(f"{path} is of patient {one} in A and of {other} in B", remedy=remedy)
    return b


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided exact p-value of McNemar's test from the two discordant counts.

    Under the null hypothesis each discordant scan falls on either side with probability 1/2, so p is twice
    the smaller tail of Binomial(only_a + only_b, 1/2), at most 1 (McNemar 1947, Psychometrika 12:153; exact
    form in Fay 2010, Biostatistics 11:373). Computed in whole numbers, rounded once.
    """
    n = only_a + only_b
    tail = term = 1
    for k in range(min(only_a, only_b)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


class _Differences:
    """The map from cluster weights (clusters, b) to B minus A, (b, k): OVERALL, then sensitivity by label."""

    def __init__(self, a: Predictions, b: Predictions) -> None:
        self._labels = a.labels
        self._cluster, self.clusters = clusters_of(a.patients)
        self._counts = confusion_by_cluster(a), confusion_by_cluster(b)

    def __call__(self, weights: Floats) -> Floats:
        confusion_a, confusion_b = (
            (weights.T @ counts).reshape(-1, len(LABELS), len(LABELS)) for counts in self._counts
        )
        accuracy = metrics.accuracy(confusion_b) - metrics.accuracy(confusion_a)
        sensitivity = metrics.sensitivity(confusion_b) - metrics.sensitivity(confusion_a)
        # The classes present are the same for both, so the mean of differences is the difference of means.
        return np.column_stack([accuracy, metrics.mean_of_defined(sensitivity), sensitivity])

    def supporting_patients(self) -> list[int]:
        """Return how many patients each difference rests on: those of its smallest class that is present."""
        of_class = [clusters_among(self._cluster, self._labels == k) for k in range(len(LABELS))]
        return [self.clusters, min(count for count in of_class if count), *of_class]


def _one_model(predictions: Predictions) -> dict[str, Any]:
    confusion = metrics.confusion_matrix(predictions.labels, predictions.predicted)
    missed = metrics.urgent_called_normal(predictions.labels, predictions.predicted)
    sensitivity = (None if math.isnan(value) else float(value) for value in metrics.sensitivity(confusion))
    return {
        "accuracy": float(metrics.accuracy(confusion)),
        "balanced_accuracy": float(metrics.balanced_accuracy(confusion)),
        "sensitivity": dict(zip(LABELS, sensitivity, strict=True)),
        "confusion_matrix": confusion.tolist(),
        "urgent_called_normal": len(missed),
        "urgent_called_normal_paths": [predictions.paths[row] for row in missed],
    }


def _discordant(a: Predictions, b: Predictions) -> dict[str, Any]:
    right_a, right_b = a.predicted == a.labels, b.predicted == b.labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return {
        "both_right": int((right_a & right_b).sum()),
        "only_a_right": only_a,
        "only_b_right": only_b,
        "both_wrong": int((~right_a & ~right_b).sum()),
        "changed_call": int((a.predicted != b.predicted).sum()),
        "mcnemar_p": mcnemar_exact(only_a, only_b),
    }
