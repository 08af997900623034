"""A student learns from the labels and from what a trained network, or several, say of the same scans."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from octlet.compress.prune.sparsity import hold_zeros
from octlet.core.errors import InputError, UsageError
from octlet.core.files import sha256_of
from octlet.core.settings import as_dict, check_ranges, from_mapping
from octlet.data.split import SplitRecord
from octlet.models.resnet import Outputs, count_parameters
from octlet.train.checkpoint import BEST, TrainedRun, load_float_run
from octlet.train.config import TrainConfig
from octlet.train.loop import is_half, validate
from octlet.train.objective import Distillation, MatchedDistillation, Remembered, on_one_grid
from octlet.train.run import (
    Feedback,
    RunPlace,
    carry_out,
    device_of,
    folds_of,
    fresh_net,
    record_of,
    trained_split,
)
from octlet.train.showing import resized
from octlet.train.state import new_state

Match = Literal["none", "maps", "cam", "features"]


@dataclass(frozen=True)
class DistilConfig:
    """What a student takes from its teacher.

    Attributes:
        weight: of the teacher's answers in the loss, in 0..1; the labels have the rest.
        temperature: that softens both answers (Hinton et al. 2015).
        match: what else is drawn to the teacher's: class activation maps as they are (maps) or each of length
            one (cam), or the similarities of a batch's embeddings (features); see `octlet.train.objective`.
        match_weight: what that distance, about 1 or less for maps, in 0..4 for the others, is multiplied by
            before it is added.
        mirror: show each teacher the scan mirrored left to right too, and take the mean of what it says:
            what is true of a left eye is of a right one, and few scans do not teach that quite.
        teacher_size: pixels of the scans that teachers are shown, 0 for the size that each was trained at;
            at a larger one it may know more (Touvron et al. 2019, arXiv:1906.06423).
    """

    weight: float = 0.7
    temperature: float = 2.0
    match: Match = "none"
    match_weight: float = 10.0
    mirror: bool = False
    teacher_size: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, "distill", _RANGES)
        if not self.weight and (self.match == "none" or not self.match_weight):
            rule = "distill.weight = 0.0, and nothing else of the teacher is asked for"
            raise UsageError(rule, remedy="raise it, or set --match, or use 'octlet train'")
        if self.teacher_size and not 32 <= self.teacher_size <= 1024:
            rule = f"distill.teacher_size = {self.teacher_size} is neither 0 nor in 32..1024"
            raise UsageError(rule, remedy="leave it out: each teacher has its own size")


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("weight", 0.0, 1.0),
    ("temperature", 0.1, 100.0),
    ("match_weight", 0.0, 1e6),
)


class Ensemble(nn.Module):
    """Trained networks as one teacher, each shown the scans at a size of its own.

    Its logits are the logarithms of the mean probabilities, so that a softmax gives these back; its maps are
    the mean of theirs, at the smallest grid among them; its embeddings stand side by side, and one that is
    longer counts for more in a batch's similarities. With `mirror` each stands in all of these twice: for the
    scan, and for its mirror image with the maps mirrored back.
    """

    def __init__(self, nets: Sequence[nn.Module], sizes: Sequence[int], *, mirror: bool = False) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.sizes = tuple(sizes)
        self.mirror = mirror

    def forward(self, scans: Tensor) -> Outputs:
        """Map scans (N, 1, S, S) to `Outputs`; its embedding is as wide as all of theirs together."""
        found = [net(resized(scans, size)) for net, size in zip(self.nets, self.sizes, strict=True)]
        if self.mirror:
            turned = scans.flip(3)
            others = [net(resized(turned, size)) for net, size in zip(self.nets, self.sizes, strict=True)]
            found += [each._replace(cam=each.cam.flip(3)) for each in others]
        logs = torch.stack([each.logits.float().log_softmax(1) for each in found])
        maps = torch.stack(on_one_grid([each.cam.float() for each in found]))
        embeddings = torch.cat([each.embedding.float() for each in found], 1)
        return Outputs(logs.logsumexp(0) - math.log(len(found)), maps.mean(0), embeddings)


@dataclass(frozen=True)
class _Known:
    """A float run that was read, and who it is."""

    run: Path
    trained: TrainedRun
    sha256: str

    @classmethod
    def read(cls, run: Path) -> "_Known":
        return cls(run, load_float_run(run), sha256_of(run / BEST))

    @property
    def size(self) -> int:
        size: int = self.trained.meta["size"]
        return size

    def identity(self) -> dict[str, Any]:
        """Return what a student's record says of it."""
        meta = self.trained.meta
        return {
            "run": self.run.resolve().name,
            "sha256": self.sha256,
            "model": meta.get("config", {}).get("model"),
            "size": self.size,
            "parameters": count_parameters(self.trained.net),
            "epoch": meta.get("epoch"),
            "metrics": meta.get("metrics", {}),
        }


