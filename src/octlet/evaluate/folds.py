"""A cross-validation by its folds: every metric as the mean over them, beside that of the pooled scans."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from octlet.evaluate.bootstrap import RESAMPLES, resample
from octlet.evaluate.metrics import mean_of_defined
from octlet.evaluate.predictions import Predictions
from octlet.evaluate.summary import IS_SHARE, OVERALL, Statistics, estimate


def mean_of_folds(
    parts: Sequence[Predictions], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Return metrics as `{"value", "low", "high", "folds"}`: the mean, its interval, and each fold's.

    They are those of `OVERALL` but the calibration error, which is the larger the fewer the scans are.
    Pooled, an AUC ranks scores of several networks against each other, which none of them was made for; the
    mean over folds ranks each network's scans among its own (Forman & Scholz 2010, "Apples-to-apples in
    cross-validation studies", SIGKDD Explorations 12(1):49). Folds in which a metric is undefined, null in
    `folds`, are left out of its mean. The 95 % interval draws each fold's patients from that fold; it takes
    for granted that no patient is in two (see `shared_patients`). Raises UsageError for fewer than 100
    resamples.
    """
    of_fold = [Statistics(part) for part in parts]
    values = np.stack([each(np.ones((each.clusters, 1)))[0] for each in of_fold])
    drawn = np.stack(
        [
            resample(part.patients, each, resamples=resamples, seed=seed + number)
            for number, (part, each) in enumerate(zip(parts, of_fold, strict=True))
        ]
    )
    support = np.sum([each.supporting_patients() for each in of_fold], axis=0)
    found: dict[str, Any] = {}
    for k, name in enumerate(OVERALL):
        if name == "ece":
            continue
        value = float(mean_of_defined(values[None, :, k])[0])
        column = mean_of_defined(drawn[:, :, k].T)
        told = estimate(value, column, int(support[k]), is_share=IS_SHARE[k])
        found[name] = {**told, "folds": [float(v) if np.isfinite(v) else None for v in values[:, k]]}
    return found


def shared_patients(parts: Sequence[Predictions]) -> int:
    """Return how many patients stand in more than one part."""
    names = [name for part in parts for name in set(part.patients)]
    return len(names) - len(set(names))
