"""Settings of quantisation and pruning."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from octlet.core.errors import UsageError
from octlet.core.settings import check_ranges

Method = Literal["ptq", "qat-linear", "qat"]
Importance = Literal["magnitude", "taylor", "batch-norm"]
METHODS: tuple[Method, ...] = ("ptq", "qat-linear", "qat")


@dataclass(frozen=True)
class QuantConfig:
    """How a network becomes integers.

    Attributes:
        method: ptq calibrates and trains nothing; qat trains every layer with rounding simulated; qat-linear
            does so for the final linear layer alone, by torchao.
        weights_bits: bits of a weight, kept in a byte: 8, 7 (for OpenVINO on x86 without VNNI, whose
            16-bit sums overflow with 8), fewer to simulate.
        observer: how ptq, and the start of qat, finds an activation's range on the calibration scans.
        percentile: share of an activation's values that "percentile" keeps, in per cent.
        calibration: training scans that are shown to the observers, without augmentation.
        exclude: layers that stay in float, by name or pattern: "layer1.*".
        prior_shift: see `octlet.train.prior.shift_prior`; it belongs before the rounding.
        freeze_observers: share of the training steps after which activation ranges stand still; with 0 they
            stay as calibrated.
        freeze_batch_norm: share of the training steps after which batch norms use their running averages.
        distil: weight of the float network's answers in the training loss, 0 for none. With 1 the labels,
            which the network may know by heart, do not pull it away from what was tested.
        temperature: that softens both answers (Hinton et al. 2015).
        match: weight of the squared error of the class activation maps against the float network's, as a
            share of their variance, in the training loss.
    """

    method: Method = "qat"
    weights_bits: int = 8
    observer: Literal["min-max", "histogram", "percentile"] = "histogram"
    percentile: float = 99.99
    calibration: int = 256
    exclude: tuple[str, ...] = ()
    prior_shift: float = 0.0
    freeze_observers: float = 0.0
    freeze_batch_norm: float = 0.5
    distil: float = 1.0
    temperature: float = 2.0
    match: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, "quantize", _RANGES)


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("weights_bits", 2, 8),
    ("percentile", 50.0, 100.0),
    ("calibration", 1, 1_000_000),
    ("prior_shift", 0.0, 2.0),
    ("freeze_observers", 0.0, 1.0),
    ("freeze_batch_norm", 0.0, 1.0),
    ("distil", 0.0, 1.0),
    ("temperature", 0.1, 100.0),
    ("match", 0.0, 1e6),
)


@dataclass(frozen=True)
class PruneConfig:
    """How a network is cut down in steps, with training between them.

    Attributes:
        what: "channels" leaves out whole channels, and is faster for it; "weights" sets single weights to
            zero, which a dense engine does not notice.
        to_macs: channels: share of the network's multiply-accumulates that is left at the end. Every step
            takes the same share of what is there.
        sparsity: weights: share of zeros at the end; every step takes the same share of what is left.
        steps: how many times channels or weights are ranked, removed, and the network trained.
        importance: what ranks channels: the norm of their weights, the first-order change of the loss without
            them (Molchanov et al. 2019), or the scale of their batch norm.
        scope: whether channels are ranked across the network, or the same share goes from every layer.
        round_to: channels stay in multiples of this, which integer kernels like.
        floor: share of a layer's channels that always stays.
        units: share of the removable residual units that is left out by the end, those that change the
            answers least.
        restore: channels of ResNet V2: after each cut, before its training, bring every layer's outputs back
            to the mean and spread that they had before (`octlet.compress.prune.restore`).
        batches: training batches whose gradients give Taylor scores.
        rewind: weights: what follows the removal: "no" trains gently on; "rate" repeats the training that the
            run had (Renda et al. 2020, arXiv:2003.02389); "weights" also begins it from the weights that the
            run began with (Frankle and Carbin 2019, arXiv:1803.03635).
        last_epochs: of the training after the last step; 0 takes as many as after every step.
        distil: weight of the dense network's answers in the training loss, 0 for none.
        temperature: that softens both answers (Hinton et al. 2015).
        match: weight of the squared error of the class activation maps against the dense network's, as a
            share of their variance, in the training loss; 0 where `distil` is.
    """

    what: Literal["channels", "weights"] = "channels"
    to_macs: float = 0.5
    sparsity: float = 0.8
    steps: int = 5
    importance: Importance = "magnitude"
    scope: Literal["global", "layer"] = "layer"
    round_to: int = 16
    floor: float = 0.1
    units: float = 0.0
    restore: bool = False
    batches: int = 8
    rewind: Literal["no", "rate", "weights"] = "no"
    last_epochs: int = 0
    distil: float = 1.0
    temperature: float = 2.0
    match: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, "prune", _PRUNE_RANGES)
        if self.restore and self.what == "weights":
            rule = "prune.restore goes with whole channels"
            raise UsageError(rule, remedy="leave out --unstructured, or it")
        if self.rewind != "no" and self.what == "channels":
            rule = f"prune.rewind = '{self.rewind}' goes with single weights"
            raise UsageError(rule, remedy="add --unstructured, or leave it")


_PRUNE_RANGES: tuple[tuple[str, float, float], ...] = (
    ("to_macs", 0.001, 1.0),
    ("sparsity", 0.0, 0.9999),
    ("steps", 1, 1000),
    ("round_to", 1, 1024),
    ("floor", 0.0, 1.0),
    ("units", 0.0, 1.0),
    ("batches", 1, 100_000),
    ("last_epochs", 0, 10_000),
    ("distil", 0.0, 1.0),
    ("temperature", 0.1, 100.0),
    ("match", 0.0, 1e6),
)

# What a training between two steps of pruning needs, over the settings of the run that it starts from.
PRUNE_TRAINING: dict[str, Any] = {
    "weights": "",
    "epochs": 2,
    "lr": 1e-4,
    "head_lr": 0.0,
    "warmup": 0.1,
    "schedule": "one-cycle",
    "optimizer": "adamw",
    "keep": "last",
    "ema": 0.0,
    "patience": 0,
}

# What a short training from a good network needs, over the settings of the run that it starts from. bfloat16
# would move the answers by more than the rounding to 8 bits does.
QAT_TRAINING: dict[str, Any] = {
    "weights": "",
    "epochs": 1,
    "amp": "off",
    "lr": 5e-6,
    "head_lr": 0.0,
    "weight_decay": 0.0,
    "warmup": 0.1,
    "schedule": "one-cycle",
    "optimizer": "adamw",
    "keep": "last",
    "ema": 0.0,
    "patience": 0,
}


def is_excluded(layer: str, patterns: Iterable[str]) -> bool:
    """Tell whether a layer's name matches one of the patterns."""
    return any(fnmatchcase(layer, pattern) for pattern in patterns)
