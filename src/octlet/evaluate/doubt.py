"""How a calibrated model doubts: do its sets hold the class, what does it refuse, how right is the rest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from octlet.core.labels import LABELS
from octlet.core.prediction import ABSTENTIONS, UNCERTAIN, Prediction
from octlet.evaluate.bootstrap import RESAMPLES, clusters_of, interval, resample, widened_at_bounds

# key in the summary -> (name, what it tells)
SHARES = {
    "covered": ("set holds the class", "share of scans whose prediction set holds their actual class"),
    "single": ("single class", "share of scans whose set is one class"),
    **{
        reason: (f"refused: {reason}" if reason != UNCERTAIN else "uncertain", "share of scans")
        for reason in ABSTENTIONS
    },
    "wrong": ("wrong", "share of all scans called by another label than theirs"),
    "answered_wrong": ("wrong where sure", "the same of scans that are neither refused nor uncertain"),
}


def doubt_of(
    labels: Sequence[str],
    patients: Sequence[str],
    said: Sequence[Prediction],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return how a calibrated model doubted n labelled scans of real patients, as plain JSON types.

    Args:
        labels: (n,) actual classes.
        patients: (n,), the clusters of the intervals.
        said: (n,) predictions, each with a set.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Each of `SHARES` as {"value", "low", "high", "n"}; `per_class`, label -> covered, in the same form;
        `set_size`, the mean number of classes in a set.
    """
    names = list(patients)

    def share(marks: Sequence[bool], rows: Sequence[int]) -> dict[str, Any]:
        values, clusters = [marks[row] for row in rows], [names[row] for row in rows]
        return share_of(values, clusters, resamples=resamples, seed=seed)

    every = range(len(said))
    covered = [label in (each.set or ()) for label, each in zip(labels, said, strict=True)]
    wrong = [label != each.label for label, each in zip(labels, said, strict=True)]
    found = {
        "covered": share(covered, every),
        "single": share([len(each.set or ()) == 1 for each in said], every),
        **{reason: share([each.abstain == reason for each in said], every) for reason in ABSTENTIONS},
        "wrong": share(wrong, every),
        "answered_wrong": share(wrong, [row for row in every if said[row].abstain is None]),
        "set_size": float(np.mean([len(each.set or ()) for each in said])),
    }
    found["per_class"] = {
        label: share(covered, [row for row in every if labels[row] == label]) for label in LABELS
    }
    return found


def share_of(
    marks: Sequence[bool], clusters: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Return the share of marks as value, low, high and n, drawing whole clusters; nulls where none is."""
    if not marks:
        return {"value": None, "low": None, "high": None, "n": 0}
    values = np.array(marks, float)
    numbers, count = clusters_of(clusters)
    hits, sizes = np.bincount(numbers, values, count), np.bincount(numbers, minlength=count)
    drawn = resample(
        clusters, lambda w: ((w.T @ hits) / (w.T @ sizes))[:, None], resamples=resamples, seed=seed
    )
    low, high = widened_at_bounds(*interval(drawn[:, 0]), count)
    known = np.isfinite([low, high]).all()
    return {
        "value": float(values.mean()),
        "low": low if known else None,
        "high": high if known else None,
        "n": len(values),
    }
