"""Several models on the same scans: each one's figures, and its paired differences from the first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from octlet.core.errors import UsageError
from octlet.core.labels import LABELS
from octlet.evaluate.bootstrap import RESAMPLES
from octlet.evaluate.paired import MARGIN, compare, matched
from octlet.evaluate.predictions import Predictions
from octlet.evaluate.summary import summarise


@dataclass(frozen=True)
class Contender:
    """A model in a comparison.

    Attributes:
        name: what it is called in tables and figures; no two share one.
        predictions: what it said of the scans.
        identity: what made the predictions, as JSON; `name` and `sha256` at least.
        bytes: of its model file; None where there is no file.
        latency_ratio: how many times faster than the reference it is; None where that is not known.
    """

    name: str
    predictions: Predictions
    identity: dict[str, Any]
    bytes: int | None = None
    latency_ratio: float | None = None


def compare_models(
    contenders: Sequence[Contender], *, margin: float = MARGIN, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Return every number of `octlet compare --json`: figures per model, differences from the first.

    The first contender is the reference. Estimates of `models` are those of `summarise`, `comparisons` those
    of `paired.compare`, one for each other model. All draw the same patients. `size_ratio` is the reference's
    file size over the model's: above 1 the model is smaller.

    Raises UsageError for fewer than two contenders, names that are not unique and what `paired.compare`
    refuses, and InputError where scans, labels or patients differ.
    """
    names = [contender.name for contender in contenders]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(f"a comparison needs two models or more, each with a name of its own, not {names}")
    reference, *others = _in_one_order(contenders)
    summaries = [summarise(each.predictions, seed=seed, resamples=resamples) for each in (reference, *others)]
    shared = summaries[0]
    return {
        **{key: shared[key] for key in ("n", "patients", "labels")},
        "reference": reference.name,
        "models": [
            _model(contender, summary, reference.bytes)
            for contender, summary in zip((reference, *others), summaries, strict=True)
        ],
        "comparisons": [
            {
                "name": each.name,
                **compare(
                    reference.predictions, each.predictions, margin=margin, seed=seed, resamples=resamples
                ),
            }
            for each in others
        ],
        "margin": margin,
        "interval": {**shared["interval"], "differences": "the same patients drawn for both models"},
        "resamples": resamples,
        "seed": seed,
        "notice": shared["notice"],
    }


def newly_called_normal(comparison: dict[str, Any], name: str) -> list[str]:
    """Return the urgent scans that this model calls NORMAL and the reference does not, in its order."""
    called = {model["name"]: model["urgent_called_normal_paths"] for model in comparison["models"]}
    before = set(called[comparison["reference"]])
    return [path for path in called[name] if path not in before]


def _in_one_order(contenders: Sequence[Contender]) -> list[Contender]:
    reference, *others = contenders
    first = reference.predictions
    ordered = (matched(first, each.predictions, (reference.name, each.name)) for each in others)
    return [reference, *(replace(each, predictions=p) for each, p in zip(others, ordered, strict=True))]


def _model(contender: Contender, summary: dict[str, Any], reference_bytes: int | None) -> dict[str, Any]:
    size_ratio = None
    if reference_bytes is not None and contender.bytes is not None:
        size_ratio = reference_bytes / contender.bytes
    return {
        "name": contender.name,
        "identity": contender.identity,
        **{key: summary[key] for key in ("accuracy", "balanced_accuracy", "macro_auc")},
        "sensitivity": {label: summary["per_class"][label]["sensitivity"] for label in LABELS},
        **{key: summary[key] for key in ("confusion_matrix", "urgent_called_normal")},
        "urgent_called_normal_paths": summary["urgent_called_normal_paths"],
        "bytes": contender.bytes,
        "size_ratio": size_ratio,
        "latency_ratio": contender.latency_ratio,
    }
