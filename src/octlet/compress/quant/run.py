"""A quantised run: a folder like a training's, whose checkpoint also holds what rounds its activations."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octlet.compress.answers import figures_of
from octlet.compress.config import QAT_TRAINING, QuantConfig
from octlet.compress.head import LinearHead
from octlet.compress.quant.calibrate import calibrate
from octlet.compress.quant.fakequant import Watch
from octlet.compress.quant.graph import FakeQuantised
from octlet.compress.quant.linear import converted_linear, prepare_linear
from octlet.compress.quant.sensitivity import sensitivity as layer_costs
from octlet.compress.quant.sensitivity import write_sensitivity
from octlet.core.errors import ModelFileError, UsageError
from octlet.core.settings import as_dict, from_mapping
from octlet.models.resnet import Outputs, ResNet, build, count_parameters
from octlet.models.spec import NetSpec
from octlet.train.checkpoint import (
    BEST,
    TrainedRun,
    is_quantised,
    load_float_run,
    load_run,
    read_tensors,
    save_run,
)
from octlet.train.config import TrainConfig
from octlet.train.loop import is_half
from octlet.train.objective import Distillation, map_error
from octlet.train.prior import log_shares, shift_prior
from octlet.train.run import Feedback, RunPlace, carry_out, device_of, folds_of, trained_split
from octlet.train.showing import Fold, Shown
from octlet.train.state import new_state


@dataclass(frozen=True)
class QuantisedRun:
    """A quantised run: the network with its rounding simulated, in eval mode, and its record."""

    twin: FakeQuantised
    meta: dict[str, Any]

    @property
    def excluded(self) -> list[str]:
        """Names of the layers that stay in float."""
        rounded = {layer.name for layer in self.twin.quantised}
        return [name for name in self.twin.layers if name not in rounded]


def quantisation_of(meta: Mapping[str, Any]) -> QuantConfig:
    """Return the settings that a run was quantised by; ModelFileError if it does not tell."""
    plain = {key: value for key, value in meta["quantization"].items() if key in QuantConfig.__annotations__}
    try:
        return from_mapping(QuantConfig, plain, "quantization")
    except UsageError as error:
        raise ModelFileError(f"not a quantised run: {error.rule}", remedy="quantise again") from error


def load_quantised(folder: Path) -> QuantisedRun:
    """Rebuild a quantised network from its run's checkpoint alone, its biases in whole steps.

    Raises ModelFileError for a damaged or another kind of checkpoint.
    """
    tensors, meta = read_tensors(folder / BEST)
    if not is_quantised(meta):
        raise ModelFileError("not a quantised run", path=folder, remedy="quantise it with 'octlet quantize'")
    with torch.random.fork_rng(devices=[]):
        net = build(NetSpec.from_dict(meta["spec"]))
    twin = FakeQuantised(net, quantisation_of(meta), meta["size"])
    try:
        twin.load_state_dict(tensors)
    except RuntimeError as error:
        made = meta["quantization"].get("torchao")
        rule = f"its tensors do not fit the graph that torchao {version('torchao')} prepares; made by {made}"
        raise ModelFileError(rule, path=folder / BEST, remedy="quantise again") from error
    twin.round_biases()
    return QuantisedRun(twin, meta)


def training_config(meta: Mapping[str, Any], overrides: Mapping[str, Any]) -> TrainConfig:
    """Return the settings of a quantisation-aware training: the float run's, gentler, then `overrides`."""
    return from_mapping(TrainConfig, {**meta.get("config", {}), **QAT_TRAINING, **overrides}, "train")