def distil_run(
    teachers: Sequence[Path],
    root: Path,
    out: Path,
    config: DistilConfig,
    training: Mapping[str, Any],
    *,
    student: Path | None = None,
    resume: bool = False,
    feedback: Feedback | None = None,
) -> dict[str, Any]:
    """Train a student on its teachers' answers into a run folder of its own.

    Args:
        teachers: folders of float runs of one split, which is the student's too.
        root: folder that the split's paths are relative to.
        out: the new run folder; must be empty unless resuming.
        config: what is taken from the teachers.
        training: settings that differ from a training's, or from those of `student`. The size is the first
            teacher's, or the student's, if it is not given.
        student: folder of a float run whose network goes on learning; None begins a fresh one. Weights that
            were pruned to zero stay so.
        resume: continue a stopped training.
        feedback: where progress goes.

    Returns:
        {"run", "epochs", "kept": the row of the epoch that was kept, "parameters", "weights": load report or
        None, "teachers": who they are, "teacher", "student": validation figures of both, on the same scans}.

    Raises:
        InputError: no such run, runs of different splits, or trained on other scans than their split says.
        ModelFileError: a damaged or quantised run.
        UsageError: `out` holds another run; settings that do not fit; a teacher that is given twice.
        StoppedError: after a signal, with the state saved.
    """
    told = feedback or Feedback()
    taught = [_Known.read(run) for run in teachers]
    begun = None if student is None else _Known.read(student)
    split = _common_split(taught, begun)
    settings = _settings(taught, begun, training)
    given: dict[str, Any] = as_dict(settings) | {"distill": as_dict(config)}
    given["teachers"] = [each.sha256 for each in taught]  # a folder may be moved between stop and resume
    given["student"] = None if begun is None else begun.sha256
    place = RunPlace(out, given, split, resume)
    place.check()
    return _Lesson(taught, begun, config, settings, place, told).give(root)


@dataclass(frozen=True)
class _Lesson:
    teachers: list[_Known]
    begun: _Known | None
    config: DistilConfig
    settings: TrainConfig
    place: RunPlace
    told: Feedback

    def give(self, root: Path) -> dict[str, Any]:
        """Train the student, and measure both it and its teacher on the validation fold."""
        split, device = self.place.split, device_of(self.settings)
        folds = folds_of(self.settings, root, split, self.told)
        # as large as its largest teacher knows them; the student's are reduced from these
        whole = folds_of(replace(self.settings, size=self._largest), root, split, self.told)
        teacher = self._teacher(device)
        shown = validate(teacher, whole[1], self.settings, device)
        net, report = (self.begun.trained.net, None) if self.begun else fresh_net(self.settings, self.told)
        state = new_state(net, self.settings, device)
        if self.begun and self.begun.trained.meta.get("pruning", {}).get("what") == "weights":
            hold_zeros(state.net)
        meta = self._record(record_of(self.settings, net, self.place.split))
        objective, shown_folds = self._objective(teacher), (whole[0], folds[1])
        rows = carry_out(state, shown_folds, self.settings, self.place, meta, objective, self.told)
        kept = rows[state.progress.kept(self.settings.keep)]
        return {
            "run": str(self.place.out),
            "epochs": len(rows),
            "kept": kept,
            "parameters": count_parameters(net),
            "weights": None if report is None else vars(report),
            "teachers": meta["teacher"],
            "teacher": {f"val_{key}": value for key, value in shown.items()},
            "student": {f"val_{key}": kept[f"val_{key}"] for key in shown},
        }

    @property
    def _largest(self) -> int:
        return max(self.settings.size, *self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [self.config.teacher_size or each.size for each in self.teachers]

    def _teacher(self, device: torch.device) -> nn.Module:
        nets = [each.trained.net for each in self.teachers]
        teacher: nn.Module = Ensemble(nets, self._sizes, mirror=self.config.mirror)
        teacher = teacher.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not self.settings.views:
            return teacher
        return Remembered(teacher, embeddings=self.config.match == "features")

    def _objective(self, teacher: nn.Module) -> Distillation:
        smoothing, half = self.settings.label_smoothing, is_half(self.settings, device_of(self.settings))
        plain = Distillation(smoothing, teacher, self.config.weight, self.config.temperature, half)
        if self.config.match == "none":
            return plain
        return MatchedDistillation(
            **vars(plain), match=self.config.match, match_weight=self.config.match_weight
        )

    def _record(self, own: dict[str, Any]) -> dict[str, Any]:
        whole = own | {
            "distill": as_dict(self.config),
            "teacher": [each.identity() for each in self.teachers],
        }
        if self.begun is None:
            return whole
        before = {k: v for k, v in self.begun.trained.meta.items() if k not in ("metrics", "epoch")}
        return before | whole | {"student": self.begun.identity()}


def _common_split(teachers: Sequence[_Known], begun: _Known | None) -> list[SplitRecord]:
    """Return the split of all runs: nobody's training scans may be validation or test scans of another."""
    if len({each.sha256 for each in teachers}) < len(teachers):
        raise UsageError("one teacher is given twice", path=teachers[-1].run, remedy="give each once")
    first = teachers[0]
    split = trained_split(first.run, first.trained.meta)
    for each in [*teachers[1:], *([begun] if begun else [])]:
        if trained_split(each.run, each.trained.meta) != split:
            rule = f"its split is not that of {first.run}"
            raise InputError(rule, path=each.run, remedy="give runs of one split")
    return split


def _settings(teachers: Sequence[_Known], begun: _Known | None, training: Mapping[str, Any]) -> TrainConfig:
    if begun is None:
        return from_mapping(TrainConfig, {"size": teachers[0].size, **training}, "train")
    if fixed := sorted({"model", "weights"} & set(training)):
        rule = f"train.{fixed[0]} is given, but the network is that of {begun.run}"
        raise UsageError(rule, remedy=f"leave out --student or --{fixed[0]}")
    own = {**begun.trained.meta.get("config", {}), "weights": "", "size": begun.size}
    return from_mapping(TrainConfig, {**own, **training}, "train")
