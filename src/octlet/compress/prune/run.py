"""A pruned run: a folder like a training's, with one such folder for every step that led to it.

checkpoint.safetensors, config.json, ...   the pruned network: what every other verb takes
pruning.json, .csv, .png                   what each step took, and what the training gave back
step-K/                                    the network after step K, a run like any other
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octlet.compress.answers import figures_of
from octlet.compress.config import PRUNE_TRAINING, PruneConfig
from octlet.compress.cost import cost_of
from octlet.compress.prune.channels import rebuilt
from octlet.compress.prune.figure import draw_pruning
from octlet.compress.prune.restore import scaled
from octlet.compress.prune.shrink import Shrinking
from octlet.compress.prune.sparsity import hold_zeros, sparsity_of, zipped_bytes
from octlet.core.errors import InputError, UsageError
from octlet.core.files import csv_of, sha256_of, write_json, write_text
from octlet.core.settings import as_dict, from_mapping
from octlet.models.resnet import ResNet, count_parameters
from octlet.models.spec import NetSpec
from octlet.train.checkpoint import (
    BEST,
    LAST,
    TrainedRun,
    load_float_run,
    load_run,
    read_tensors,
    save_run,
    write_tensors,
)
from octlet.train.config import TrainConfig
from octlet.train.loop import is_half
from octlet.train.objective import MatchedDistillation, Objective, Remembered
from octlet.train.run import Feedback, RunPlace, carry_out, device_of, folds_of, fresh_net, trained_split
from octlet.train.showing import Fold
from octlet.train.state import new_state

STEPS = "pruning.json"
CUT = "pruned.safetensors"  # a step's network before its training


def pruning_training(
    meta: Mapping[str, Any], overrides: Mapping[str, Any], config: PruneConfig
) -> TrainConfig:
    """Return the settings of the trainings between steps: the run's own, gentler unless it rewinds."""
    base = PRUNE_TRAINING if config.rewind == "no" else {"patience": 0}
    return from_mapping(TrainConfig, {**meta.get("config", {}), **base, **overrides}, "train")


def prune_run(
    run: Path,
    root: Path,
    out: Path,
    config: PruneConfig,
    training: Mapping[str, Any],
    *,
    teacher: Path | None = None,
    resume: bool = False,
    feedback: Feedback | None = None,
) -> dict[str, Any]:
    """Prune a trained run, in steps, into a run folder of its own.

    Args:
        run: folder of a float run; its split tells which scans train and validate.
        root: folder that the split's paths are relative to.
        out: the new run folder; must be empty unless resuming.
        config: how far and by what.
        training: settings that differ from `PRUNE_TRAINING`.
        teacher: run whose answers the trainings follow; `run` if not given.
        resume: go on where a stopped pruning stood: steps that are done are kept.
        feedback: where progress goes.

    Returns:
        {"run", "what", "dense", "pruned": validation figures of both, "macs", "parameters", "sparsity":
        of the result, "macs_share", "parameters_share": of the dense network's, "zipped_share": for single
        weights, of the dense parameters' size in a zip, "steps": rows of pruning.csv}.

    Raises:
        InputError, ModelFileError: no run, a damaged or quantised one; a teacher of another split.
        UsageError: `out` holds another run; settings that do not fit each other or the network.
        GateError: so few MACs cannot be reached.
        StoppedError: after a signal, with the state saved.
    """
    told = feedback or Feedback()
    trained = load_float_run(run)
    settings = pruning_training(trained.meta, training, config)
    if config.restore:
        scaled(trained.net.spec)  # or it is refused now
    split = trained_split(run, trained.meta)
    master = trained if teacher is None else load_float_run(teacher)
    if teacher is not None and trained_split(teacher, master.meta) != split:
        rule = f"its split is not that of {run}"
        raise InputError(rule, path=teacher, remedy="give a teacher of the run's split")
    if config.rewind == "weights" and fresh_net(settings, told)[0].spec != trained.net.spec:
        rule = f"a fresh '{settings.model}' has other channels than the run"
        raise UsageError(rule, path=run, remedy="rewind the run that it was pruned from")
    asked = as_dict(settings) | {"prune": as_dict(config), "teacher": sha256_of((teacher or run) / BEST)}
    place = RunPlace(out, asked, split, resume)
    _check_folder(place)
    folds = folds_of(settings, root, split, told)
    job = _Job(run, trained, master.net, config, settings, place, folds, told)
    return job.carry_out()


