"""The training loop. All randomness is drawn from (seed, epoch, step), so a stop leaves nothing behind."""

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from octlet.core.errors import OctletError
from octlet.core.image import normalise
from octlet.core.labels import LABELS
from octlet.evaluate import calibration, metrics
from octlet.train.augment import augment
from octlet.train.config import TrainConfig
from octlet.train.degrade import degrade
from octlet.train.objective import Objective
from octlet.train.schedule import one_cycle
from octlet.train.state import TrainState

_ORDER, _BATCH, _VIEW, GRADIENTS = range(4)  # which stream of random numbers


@dataclass(frozen=True)
class Fold:
    """Scans of one part of a split: uint8 (N, S, S) in 0..255 (any indexable array), int64 (N,) labels."""

    scans: NDArray[np.uint8]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, picks: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return normalised scans (n, 1, S, S) and labels (n,) at positions `picks`."""
        scans = normalise(np.asarray(self.scans[self.rows[picks]]))
        return torch.from_numpy(scans).to(device), torch.from_numpy(self.labels[picks]).to(device)

    def sample(self, n: int) -> "Fold":
        """Return n of its scans (all, if it has fewer) by a fixed draw."""
        picks = np.sort(np.random.default_rng(0).permutation(len(self))[:n])
        return Fold(self.scans, self.rows[picks], self.labels[picks])


class Watcher(Protocol):
    """What the loop tells, and asks, after each step and each epoch."""

    def step(self, done: int, total: int, loss: float) -> bool:
        """Take note of a step; return whether to stop here."""

    def epoch(self, row: dict[str, Any], *, best: bool) -> None:
        """Take note of an epoch's figures and whether it is the best so far."""


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Return the mixed-precision context: bfloat16, or float16 on a GPU without it."""
    dtype = torch.bfloat16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        dtype = torch.float16
    return torch.autocast(device.type, dtype, enabled=config.amp == "auto")


def generator_for(seed: int, epoch: int, step: int, stream: int) -> torch.Generator:
    """Return a CPU generator that depends on nothing but its four numbers."""
    words = np.random.SeedSequence([seed, epoch, step, stream]).generate_state(2, np.uint32)
    generator = torch.Generator()
    generator.manual_seed(int(words[0]) << 32 | int(words[1]))
    return generator


def epoch_order(fold: Fold, config: TrainConfig, epoch: int) -> NDArray[np.int64]:
    """Return the positions of one epoch's scans: a permutation, or draws with equal class shares."""
    generator = generator_for(config.seed, epoch, 0, _ORDER)
    if not config.balanced:
        return torch.randperm(len(fold), generator=generator).numpy()
    counts = np.bincount(fold.labels, minlength=len(LABELS))
    weights = torch.from_numpy(1.0 / counts[fold.labels])
    return torch.multinomial(weights, len(fold), replacement=True, generator=generator).numpy()


def steps_per_epoch(fold: Fold, config: TrainConfig) -> int:
    """Return the number of steps; a last batch of a single scan is left out (batch norm needs two)."""
    full, rest = divmod(len(fold), config.batch)
    return full + (rest > 1)


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
    order = epoch_order(fold, config, place.epoch)
    steps = steps_per_epoch(fold, config)
    state.net.train()
    while place.step < steps:
        began = time.monotonic()
        picks = order[place.step * config.batch : (place.step + 1) * config.batch]
        step, total = place.epoch * steps + place.step, config.epochs * steps
        _set_rate(state, config, step, total)
        objective.before_step(state.net, step / total)
        scans, labels = fold.batch(picks, device)
        generator = generator_for(config.seed, place.epoch, place.step, _BATCH)
        whole = _shown(scans, picks, config, generator)
        shown = degrade(whole, config.degrade, generator)
        loss, logits = _step(state, shown, whole, labels, config, device, objective)
        place.loss_sum += loss * len(picks)
        place.correct += int((logits.argmax(1) == labels).sum())
        place.seen += len(picks)
        place.step += 1
        place.seconds += time.monotonic() - began
        if watcher.step(step + 1, total, loss):
            return False
    return True


def _shown(
    scans: Tensor, picks: NDArray[np.int64], config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """Return a batch augmented anew, or for each scan one of the versions of it that there are."""
    if not config.views:
        return augment(scans, config, generator)
    views = torch.randint(config.views, (len(scans),), generator=generator).tolist()
    each = zip(scans, views, picks.tolist(), strict=True)
    return torch.cat([augment(s[None], config, generator_for(0, v, pick, _VIEW)) for s, v, pick in each])


def _set_rate(state: TrainState, config: TrainConfig, step: int, total: int) -> None:
    rate = config.lr
    if config.schedule == "one-cycle":
        rate = one_cycle(step, total, config.lr, config.warmup)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["share"]


def _step(
    state: TrainState,
    shown: Tensor,
    whole: Tensor,
    labels: Tensor,
    config: TrainConfig,
    device: torch.device,
    objective: Objective,
) -> tuple[float, Tensor]:
    """Learn from scans as the network is shown them and as they are; return the loss and the logits."""
    if device.type == "cpu":
        shown = shown.contiguous(memory_format=torch.channels_last)
        whole = whole.contiguous(memory_format=torch.channels_last)
    with autocast(config, device):
        outputs = state.net(shown)
    loss = objective.loss(outputs, whole, labels)
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
