"""Every number of one evaluation with its interval, ready for JSON."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.labels import LABELS, NOTICE
from octlet.evaluate import metrics
from octlet.evaluate.bootstrap import (
    LEVEL,
    RESAMPLES,
    clusters_among,
    clusters_of,
    interval,
    resample,
    widened_at_bounds,
)
from octlet.evaluate.calibration import calibration_gaps, log_losses
from octlet.evaluate.metrics import URGENT, Floats, RankedScores
from octlet.evaluate.predictions import Predictions

OVERALL = (
    "accuracy",
    "balanced_accuracy",
    "macro_auc",
    "urgent_auc",
    "macro_f1",
    "ece",
    "log_loss",
    "urgent_called_normal_rate",
)
PER_CLASS = ("sensitivity", "specificity", "auc")

# Calibration error and log loss have no perfect end that a resample could stick to.
IS_SHARE = [name not in ("ece", "log_loss") for name in OVERALL] + [True] * len(PER_CLASS) * len(LABELS)

Estimate = dict[str, float | None]


def summarise(predictions: Predictions, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return every metric of `octlet evaluate --json`; the same predictions and seed give the same numbers.

    An estimate is `{"value", "low", "high"}`, low and high a 95 % patient-cluster bootstrap interval (see
    `octlet.evaluate.bootstrap`); in `per_class` a value stands bare and its ends are under `intervals`.
    A scan is called by its highest probability. `urgent_auc` sets CNV and DME against DRUSEN and NORMAL by
    p(CNV) + p(DME). With a class absent, its own entries are null and the macro averages (balanced accuracy,
    macro AUC, macro F1) run over the classes present; an AUC with one side empty is null. Raises UsageError
    for fewer than 100 resamples.
    """
    statistics = Statistics(predictions)
    values = statistics(np.ones((statistics.clusters, 1)))[0]
    resampled = resample(predictions.patients, statistics, resamples=resamples, seed=seed)
    support = statistics.supporting_patients()
    estimates = [
        estimate(value, column, patients, is_share=share)
        for value, column, patients, share in zip(values, resampled.T, support, IS_SHARE, strict=True)
    ]
    confusion = metrics.confusion_matrix(predictions.labels, predictions.predicted)
    missed = metrics.urgent_called_normal(predictions.labels, predictions.predicted)
    return {
        "n": len(predictions),
        "patients": statistics.clusters,
        "labels": list(LABELS),
        **dict(zip(OVERALL, estimates, strict=False)),
        "per_class": _per_class(estimates[len(OVERALL) :], confusion, support[len(OVERALL) :]),
        "confusion_matrix": confusion.tolist(),
        "urgent_called_normal": len(missed),
        "urgent_called_normal_paths": [predictions.paths[row] for row in missed],
        "interval": {"level": LEVEL, "method": "patient-cluster bootstrap, percentile"},
        "resamples": resamples,
        "seed": seed,
        "notice": NOTICE,
    }


def estimate(value: float, resampled: Floats, patients: int, *, is_share: bool = False) -> Estimate:
    """Return `{"value", "low", "high"}` with null for what is undefined.

    No interval is given on fewer than two patients. That of a share, a value between 0 and 1, is repaired
    at 0 and 1 (see `widened_at_bounds`).
    """
    low, high = interval(resampled) if patients > 1 else (math.nan, math.nan)
    if is_share:
        low, high = widened_at_bounds(low, high, patients)
    return {"value": _or_null(value), "low": _or_null(low), "high": _or_null(high)}


def _or_null(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def confusion_by_cluster(predictions: Predictions) -> Floats:
    """Return (clusters, K * K): every patient's confusion counts, whose weighted sums are a resample's."""
    cluster, clusters = clusters_of(predictions.patients)
    cells = np.zeros((clusters, len(LABELS) ** 2))
    np.add.at(cells, (cluster, predictions.labels * len(LABELS) + predictions.predicted), 1)
    return cells


class Statistics:
    """The map from cluster weights (clusters, b) to statistics (b, k): OVERALL, then PER_CLASS by label."""

    def __init__(self, predictions: Predictions) -> None:
        p, labels = predictions.probabilities, predictions.labels
        self._cluster, self.clusters = clusters_of(predictions.patients)
        self._confusion = confusion_by_cluster(predictions)
        self._gaps = self._sum_by_cluster(calibration_gaps(p, labels))
        self._losses = self._sum_by_cluster(log_losses(p, labels)[:, None])
        self._by_class = [RankedScores(p[:, k], labels == k) for k in range(len(LABELS))]
        self._urgent = RankedScores(metrics.urgent_score(p), URGENT[labels])
        classes = range(len(LABELS))
        self._patients_of_class = [clusters_among(self._cluster, labels == k) for k in classes]
        self._patients_of_others = [clusters_among(self._cluster, labels != k) for k in classes]
        self._patients_of_urgent = clusters_among(self._cluster, URGENT[labels])
        self._patients_of_rest = clusters_among(self._cluster, ~URGENT[labels])

    def _sum_by_cluster(self, rows: Floats) -> Floats:
        sums = np.zeros((self.clusters, rows.shape[1]))
        np.add.at(sums, self._cluster, rows)
        return sums

    def __call__(self, weights: Floats) -> Floats:
        """Return the statistics of resamples, (b, k)."""
        confusion = (weights.T @ self._confusion).reshape(-1, len(LABELS), len(LABELS))
        scans = confusion.sum(axis=(1, 2))
        of_scan = weights[self._cluster]
        aucs = np.stack([ranked.auc(of_scan) for ranked in self._by_class], axis=1)
        overall = {
            "accuracy": metrics.accuracy(confusion),
            "balanced_accuracy": metrics.balanced_accuracy(confusion),
            "macro_auc": metrics.mean_of_defined(aucs),
            "urgent_auc": self._urgent.auc(of_scan),
            "macro_f1": metrics.macro_f1(confusion),
            "ece": np.abs(weights.T @ self._gaps).sum(axis=1) / scans,
            "log_loss": (weights.T @ self._losses)[:, 0] / scans,
            "urgent_called_normal_rate": metrics.urgent_called_normal_rate(confusion),
        }
        per_class = [metrics.sensitivity(confusion), metrics.specificity(confusion), aucs]
        return np.column_stack([*(overall[name] for name in OVERALL), *per_class])

    def supporting_patients(self) -> list[int]:
        """Return how many patients each statistic rests on: those of its smallest group that is present."""
        ours, others = self._patients_of_class, self._patients_of_others
        either = [min(pair) for pair in zip(ours, others, strict=True)]
        smallest_class = min(count for count in ours if count)
        overall = {
            **dict.fromkeys(("accuracy", "ece", "log_loss"), self.clusters),
            **dict.fromkeys(("balanced_accuracy", "macro_f1"), smallest_class),
            "macro_auc": min([count for count in either if count], default=0),
            "urgent_auc": min(self._patients_of_urgent, self._patients_of_rest),
            "urgent_called_normal_rate": self._patients_of_urgent,
        }
        return [*(overall[name] for name in OVERALL), *ours, *others, *either]


def _per_class(
    estimates: list[Estimate], confusion: NDArray[np.int64], patients: list[int]
) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for k, label in enumerate(LABELS):
        own = {name: estimates[len(LABELS) * row + k] for row, name in enumerate(PER_CLASS)}
        result[label] = {
            "n": int(confusion[k].sum()),
            "patients": patients[k],
            **{name: each["value"] for name, each in own.items()},
            "intervals": {name: {"low": each["low"], "high": each["high"]} for name, each in own.items()},
        }
    return result
