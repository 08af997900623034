"""The training loop. All randomness is drawn from (seed, epoch, step), so a stop leaves nothing behind."""

import math
import time
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from octlet.core.errors import OctletError
from octlet.evaluate import calibration, metrics
from octlet.train.config import TrainConfig
from octlet.train.degrade import degrade
from octlet.train.objective import Objective
from octlet.train.schedule import one_cycle
from octlet.train.showing import Fold, Showing, Shown, resized, steps_per_epoch
from octlet.train.state import TrainState, layout_of


class Watcher(Protocol):
    """What the loop tells, and asks, after each step and each epoch."""

    def step(self, done: int, total: int, loss: float) -> bool:
        """Take note of a step; return whether to stop here."""

    def epoch(self, row: dict[str, Any], *, best: bool) -> None:
        """Take note of an epoch's figures and whether it is the best so far."""


def is_half(config: TrainConfig, device: torch.device) -> bool:
    """Tell whether a training computes in half precision: where it may, and a CPU has the arithmetic.

    One that has not takes five times as long in bfloat16 as in float32.
    """
    has_it = device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return config.amp == "auto" and has_it


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Return the mixed-precision context: bfloat16, or float16 on a GPU without it."""
    dtype = torch.bfloat16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        dtype = torch.float16
    return torch.autocast(device.type, dtype, enabled=is_half(config, device))


def train_epoch(
    state: TrainState,
    fold: Fold,
    config: TrainConfig,
    device: torch.device,
    watcher: Watcher,
    objective: Objective,
) -> bool:
    """Train from where `state.progress` stands to the end of its epoch; return False if told to stop."""
    place = state.progress
    steps = steps_per_epoch(fold, config)
    total = config.epochs * steps
    showing = Showing(fold, config, place.epoch, device)
    began = time.monotonic()
    for _ in objective.meet(showing):
        if watcher.step(place.epoch * steps + place.step, total, place.loss_sum / max(place.seen, 1)):
            return False
    place.seconds += time.monotonic() - began
    state.net.train()
    layout = layout_of(state.net)
    while place.step < steps:
        began = time.monotonic()
        step = place.epoch * steps + place.step
        _set_rate(state, config, step, total)
        objective.before_step(state.net, step / total)
        generator = showing.generator(place.step)
        whole = showing.step(place.step, generator)
        seen = degrade(resized(whole.scans, config.size), config.degrade, generator)
        seen = seen.contiguous(memory_format=layout)
        loss, logits = _step(state, seen, whole, config, device, objective)
        place.loss_sum += loss * len(seen)
        place.correct += int((logits.argmax(1) == whole.likeliest).sum())
        place.seen += len(seen)
        place.step += 1
        place.seconds += time.monotonic() - began
        if watcher.step(step + 1, total, loss):
            return False
    return True


def _set_rate(state: TrainState, config: TrainConfig, step: int, total: int) -> None:
    rate = config.lr
    if config.schedule == "one-cycle":
        rate = one_cycle(step, total, config.lr, config.warmup)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["share"]


def _step(
    state: TrainState,
    seen: Tensor,
    whole: Shown,
    config: TrainConfig,
    device: torch.device,
    objective: Objective,
) -> tuple[float, Tensor]:
    """Learn from scans as the network sees them and as they are; return the loss and the logits."""
    with autocast(config, device):
        outputs = state.net(seen)
    loss = objective.loss(outputs, whole)
    value = loss.item()
    if not math.isfinite(value):
        rule = f"the training loss became {value} in epoch {state.progress.epoch + 1}"
        raise OctletError(rule, remedy="lower train.lr, or set train.amp=off")
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.net)
    return value, outputs.logits.detach()


def probabilities_of(
    net: nn.Module, fold: Fold, config: TrainConfig, device: torch.device
) -> NDArray[np.float64]:
    """Return the probabilities, float64 (N, 4), of a fold's scans, without augmentation."""
    net.eval()
    rows = []
    with torch.inference_mode(), autocast(config, device):
        for first in range(0, len(fold), config.batch):
            picks = np.arange(first, min(first + config.batch, len(fold)))
            scans, _ = fold.batch(picks, device)
            rows.append(net(scans).logits.double().softmax(1).cpu().numpy())
    return np.concatenate(rows)


def validate(net: nn.Module, fold: Fold, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """Return cross-entropy (nats), accuracy and balanced accuracy on a fold; nothing of an empty one."""
    if len(fold) == 0:
        return {}
    probabilities = probabilities_of(net, fold, config, device)
    confusion = metrics.confusion_matrix(fold.labels, probabilities.argmax(1))
    return {
        "loss": float(calibration.log_losses(probabilities, fold.labels).mean()),
        "accuracy": float(metrics.accuracy(confusion)),
        "balanced_accuracy": float(metrics.balanced_accuracy(confusion)),
    }


def fit(
    state: TrainState,
    train: Fold,
    val: Fold,
    config: TrainConfig,
    device: torch.device,
    watcher: Watcher,
    objective: Objective,
) -> bool:
    """Run epochs until the last, the patience's end or a stop; return False only for a stop."""
    place = state.progress
    while place.epoch < config.epochs and not _out_of_patience(state, config):
        if not train_epoch(state, train, config, device, watcher, objective):
            return False
        steps = steps_per_epoch(train, config)  # resumed after an epoch's last step, no rate was set
        _set_rate(state, config, (place.epoch + 1) * steps - 1, config.epochs * steps)
        began = time.monotonic()
        figures = validate(state.judged, val, config, device)
        place.seconds += time.monotonic() - began
        row = {
            "epoch": place.epoch + 1,
            "lr": state.optimizer.param_groups[0]["lr"],
            "train_loss": place.loss_sum / place.seen,
            "train_accuracy": place.correct / place.seen,
            **{f"val_{name}": value for name, value in figures.items()},
            "seconds": round(place.seconds, 2),
        }
        score = figures.get(config.monitor, 0.0)  # without validation scans it is the last epoch that is kept
        watcher.epoch(row, best=place.close_epoch(row, score if config.monitor == "loss" else -score))
    return True


def _out_of_patience(state: TrainState, config: TrainConfig) -> bool:
    place = state.progress
    return 0 < config.patience <= place.epoch - 1 - place.best_epoch and place.best_epoch >= 0
