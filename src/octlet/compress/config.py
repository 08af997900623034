"""Settings of a quantisation."""

from dataclasses import dataclass
from typing import Any, Literal

from octlet.core.errors import UsageError

Method = Literal["ptq", "qat-linear", "qat"]
METHODS: tuple[Method, ...] = ("ptq", "qat-linear", "qat")


@dataclass(frozen=True)
class QuantConfig:
    """How a network becomes integers.

    Attributes:
        method: ptq calibrates and trains nothing; qat trains every layer with rounding simulated; qat-linear
            does so for the final linear layer alone, by torchao.
        weights_bits: bits of a weight, kept in a byte: 8, 7 (for x86 without VNNI, whose 16-bit sums
            overflow with 8), fewer to simulate.
        observer: how ptq, and the start of qat, finds an activation's range on the calibration scans.
        percentile: share of an activation's values that "percentile" keeps, in per cent.
        calibration: training scans that are shown to the observers, without augmentation.
        exclude: layers that stay in float, by name or pattern: "layer1.*".
        prior_shift: see `octlet.train.prior.shift_prior`; it belongs before the rounding.
        freeze_observers: share of the training steps after which activation ranges stand still.
        freeze_batch_norm: share of the training steps after which batch norms use their running averages.
        distil: weight of the float network's answers in the training loss, 0 for none. With 1 the labels,
            which the network may know by heart, do not pull it away from what was tested.
        temperature: that softens both answers (Hinton et al. 2015).
    """

    method: Method = "qat"
    weights_bits: int = 8
    observer: Literal["min-max", "histogram", "percentile"] = "min-max"
    percentile: float = 99.99
    calibration: int = 256
    exclude: tuple[str, ...] = ()
    prior_shift: float = 0.0
    freeze_observers: float = 0.5
    freeze_batch_norm: float = 0.5
    distil: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                rule = f"quantize.{name} = {getattr(self, name)}"
                raise UsageError(rule, remedy=f"from {low} to {high}")


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("weights_bits", 2, 8),
    ("percentile", 50.0, 100.0),
    ("calibration", 1, 1_000_000),
    ("prior_shift", 0.0, 2.0),
    ("freeze_observers", 0.0, 1.0),
    ("freeze_batch_norm", 0.0, 1.0),
    ("distil", 0.0, 1.0),
    ("temperature", 0.1, 100.0),
)

# What a training of few epochs from a good network needs, over the settings of the run that it starts from.
QAT_TRAINING: dict[str, Any] = {
    "weights": "",
    "epochs": 2,
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
