"""A sweep over targets as stages: every RUN is pruned on and on, and each point rounded, exported and tested.

OUT/fold-K/TARGET/prune                  the pruned run; K counts the RUNs, TARGET is "dense" or "0.25"
OUT/fold-K/TARGET/int8/run               the quantised run
OUT/fold-K/TARGET/int8/model.octlet      its model file; "float" in place of "int8" where nothing is rounded
OUT/fold-K/TARGET/int8/predictions.csv   what it says of the test scans of RUN's split
OUT/latency.json                         the first fold's model files, timed in turn
OUT/predictions/0.25-int8.csv            the test scans of all folds
OUT/frontier.json, .csv, .png            the points, and which to choose
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from octlet.compress.prune.run import STEPS, prune_run
from octlet.compress.quant.run import quantize_run
from octlet.core.bundle import open_bundle
from octlet.core.errors import InputError, UsageError
from octlet.core.files import write_json
from octlet.core.settings import as_dict
from octlet.data.source import open_source
from octlet.evaluate.predictions import write_predictions
from octlet.export.package import export_run
from octlet.recipe.branch import Voice, run_folder
from octlet.recipe.frontier_plan import Plan, Point, macs_of
from octlet.recipe.frontier_table import RESULTS, Entry, write_frontier
from octlet.recipe.runner import Stage
from octlet.runtime import latency
from octlet.scoring import Request, load
from octlet.train.checkpoint import BEST, LAST

LATENCY = "latency.json"


def frontier_stages(runs: Sequence[Path], scans: Path, out: Path, plan: Plan, voice: Voice) -> list[Stage]:
    """Return the sweep's stages in order; nothing is computed yet.

    They go from target to target and not from fold to fold, so that a sweep that is stopped, or ends at a
    target that cannot be reached, leaves whole points: the same command with fewer targets shows them.

    Args:
        runs: float runs with test sets of their own, see `check_runs`.
        scans: what they were trained on.
        out: the sweep's folder.
        plan: the points and their settings.
        voice: where progress goes.
    """
    sweep = _Sweep([run.resolve() for run in runs], scans, out, plan, voice)
    folds = range(len(runs))
    stages = []
    for point in plan.points:
        for k in folds:
            if point.target is not None:
                stages.append(sweep.prune(k, point.target))
            stages += sweep.point(k, point)
    return [*stages, sweep.timing(), sweep.table()]


@dataclass(frozen=True)
class _Sweep:
    runs: list[Path]
    scans: Path
    out: Path
    plan: Plan
    voice: Voice

    def network(self, k: int, target: float | None) -> Path:
        """Return the folder of the float run that a target has in a fold."""
        return self.runs[k] if target is None else self.out / f"fold-{k}" / str(target) / "prune"

    def place(self, k: int, point: Point) -> Path:
        return self.out / f"fold-{k}" / point.folder / point.form

    def prune(self, k: int, target: float) -> Stage:
        """Prune on from the target before, towards this share of the dense network's MACs."""
        before = self.network(k, next((t for t in reversed(self.plan.targets) if t > target), None))
        dense, out = self.runs[k], self.network(k, target)

        def action(again: bool) -> None:
            share = target * macs_of(dense) / macs_of(before)
            if share > 1:
                rule = f"no step towards {target} of the MACs: the network has fewer already"
                raise UsageError(rule, path=before, remedy="leave out this target")
            resume = again and (out / STEPS).is_file()
            with run_folder(out, resume):
                prune_run(
                    before,
                    open_source(self.scans).root,
                    out,
                    replace(self.plan.prune, to_macs=share),
                    self.plan.train,
                    teacher=dense,
                    resume=resume,
                    feedback=self.voice.train,
                )

        settings = as_dict(replace(self.plan.prune, to_macs=target)) | {"train": _lasting(self.plan.train)}
        inputs = [before / BEST, before / "split.csv", dense / BEST]
        return Stage(f"fold-{k}/{target}/prune", settings, inputs, [out], action)

    def point(self, k: int, point: Point) -> list[Stage]:
        """Round a point's network if it is to be, export it, and test it on the fold's own test scans."""
        source, folder = self.network(k, point.target), self.place(k, point)
        rounding = []
        if point.integers:
            rounding = [self._quantise(k, point, source)]
            source = folder / "run"
        return [*rounding, self._export(k, point, source), self._score(k, point)]

    def _quantise(self, k: int, point: Point, source: Path) -> Stage:
        out = self.place(k, point) / "run"

        def action(again: bool) -> None:
            resume = again and (out / LAST).is_file()
            root = open_source(self.scans).root
            with run_folder(out, resume):
                quantize_run(
                    source,
                    root,
                    out,
                    self.plan.quantize,
                    self.plan.qat,
                    resume=resume,
                    feedback=self.voice.train,
                )

        settings = as_dict(self.plan.quantize) | {"train": _lasting(self.plan.qat)}
        inputs = [source / BEST, source / "split.csv"]
        return Stage(f"fold-{k}/{point.folder}/int8/quantise", settings, inputs, [out], action)

    def _export(self, k: int, point: Point, source: Path) -> Stage:
        config, model = self.plan.config, self.place(k, point) / "model.octlet"
        settings: dict[str, Any] = {
            "name": f"{self.out.resolve().name} {point.name}",
            "licence": config.licence,
            "prior_shift": 0.0 if point.integers else config.prior_shift,
            "images": config.images,
        }

        def action(_again: bool) -> None:
            export_run(source, model, **settings, progress=self.voice.bar("comparing images"))

        stage = f"fold-{k}/{point.folder}/{point.form}/export"
        return Stage(stage, settings, [source / BEST], [model], action)

    def _score(self, k: int, point: Point) -> Stage:
        folder, split = self.place(k, point), self.runs[k] / "split.csv"
        model, table = folder / "model.octlet", folder / "predictions.csv"

        def action(_again: bool) -> None:
            scored = load(model, Request(self.scans, split, "test", None), self.voice.bar("scoring scans"))
            if scored.unreadable:
                raise InputError("a scan of the split cannot be read", path=scored.unreadable[0].path)
            write_predictions(table, scored.predictions)

        stage = f"fold-{k}/{point.folder}/{point.form}/test"
        return Stage(stage, {}, [model, split], [table], action)

    def timing(self) -> Stage:
        """Time the first fold's model files against each other: all of them again if one changes."""
        models = [self.place(0, point) / "model.octlet" for point in self.plan.points]
        file = self.out / LATENCY

        def action(_again: bool) -> None:
            bundles = [open_bundle(model) for model in models]
            found = latency.measure_files(bundles, self.voice.bar("measuring speed"))
            told = latency.HOW
            write_json(file, told | {"machine": platform.machine(), "ratios": list(found.ratios)})

        return Stage("latency", {}, models, [file], action)

    def table(self) -> Stage:
        """Pool the folds and judge the points."""
        folds = range(len(self.runs))
        entries = [
            Entry(
                point,
                [self.network(k, point.target) for k in folds],
                [self.place(k, point) / "model.octlet" for k in folds],
                [self.place(k, point) / "predictions.csv" for k in folds],
            )
            for point in self.plan.points
        ]
        config = self.plan.config
        settings = {key: getattr(config, key) for key in ("margin", "resamples", "seed")}
        inputs = [self.out / LATENCY, *(path for each in entries for path in (*each.models, *each.tables))]

        def action(_again: bool) -> None:
            write_frontier(self.out, entries, self.plan, self.out / LATENCY)

        outputs = [self.out / name for name in RESULTS]
        return Stage("frontier", settings, inputs, outputs, action)


def _lasting(training: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what changes no result."""
    return {key: value for key, value in training.items() if key not in ("save_minutes", "threads")}