def _check_folder(place: RunPlace) -> None:
    """Raise UsageError where the folder holds another pruning, or any if there is nothing to resume."""
    if not place.resume or not (place.out / "config.json").is_file():
        replace(place, resume=False).check()
        return
    place.check_same(json.loads((place.out / "config.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class _Job:
    run: Path
    trained: TrainedRun
    teacher: ResNet
    config: PruneConfig
    settings: TrainConfig
    place: RunPlace
    folds: tuple[Fold, Fold]
    told: Feedback

    def carry_out(self) -> dict[str, Any]:
        out = self.place.out
        rows = json.loads((out / STEPS).read_text()) if (out / STEPS).is_file() else []
        if not rows:
            self.place.begin(self.settings.seed)
            first = figures_of(self.trained.net, self.folds[1], self.settings)
            rows.append(self._row(0, self.trained.net, first))
            self._record(rows)
        for k in range(len(rows), self.config.steps + 1):
            rows.append(self._step(k, rows))
            self._record(rows)
            self._tidy(k)
        last = load_run(out / f"step-{self.config.steps}")
        save_run(out, last.net, last.meta)
        return self._result(rows, last.net)

    def _step(self, k: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Shrink and train once; a step that was stopped goes on."""
        folder = self.place.out / f"step-{k}"
        net = self._cut(folder, k)
        before = figures_of(net, self.folds[1], self.settings)
        told = self._row(k, net, before)
        judged = ""
        if before:
            judged = f", balanced {before['val_balanced_accuracy']:.3f} before training"
        self.told.say(
            f"step {k} of {self.config.steps}: {told['macs'] / rows[0]['macs']:.1%} of the MACs, "
            f"{told['sparsity']:.1%} zeros{judged}"
        )
        settings = self._settings(k)
        plain = as_dict(settings) | {"prune": self.place.settings["prune"]}
        place = RunPlace(folder, plain, self.place.split, resume=(folder / LAST).is_file())
        state = new_state(net, settings, device_of(settings))
        if self.config.what == "weights":
            hold_zeros(state.net)
        meta = self._meta(net, settings, k, told)
        carry_out(state, self.folds, settings, place, meta, self._objective(settings), self.told)
        after = figures_of(load_run(folder).net, self.folds[1], self.settings)
        return told | {f"trained_{key}": value for key, value in after.items()}

    def _cut(self, folder: Path, k: int) -> ResNet:
        """Return the network that step k trains: found by ranking once, then kept on disk."""
        if (folder / CUT).is_file():
            tensors, record = read_tensors(folder / CUT)
            return rebuilt(NetSpec.from_dict(record["spec"]), tensors)
        before = self.run if k == 1 else self.place.out / f"step-{k - 1}"
        shrinking = Shrinking(
            self.config,
            self.trained.net.spec,
            self.settings,
            self.folds[0],
            self.told.bar,
            lambda: fresh_net(self.settings, self.told)[0],
        )
        net = shrinking.step(load_run(before).net, k)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / CUT, net.state_dict(), {"spec": net.spec.as_dict()})
        return net

    def _settings(self, k: int) -> TrainConfig:
        """Return the settings of the training after step k: another seed each, and its own length at last."""
        settings = replace(self.settings, seed=self.settings.seed + k)
        if k == self.config.steps and self.config.last_epochs:
            settings = replace(settings, epochs=self.config.last_epochs)
        return settings

    def _objective(self, settings: TrainConfig) -> Objective:
        return MatchedDistillation(
            label_smoothing=settings.label_smoothing,
            teacher=self._master if self.config.distil else None,
            weight=self.config.distil,
            temperature=self.config.temperature,
            half=is_half(settings, device_of(settings)),
            match="maps",
            match_weight=self.config.match,
        )

    @cached_property
    def _master(self) -> nn.Module:
        """The teacher of all steps: where views come again, it answers once for all of them."""
        device = device_of(self.settings)
        net = copy.deepcopy(self.teacher).eval().to(device)
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Remembered(net) if self.settings.views else net

    def _row(self, k: int, net: ResNet, figures: Mapping[str, float]) -> dict[str, Any]:
        return {
            "step": k,
            "macs": cost_of(net.spec, self.settings.size).macs,
            "parameters": count_parameters(net),
            "sparsity": sparsity_of(net),
            "units": sum(len(stage) for stage in net.spec.stages),
            **figures,
        }

    def _meta(self, net: ResNet, settings: TrainConfig, k: int, row: Mapping[str, Any]) -> dict[str, Any]:
        dropped = ("metrics", "epoch", "pruning")
        kept = {key: value for key, value in self.trained.meta.items() if key not in dropped}
        dense = {"spec": self.trained.net.spec.as_dict(), "metrics": self.trained.meta.get("metrics")}
        first = self.trained.meta.get("pruning", {}).get("first", dense)
        told = {name: row[name] for name in ("macs", "parameters", "sparsity")}
        pruning = as_dict(self.config) | {"step": k, **told, "first": first}
        kept["config"] = as_dict(settings) | {"weights": Path(settings.weights).name}
        return kept | {"spec": net.spec.as_dict(), "size": settings.size, "pruning": pruning}

    def _record(self, rows: list[dict[str, Any]]) -> None:
        out = self.place.out
        write_json(out / STEPS, rows)
        names = {name: None for row in reversed(rows) for name in row}
        write_text(out / "pruning.csv", csv_of(rows, sorted(names, key=_column)))
        if len(rows) > 1 and "val_loss" in rows[0]:
            draw_pruning(rows, self.config.what, out / "pruning.png")

    def _tidy(self, k: int) -> None:
        """Remove what only a stopped step needs."""
        for name in (LAST, CUT):
            (self.place.out / f"step-{k}" / name).unlink(missing_ok=True)

    def _result(self, rows: list[dict[str, Any]], net: ResNet) -> dict[str, Any]:
        first, last = rows[0], rows[-1]
        dense = {key: value for key, value in first.items() if key.startswith("val_")}
        found = {key.removeprefix("trained_"): v for key, v in last.items() if key.startswith("trained_")}
        result = {
            "run": str(self.place.out),
            "what": self.config.what,
            "dense": dense,
            "pruned": found,
            **{key: last[key] for key in ("macs", "parameters", "sparsity")},
            "macs_share": last["macs"] / first["macs"],
            "parameters_share": last["parameters"] / first["parameters"],
            "steps": rows,
        }
        if self.config.what == "weights":
            result["zipped_share"] = zipped_bytes(net) / zipped_bytes(self.trained.net)
        return result


def _column(name: str) -> tuple[bool, bool]:
    """Sort what a step took before what it did to the figures, untrained before trained."""
    return name.startswith("trained_"), name.startswith("val_")
