"""What a running training must carry over a stop: network, optimiser, average, place and history."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from octlet.train.checkpoint import read_tensors, write_tensors
from octlet.train.config import TrainConfig

_VECTOR = 16  # float32 of AVX-512; AVX2 has 8


@dataclass
class Progress:
    """Where a run stands; plain JSON types.

    Attributes:
        epoch: the epoch under way, from 0.
        step: steps done in it.
        loss_sum, correct, seen: running sums of the epoch's training loss (weighted by scans) and hits.
        seconds: time spent on the epoch so far.
        history: one dict an epoch done.
        best_epoch, best_score: the best epoch so far (-1: none) and its monitored figure (lower is better).
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = -1
    best_score: float = 0.0

    def kept(self, keep: Literal["best", "last"]) -> int:
        """Return the epoch, from 0, whose weights stand in the run; there must be one done."""
        return self.best_epoch if keep == "best" else self.epoch - 1

    def close_epoch(self, row: dict[str, Any], score: float) -> bool:
        """Put an epoch done into the history, stand before the next, and return whether it is the best."""
        best = self.best_epoch < 0 or score < self.best_score
        if best:
            self.best_epoch, self.best_score = self.epoch, score
        self.history.append(row)
        self.epoch += 1
        self.step, self.loss_sum, self.correct, self.seen, self.seconds = 0, 0.0, 0, 0, 0.0
        return best


@dataclass
class TrainState:
    """The live objects of a run. `net` maps scans (N, 1, S, S) to `octlet.models.resnet.Outputs`."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    scaler: torch.amp.GradScaler
    progress: Progress

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: the averaged one if there is one."""
        return self.net if self.average is None else self.average.module

    def save(self, path: Path, config: dict[str, Any]) -> None:
        """Write all of it to one safetensors file."""
        tensors: dict[str, Tensor] = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
        record = {"config": config, "progress": vars(self.progress), "scaler": self.scaler.state_dict()}
        write_tensors(path, tensors, record)

    def load(self, path: Path) -> None:
        """Restore what `save` wrote into these objects."""
        tensors, record = read_tensors(path)
        self.net.load_state_dict(_under("net.", tensors))
        if self.average is not None:
            self.average.load_state_dict(_under("average.", tensors))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimizer.", tensors).items():
            index, _, name = key.partition(".")
            slots.setdefault(int(index), {})[name] = value
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": slots, "param_groups": whole["param_groups"]})
        self.scaler.load_state_dict(record["scaler"])
        self.progress = Progress(**record["progress"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def layout_of(net: nn.Module) -> torch.memory_format:
    """Return how a network's tensors lie while it is trained: channels last, or first where that is not safe.

    Where channels are last, oneDNN writes the gradient of a 1x1 convolution with a stride, of fewer input
    channels than a vector of the CPU holds, past its memory, and the process dies:
    https://github.com/uxlfoundation/oneDNN/issues/6035 (torch 2.13, AVX2).
    """
    for each in net.parameters():
        if each.ndim == 4 and each.shape[2:] == (1, 1) and 1 < each.shape[1] < _VECTOR:
            return torch.contiguous_format
    return torch.channels_last


def new_state(net: nn.Module, config: TrainConfig, device: torch.device) -> TrainState:
    """Return the state of a run that has not begun; `net` is moved to `device`."""
    net = net.to(device).to(memory_format=layout_of(net))  # type: ignore[call-overload]
    optimizer = make_optimizer(net, config)
    average = None
    if config.ema:
        averaging = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
        average = AveragedModel(net, multi_avg_fn=averaging, use_buffers=True)
    half = device.type == "cuda" and config.amp == "auto" and not torch.cuda.is_bf16_supported()
    return TrainState(net, optimizer, average, torch.amp.GradScaler("cuda", enabled=half), Progress())


def make_optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return Adam(W) over three groups: kernels, everything that must not decay, and the head.

    Each group carries `share`, its peak learning rate relative to `config.lr`.
    """
    kernels, plain, head = [], [], []
    for name, parameter in net.named_parameters():
        if ".fc." in f".{name}":  # a twin with rounding has its network one level down
            head.append(parameter)
        elif parameter.numel() > len(parameter):
            kernels.append(parameter)
        else:  # biases, norms, and V2's per-channel scales
            plain.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": kernels, "share": 1.0},
        {"params": plain, "share": 1.0, "weight_decay": 0.0},
        {"params": head, "share": (config.head_lr or config.lr) / config.lr},
    ]
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, weight_decay=config.weight_decay)