def quantize_run(
    run: Path,
    root: Path,
    out: Path,
    config: QuantConfig,
    training: Mapping[str, Any],
    *,
    sensitivity: bool = False,
    resume: bool = False,
    feedback: Feedback | None = None,
) -> dict[str, Any]:
    """Quantise a trained run into a run folder of its own.

    Args:
        run: folder of a float run; its split tells which scans calibrate, train and validate.
        root: folder that the split's paths are relative to.
        out: the new run folder; must be empty unless resuming.
        config: how.
        training: settings that differ from `QAT_TRAINING`; with ptq only size and data matter.
        sensitivity: also write sensitivity.csv and .png, which rank the layers (not for qat-linear).
        resume: continue a stopped training.
        feedback: where progress goes.

    Returns:
        {"run", "method", "weights_share": of the parameters that are rounded, "layers": (rounded, all),
        "float", "quantised": validation figures of both, "epochs", "sensitivity": rows or None}.

    Raises:
        InputError, ModelFileError: no run, a damaged or already quantised one.
        UsageError: `out` holds another run; settings that do not fit.
        StoppedError: after a signal, with the state saved.
    """
    told = feedback or Feedback()
    if sensitivity and config.method == "qat-linear":
        raise UsageError("qat-linear rounds one layer", remedy="--sensitivity goes with ptq and qat")
    trained = load_float_run(run)
    settings = training_config(trained.meta, training)
    split = trained_split(run, trained.meta)
    place = RunPlace(out, as_dict(settings) | {"quantize": as_dict(config)}, split, resume)
    place.check()
    job = _Job(run, trained, config, settings, place, folds_of(settings, root, place.split, told), told)
    if config.method == "qat-linear":
        return job.linear()
    result, twin = job.whole()
    if sensitivity:
        costs = layer_costs(twin, job.folds[1], told.bar)
        write_sensitivity(out, costs)
        result["sensitivity"] = [asdict(cost) for cost in costs]
    return result


@dataclass(frozen=True)
class _Job:
    run: Path
    trained: TrainedRun
    config: QuantConfig
    settings: TrainConfig
    place: RunPlace
    folds: tuple[Fold, Fold]
    told: Feedback

    def whole(self) -> tuple[dict[str, Any], FakeQuantised]:
        """Round every layer: calibrate, then train unless it is post-training."""
        objective = self._objective()  # its teacher is the network before the shift
        shift_prior(self.trained, self.config.prior_shift, self.run)
        net = self.trained.net
        twin = FakeQuantised(net, self.config, self.settings.size)
        shown = calibrate(twin, self.folds[0], self.config, self.settings.seed, self.told.bar)
        meta = self._meta(calibrated_on=shown, weights_share=_share(net, twin), layers=_layers(twin))
        self.told.say(
            f"{len(twin.quantised)} of {len(twin.layers)} layers are rounded, "
            f"{meta['quantization']['weights_share']:.2%} of the parameters"
        )
        before = figures_of(net, self.folds[1], self.settings)
        epochs = 0
        if self.config.method == "qat":
            twin.lighten()
            twin.watch(Watch.FOLLOW)
            state = new_state(twin, self.settings, device_of(self.settings))
            epochs = len(carry_out(state, self.folds, self.settings, self.place, meta, objective, self.told))
            twin = load_quantised(self.place.out).twin
        else:
            twin.round_biases()
        after = figures_of(twin, self.folds[1], self.settings)
        if self.config.method == "ptq":
            self.place.begin(self.settings.seed)
            save_run(self.place.out, twin, meta | {"metrics": after})
        return self._result(meta, before, after, epochs), twin

    def linear(self) -> dict[str, Any]:
        """Round the final linear layer alone, as torchao does."""
        objective = self._objective()
        shift_prior(self.trained, self.config.prior_shift, self.run)
        net = self.trained.net
        share = net.fc.weight.numel() / count_parameters(net)
        meta = self._meta(weights_share=share, layers=[1, _layer_count(net)])
        self.told.say(f"torchao rounds the final linear layer: {share:.4%} of the parameters")
        before = figures_of(net, self.folds[1], self.settings)
        head = prepare_linear(net)
        state = new_state(head, self.settings, device_of(self.settings))
        rows = carry_out(state, self.folds, self.settings, self.place, meta, objective, self.told, _snapped)
        after = figures_of(load_run(self.place.out).net, self.folds[1], self.settings)
        return self._result(meta, before, after, len(rows))

    def _objective(self) -> "QatObjective":
        teacher = copy.deepcopy(self.trained.net).to(device_of(self.settings)) if self.config.distil else None
        tau = self.config.prior_shift
        offset = tau * log_shares(self.trained.meta, self.run) if tau else torch.zeros(1)
        return QatObjective(
            label_smoothing=self.settings.label_smoothing,
            teacher=teacher,
            weight=self.config.distil,
            temperature=self.config.temperature,
            half=is_half(self.settings, device_of(self.settings)),
            freeze_observers=self.config.freeze_observers,
            freeze_batch_norm=self.config.freeze_batch_norm,
            match=self.config.match,
            offset=offset,
        )

    def _meta(self, **more: Any) -> dict[str, Any]:
        told = as_dict(self.config) | {"torchao": version("torchao")} | more
        kept = {key: value for key, value in self.trained.meta.items() if key not in ("metrics", "epoch")}
        kept |= {"size": self.settings.size, "config": as_dict(self.settings)}
        return kept | {"quantization": told, "float": self._origin()}

    def _origin(self) -> dict[str, Any]:
        return {key: self.trained.meta.get(key) for key in ("config", "epoch", "metrics")}

    def _result(
        self, meta: dict[str, Any], before: dict[str, float], after: dict[str, float], epochs: int
    ) -> dict[str, Any]:
        told = meta["quantization"]
        return {
            "run": str(self.place.out),
            "method": self.config.method,
            "weights_share": told["weights_share"],
            "layers": told["layers"],
            "epochs": epochs,
            "float": before,
            "quantised": after,
            "sensitivity": None,
        }


