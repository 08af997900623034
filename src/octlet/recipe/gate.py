"""The gate between two steps: has a step broken the network?

It looks at validation scans, which are few and have judged the training: it stops a chain that went wrong,
and proves nothing of one that went on. The proof is the comparison on the test scans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octlet.compress.quant.run import load_quantised
from octlet.core.errors import GateError
from octlet.core.files import write_json
from octlet.data.split import SplitRecord
from octlet.evaluate import metrics
from octlet.evaluate.figures import estimate_text
from octlet.evaluate.paired import compare
from octlet.evaluate.predictions import Predictions
from octlet.train.checkpoint import is_quantised, load_run, read_record
from octlet.train.config import TrainConfig
from octlet.train.loop import probabilities_of
from octlet.train.prior import shift_prior
from octlet.train.run import Feedback, folds_of

GATE = "gate.json"


def judge(
    dense: Path,
    run: Path,
    root: Path,
    split: Sequence[SplitRecord],
    config: TrainConfig,
    *,
    max_loss: float,
    resamples: int,
    seed: int,
    feedback: Feedback,
) -> dict[str, Any]:
    """Compare a step's network with the dense one on the validation scans, paired, and write `run`/gate.json.

    A prior shift that the step's network has is given to the dense one as well.

    Args:
        dense: folder of the dense run.
        run: folder of the step's run.
        root: folder that the split's paths are relative to.
        split: its val rows are used.
        config: of the dense training: batch and threads matter.
        max_loss: percentage points of balanced accuracy.
        resamples: of the patient-cluster bootstrap.
        seed: of the bootstrap.
        feedback: where progress goes.

    Returns:
        {"step", "passed", "max_loss", "n", "patients", "dense", "compressed": balanced accuracies in 0..1,
        "difference": compressed minus dense with its 95 % interval, "changed_call", "resamples", "seed"}.

    Raises:
        GateError: the whole interval of the difference lies below -max_loss, or the difference itself where a
            class of one patient leaves it without an interval; gate.json is written before.
        InputError, ModelFileError: no runs, or scans that cannot be read any more.
    """
    before, after = _both(dense, run, root, split, config, feedback)
    found = compare(before, after, names=("dense", run.name), resamples=resamples, seed=seed)
    difference = found["difference"]["balanced_accuracy"]
    high = difference["value"] if difference["high"] is None else difference["high"]
    result = {
        "step": run.name,
        "passed": high >= -max_loss / 100,
        "max_loss": max_loss,
        "n": len(before),
        "patients": len(set(before.patients)),
        "dense": _balanced(before),
        "compressed": _balanced(after),
        "difference": difference,
        "changed_call": found["discordant"]["changed_call"],
        "resamples": resamples,
        "seed": seed,
    }
    write_json(run / GATE, result)
    if not result["passed"]:
        remedy = "let the step take less or train longer, or raise gate.max_loss"
        rule = f"{told_of(result)}; all of that is a loss of more than gate.max_loss = {max_loss:g} points"
        raise GateError(rule, path=run, remedy=remedy)
    return result


def told_of(result: Mapping[str, Any]) -> str:
    """Return what a gate found, as one line."""
    return (
        f"{result['step']}: balanced accuracy {result['compressed']:.3f} on {result['n']} validation scans, "
        f"dense {result['dense']:.3f}, difference {estimate_text(result['difference'], signed=True)}"
    )


def _both(
    dense: Path, run: Path, root: Path, split: Sequence[SplitRecord], config: TrainConfig, told: Feedback
) -> tuple[Predictions, Predictions]:
    """Return what the dense network and the step's say of the validation scans."""
    small, meta = _network(run)
    trained = load_run(dense)
    shift_prior(trained, meta.get("prior_shift", 0.0), dense)
    before = _predictions(trained.net, _exact(config, trained.meta), root, split, told)
    return before, _predictions(small, _exact(config, meta), root, split, told)


def _network(run: Path) -> tuple[nn.Module, dict[str, Any]]:
    if is_quantised(read_record(run)):
        quantised = load_quantised(run)
        return quantised.twin, quantised.meta
    trained = load_run(run)
    return trained.net, trained.meta


def _exact(config: TrainConfig, meta: Mapping[str, Any]) -> TrainConfig:
    """Return settings to measure a run by: at the run's own size, without mixed precision."""
    return replace(config, size=meta["size"], amp="off")


def _predictions(
    net: nn.Module, config: TrainConfig, root: Path, split: Sequence[SplitRecord], told: Feedback
) -> Predictions:
    fold = folds_of(config, root, split, told)[1]
    rows = sorted((row for row in split if row.split == "val"), key=lambda row: row.path)  # the fold's order
    found = probabilities_of(net, fold, config, torch.device("cpu"))
    return Predictions(
        tuple(row.path for row in rows), fold.labels, tuple(row.patient for row in rows), found
    )


def _balanced(predictions: Predictions) -> float:
    confusion = metrics.confusion_matrix(predictions.labels, predictions.predicted)
    return float(metrics.balanced_accuracy(confusion))
