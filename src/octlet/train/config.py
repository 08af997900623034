"""What a training run is made of, and the presets."""

from dataclasses import dataclass
from typing import Any, Literal

from octlet.core.settings import check_ranges


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run; every field can be set by `--set train.FIELD=VALUE`.

    Attributes:
        model: a name in `octlet.models.spec.MODELS`.
        weights: safetensors file of pretrained weights; "" starts fresh.
        size: side of the square input, pixels.
        epochs: passes over the training fold.
        batch: scans a step.
        optimizer: decoupled (adamw) or L2 (adam) weight decay.
        lr: peak learning rate.
        head_lr: peak learning rate of the final layer; 0 takes `lr`.
        weight_decay: not applied to biases, norms and per-channel scales.
        schedule: one-cycle (Smith & Topin 2018, cosine) or constant.
        warmup: share of the steps that climb to the peak.
        label_smoothing: in 0..1 (Szegedy et al. 2016).
        balanced: draw every class equally often.
        amp: bfloat16 arithmetic where it pays; "off" computes in float32.
        ema: decay of the averaged weights that are validated and kept, 0 for none.
        patience: stop after so many epochs without a better validation score, 0 never.
        keep: which epoch's weights the run ends with: the best by `monitor`, or the last, where a schedule
            anneals them; with few validation scans the best is picked by noise.
        monitor: the validation figure that tells the best epoch: cross-entropy or balanced accuracy.
        seed: of the fresh weights, the order of scans and the augmentation.
        flip: mirror half of the scans left to right (a left eye for a right one).
        rotate: largest turn, degrees.
        zoom: largest relative change of scale, of each axis by itself.
        shift: largest move, as a share of the side.
        brightness: largest relative change of level.
        contrast: largest relative change of contrast about the mean.
        speckle: standard deviation of multiplicative noise.
        degrade: share of the scans that lose contrast, or get speckle, blur or blocks; a teacher sees them
            without.
        mixup: share of the scans that are blended with another one, as their labels are; a teacher says what
            it thinks of the blend.
        views: draw from so many augmented versions of each scan, the same ones whatever the seed, so that a
            teacher is asked once for each; 0 augments anew every time.
        device: "auto" is CUDA where there is one.
        threads: CPU threads, 0 leaves torch's choice.
        save_minutes: how much work a power cut may cost inside an epoch.
    """

    model: str = "resnet18"
    weights: str = ""
    size: int = 224
    epochs: int = 10
    batch: int = 32
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: float = 1e-3
    head_lr: float = 0.0
    weight_decay: float = 0.01
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    warmup: float = 0.3
    label_smoothing: float = 0.1
    balanced: bool = True
    amp: Literal["auto", "off"] = "auto"
    ema: float = 0.0
    patience: int = 0
    keep: Literal["best", "last"] = "best"
    monitor: Literal["loss", "balanced_accuracy"] = "loss"
    seed: int = 0
    flip: bool = True
    rotate: float = 8.0
    zoom: float = 0.15
    shift: float = 0.08
    brightness: float = 0.15
    contrast: float = 0.15
    speckle: float = 0.1
    degrade: float = 0.0
    mixup: float = 0.0
    views: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    save_minutes: float = 5.0

    def __post_init__(self) -> None:
        check_ranges(self, "train", _RANGES)


_RANGES = (
    ("size", 32, 1024),
    ("epochs", 1, 10_000),
    ("batch", 2, 4096),
    ("lr", 1e-9, 10.0),
    ("head_lr", 0.0, 10.0),
    ("weight_decay", 0.0, 10.0),
    ("warmup", 0.01, 0.99),
    ("label_smoothing", 0.0, 0.9),
    ("ema", 0.0, 0.99999),
    ("patience", 0, 10_000),
    ("seed", 0, 2**63 - 1),
    ("rotate", 0.0, 180.0),
    ("zoom", 0.0, 0.9),
    ("shift", 0.0, 0.5),
    ("brightness", 0.0, 1.0),
    ("contrast", 0.0, 1.0),
    ("speckle", 0.0, 1.0),
    ("degrade", 0.0, 1.0),
    ("mixup", 0.0, 1.0),
    ("views", 0, 10_000),
    ("threads", 0, 1024),
    ("save_minutes", 0.0, 1440.0),
)

PRESETS: dict[str, dict[str, Any]] = {
    # The recipe of the project that Octlet grew from.
    "seed": {
        "model": "resnet101",
        "epochs": 20,
        "batch": 64,
        "optimizer": "adam",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "schedule": "constant",
        "label_smoothing": 0.0,
        "balanced": False,
        "rotate": 30.0,
        "zoom": 0.0,
        "shift": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "speckle": 0.0,
    },
    # Pretrained ResNet-101 V2: the whole network gently, the fresh head fast.
    "finetune": {
        "model": "resnet101v2",
        "epochs": 12,
        "batch": 32,
        "lr": 1.5e-4,
        "head_lr": 3e-3,
        "weight_decay": 0.02,
        "keep": "last",
        "rotate": 10.0,
        "zoom": 0.2,
        "shift": 0.1,
        "brightness": 0.2,
        "contrast": 0.2,
    },
}