@dataclass(frozen=True)
class QatObjective(Distillation):
    """The loss of the labels and the float network, and the freezing of ranges and batch norms on the way.

    Attributes:
        freeze_observers, freeze_batch_norm, match: see `QuantConfig`.
        offset: what the prior shift took from the logits (K,) or (1,): added back, so that training does not
            undo it.
    """

    freeze_observers: float = 1.0
    freeze_batch_norm: float = 1.0
    match: float = 0.0
    offset: Tensor = torch.zeros(1)  # noqa: RUF009  (never written)

    def before_step(self, net: nn.Module, done: float) -> None:
        """Freeze what is due; `done` is in 0..1. A no-op for a network whose head alone is rounded."""
        if not isinstance(net, FakeQuantised):
            return
        net.watch(Watch.FOLLOW if done < self.freeze_observers else Watch.NOTHING)
        if done >= self.freeze_batch_norm:
            net.freeze_batch_norm()

    def of_logits(self, logits: Tensor, shown: Shown) -> Tensor:
        """Return the loss of shifted float32 logits (N, K)."""
        return super().of_logits(logits + self.offset.to(logits.device), shown)

    def loss(self, outputs: Outputs, shown: Shown) -> Tensor:
        """Return the mean loss of a batch, float32; see `Objective.loss`."""
        if self.teacher is None or not self.match or not outputs.cam.numel():
            return super().loss(outputs, shown)
        answers = self.ask(self.teacher, shown)
        offset = self.offset.to(outputs.logits.device)
        answered = self.blend(outputs.logits.float() + offset, answers.logits, shown)
        return answered + self.match * map_error(outputs.cam.float() + offset[:, None, None], answers.cam)


def _snapped(head: nn.Module) -> nn.Module:
    assert isinstance(head, LinearHead)  # noqa: S101  (what `linear` trains)
    return converted_linear(head)[1]


def _share(net: ResNet, twin: FakeQuantised) -> float:
    rounded = {layer.name for layer in twin.quantised}
    sizes = (p.numel() for name, p in net.named_parameters() if name.removesuffix(".weight") in rounded)
    return sum(sizes) / count_parameters(net)


def _layers(twin: FakeQuantised) -> list[int]:
    return [len(twin.quantised), len(twin.layers)]


def _layer_count(net: ResNet) -> int:
    return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules())
