"""Two models on the same scans: McNemar's exact test, and intervals of model minus reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from octlet.core.errors import InputError, UsageError
from octlet.core.labels import LABELS
from octlet.evaluate import metrics
from octlet.evaluate.bootstrap import RESAMPLES, clusters_among, clusters_of, resample
from octlet.evaluate.metrics import Floats
from octlet.evaluate.predictions import Predictions
from octlet.evaluate.summary import confusion_by_cluster, estimate

MARGIN = 0.01

OVERALL = ("accuracy", "balanced_accuracy")


def compare(
    reference: Predictions,
    model: Predictions,
    *,
    names: tuple[str, str] = ("reference", "model"),
    margin: float = MARGIN,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Return `difference`, `discordant` and `not_inferior` of a model against a reference.

    Scans are matched by path; `names` are what errors call the two. `difference` holds model minus reference,
    each `{"value", "low", "high"}` with a 95 % patient-cluster bootstrap interval that draws the same
    patients for both. `not_inferior` is true when the low end of the balanced accuracy's difference lies
    above -margin. McNemar's p-value counts scans as independent; the intervals do not, so where patients have
    many scans the intervals decide. Models that call every scan alike have the interval 0 to 0: they agree on
    these scans, which proves nothing of others.
    Raises UsageError for a margin outside 0 to 1, and InputError, naming the first difference, where scans,
    labels or patients differ.
    """
    model = matched(reference, model, names)
    found = compare_trainings([reference], [model], margin=margin, seed=seed, resamples=resamples)
    return found | {"discordant": _discordant(reference, model)}


def compare_trainings(
    references: Sequence[Predictions],
    models: Sequence[Predictions],
    *,
    margin: float = MARGIN,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Return `difference` and `not_inferior` of one way of making a network against another.

    Each way was carried out once or more, by other seeds or on other machines, and every network said the
    same scans. `difference` is the mean over the models minus the mean over the references: what to expect of
    the way, of which the chance of a single training is a smaller part the more there are. The intervals draw
    patients, the same for all, and no trainings: they hold for the mean of these.
    Raises UsageError for a margin outside 0 to 1, InputError where scans, labels or patients differ.
    """
    if not 0 < margin < 1:
        raise UsageError(f"a non-inferiority margin lies between 0 and 1, not {margin}")
    first, *others = references
    ours = [first, *(matched(first, each, ("reference", "another reference")) for each in others)]
    theirs = [matched(first, each, ("reference", "model")) for each in models]
    pairs = [_Differences(one, other) for one in ours for other in theirs]

    def statistics(weights: Floats) -> Floats:
        found: Floats = np.mean([pair(weights) for pair in pairs], axis=0)
        return found

    values = statistics(np.ones((pairs[0].clusters, 1)))[0]
    drawn = resample(first.patients, statistics, resamples=resamples, seed=seed).T
    support = pairs[0].supporting_patients()
    estimates = [estimate(*row) for row in zip(values, drawn, support, strict=True)]
    overall = dict(zip(OVERALL, estimates, strict=False))
    low = overall["balanced_accuracy"]["low"]
    sensitivity = dict(zip(LABELS, estimates[len(OVERALL) :], strict=True))
    return {
        "difference": {**overall, "sensitivity": sensitivity},
        "not_inferior": low is not None and low > -margin,
    }


def matched(reference: Predictions, model: Predictions, names: tuple[str, str]) -> Predictions:
    """Return a model's predictions with their scans in the order of the reference's, matched by path.

    Raises InputError with the first difference in scans, labels or patients, the two called by `names`.
    """
    one, other = (f"'{name}'" for name in names)
    row_of = {path: row for row, path in enumerate(model.paths)}
    remedy = "a paired comparison needs the same scans in all"
    for path in reference.paths:
        if path not in row_of:
            raise InputError(f"{path} is in {one} and not in {other}", remedy=remedy)
    if len(model) > len(reference):
        known = set(reference.paths)
        extra = next(path for path in model.paths if path not in known)
        raise InputError(f"{extra} is in {other} and not in {one}", remedy=remedy)
    model = model.select([row_of[path] for path in reference.paths])
    for path, ours, theirs in zip(reference.paths, reference.labels, model.labels, strict=True):
        if ours != theirs:
            rule = f"{path} is {LABELS[ours]} in {one} and {LABELS[theirs]} in {other}"
            raise InputError(rule, remedy=remedy)
    for path, patient, another in zip(reference.paths, reference.patients, model.patients, strict=True):
        if patient != another:
            raise InputError(f"{path} is of patient {patient} in {one}, {another} in {other}", remedy=remedy)
    return model


def mcnemar_exact(one: int, other: int) -> float:
    """Return the two-sided exact p-value of McNemar's test from the two discordant counts.

    Under the null hypothesis each discordant scan falls on either side with probability 1/2, so p is twice
    the smaller tail of Binomial(one + other, 1/2), at most 1 (McNemar 1947, Psychometrika 12:153; exact
    form in Fay 2010, Biostatistics 11:373). Computed in whole numbers, rounded once.
    """
    n = one + other
    tail = term = 1
    for k in range(min(one, other)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


class _Differences:
    """The map from cluster weights (clusters, b) to differences, (b, k): OVERALL, then sensitivities."""

    def __init__(self, reference: Predictions, model: Predictions) -> None:
        self._labels = reference.labels
        self._cluster, self.clusters = clusters_of(reference.patients)
        self._counts = confusion_by_cluster(reference), confusion_by_cluster(model)

    def __call__(self, weights: Floats) -> Floats:
        before, after = (
            (weights.T @ counts).reshape(-1, len(LABELS), len(LABELS)) for counts in self._counts
        )
        accuracy = metrics.accuracy(after) - metrics.accuracy(before)
        sensitivity = metrics.sensitivity(after) - metrics.sensitivity(before)
        # The classes present are the same for both, so the mean of differences is the difference of means.
        return np.column_stack([accuracy, metrics.mean_of_defined(sensitivity), sensitivity])

    def supporting_patients(self) -> list[int]:
        """Return how many patients each difference rests on: those of its smallest class that is present."""
        of_class = [clusters_among(self._cluster, self._labels == k) for k in range(len(LABELS))]
        return [self.clusters, min(count for count in of_class if count), *of_class]


def _discordant(reference: Predictions, model: Predictions) -> dict[str, Any]:
    before, after = (each.predicted == each.labels for each in (reference, model))
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    return {
        "both_right": int((before & after).sum()),
        "only_reference_right": lost,
        "only_model_right": gained,
        "both_wrong": int((~before & ~after).sum()),
        "changed_call": int((reference.predicted != model.predicted).sum()),
        "mcnemar_p": mcnemar_exact(lost, gained),
    }
