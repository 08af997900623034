"""The end of a sweep: the folds' predictions pooled, every point beside what it costs, one of them chosen."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octlet.compress.config import is_excluded
from octlet.compress.cost import NetCost, cost_of
from octlet.core.files import sha256_of, write_bytes, write_json, write_text
from octlet.evaluate.comparison import Contender, compare_models
from octlet.evaluate.frontier import frontier_csv, frontier_of
from octlet.evaluate.frontier_figure import frontier_png
from octlet.evaluate.predictions import Predictions, merge, read_predictions, write_predictions
from octlet.models.spec import NetSpec
from octlet.recipe.frontier_plan import Plan, Point
from octlet.runtime import pi5
from octlet.scoring import Scored, notes_on
from octlet.train.checkpoint import read_record

FRONTIER = "frontier.json"
RESULTS = (FRONTIER, "frontier.csv", "frontier.png", "predictions")


@dataclass(frozen=True)
class Entry:
    """A point and, for every fold, its float run, its model file and its predictions.csv."""

    point: Point
    runs: list[Path]
    models: list[Path]
    tables: list[Path]


def write_frontier(out: Path, entries: Sequence[Entry], plan: Plan, timing: Path) -> dict[str, Any]:
    """Write frontier.json, .csv, .png and the pooled predictions; return what frontier.json holds.

    Costs are those of the first fold's model files, which are also the ones that were timed; the MACs of
    every fold stand beside them. The first entry is the dense network in floats.
    """
    config = plan.config
    timed = json.loads(timing.read_text(encoding="utf-8"))
    pooled = [merge([read_predictions(table) for table in entry.tables]) for entry in entries]
    contenders = [
        _contender(entry, predictions, ratio)
        for entry, predictions, ratio in zip(entries, pooled, timed["ratios"], strict=True)
    ]
    comparison = compare_models(
        contenders, margin=config.margin, seed=config.seed, resamples=config.resamples
    )
    costs = [_costs(entry, entries[0], plan) for entry in entries]
    result = {
        **{key: comparison[key] for key in ("n", "patients", "labels", "reference", "margin")},
        "folds": len(entries[0].tables),
        **frontier_of(comparison, costs),
        **{key: comparison[key] for key in ("interval", "resamples", "seed")},
        "latency": {key: value for key, value in timed.items() if key != "ratios"},
        "pi5_modelled": _model_of_the_pi(),
        "notes": notes_on(Scored(pooled[0], {})),
        "notice": comparison["notice"],
    }
    for entry, predictions in zip(entries, pooled, strict=True):
        write_predictions(out / "predictions" / f"{entry.point.name.replace(' ', '-')}.csv", predictions)
    write_bytes(out / "frontier.png", frontier_png(result))
    write_text(out / "frontier.csv", frontier_csv(result))
    write_json(out / FRONTIER, result)
    return result


def _contender(entry: Entry, predictions: Predictions, ratio: float) -> Contender:
    files = {str(model): sha256_of(model) for model in entry.models}
    first = entry.models[0]
    identity = {"name": str(first), "sha256": files[str(first)], "files": files}
    return Contender(entry.point.name, predictions, identity, first.stat().st_size, ratio)


def _costs(entry: Entry, dense: Entry, plan: Plan) -> dict[str, Any]:
    by_fold = [_cost(run, entry.point) for run in entry.runs]
    cost, kept = by_fold[0], plan.quantize.exclude
    floats = sum(layer.macs for layer in cost.layers if is_excluded(layer.name, kept))
    if not entry.point.integers:
        floats = cost.macs
    return {
        "target": entry.point.target,
        "form": entry.point.form,
        "model": str(entry.models[0]),
        "macs": cost.macs,
        "macs_share": cost.macs / _cost(dense.runs[0], dense.point).macs,
        "macs_by_fold": [each.macs for each in by_fold],
        "parameters": cost.parameters,
        "pi5_modelled_ms": asdict(pi5.modelled_latency(cost.macs - floats, floats)),
    }


def _cost(run: Path, point: Point) -> NetCost:
    record = read_record(run)
    return cost_of(NetSpec.from_dict(record["spec"]), record["size"], quantised=point.integers)


def _model_of_the_pi() -> dict[str, Any]:
    return {
        "how": "multiply-accumulates of one scan / (peak * efficiency of a published run); never measured",
        "int8_peak_macs_per_second": pi5.INT8_PEAK,
        "float_peak_macs_per_second": pi5.FLOAT_PEAK,
        "published": [asdict(run) | {"efficiency": run.efficiency} for run in pi5.PUBLISHED],
        "ignores": pi5.IGNORED,
    }
