"""Which scans an epoch shows, and how each looks in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from octlet.core.image import normalise
from octlet.core.labels import LABELS
from octlet.train.augment import Changes, augment
from octlet.train.config import TrainConfig

_ORDER, _BATCH, _VIEW, GRADIENTS, _WHICH = range(5)  # which stream of random numbers


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
        scans = torch.from_numpy(normalise(self.scans[self.rows[picks]]))
        return scans.to(device), torch.from_numpy(self.labels[picks]).to(device)

    def sample(self, n: int) -> "Fold":
        """Return n of its scans (all, if it has fewer) by a fixed draw."""
        picks = np.sort(np.random.default_rng(0).permutation(len(self))[:n])
        return Fold(self.scans, self.rows[picks], self.labels[picks])


class Shown(NamedTuple):
    """A batch as it is shown.

    Attributes:
        scans: float32 (n, 1, S, S) in -1..1, of the fold's size; the network sees them at `TrainConfig.size`.
        labels: int64 (n,), or float32 (n, K), shares that sum to one, where scans were mixed.
        keys: what tells each from every other that can be shown, or None where none comes again.
    """

    scans: Tensor
    labels: Tensor
    keys: tuple[int, ...] | None

    @property
    def likeliest(self) -> Tensor:
        """The labels, int64 (n,), each the one of the largest share."""
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(1)


def resized(scans: Tensor, size: int) -> Tensor:
    """Return scans (N, 1, S, S) at (N, 1, size, size): bilinear, with the antialiasing that Pillow does."""
    if scans.shape[-1] == size:
        return scans
    return F.interpolate(scans, (size, size), mode="bilinear", antialias=True)


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


@dataclass(frozen=True)
class Showing:
    """What one epoch of a fold shows, step by step, on a device."""

    fold: Fold
    config: TrainConfig
    epoch: int
    device: torch.device

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Positions of the scans, in the order in which they are shown."""
        return epoch_order(self.fold, self.config, self.epoch)

    @cached_property
    def keys(self) -> NDArray[np.int64] | None:
        """Which version of each is shown, view * len(fold) + position; None where each is made anew."""
        if not self.config.views:
            return None
        generator = generator_for(self.config.seed, self.epoch, 0, _WHICH)
        views = torch.randint(self.config.views, (len(self.order),), generator=generator)
        return views.numpy() * len(self.fold) + self.order

    def generator(self, step: int) -> torch.Generator:
        """Return the generator of what is drawn anew for a step."""
        return generator_for(self.config.seed, self.epoch, step, _BATCH)

    def step(self, step: int, generator: torch.Generator) -> Shown:
        """Return the batch of a step; `generator` is read where scans are made anew."""
        part = slice(step * self.config.batch, (step + 1) * self.config.batch)
        if self.keys is not None:
            return self.versions(self.keys[part])
        scans, labels = self.fold.batch(self.order[part], self.device)
        shown = Shown(augment(scans, self.config, generator), labels, None)
        if not self.config.mixup:
            return shown
        mixed, share = _mixed(len(labels), self.config.mixup, generator)
        return _blended(shown, mixed, share, (shown.scans.roll(1, 0)[mixed], labels.roll(1, 0)[mixed]))

    def versions(self, keys: NDArray[np.int64]) -> Shown:
        """Return versions of scans: the same ones for the same keys."""
        shown = Shown(*self._plain(keys), tuple(keys.tolist()))
        if not self.config.mixup:
            return shown
        mixed, share, partner = (each[keys] for each in _pairs(len(self.fold), self.config))
        others = self._plain(partner[mixed].numpy()) if mixed.any() else (shown.scans[:0], shown.labels[:0])
        return _blended(shown, mixed, share, others)

    def _plain(self, keys: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        scans, labels = self.fold.batch(keys % len(self.fold), self.device)
        return _views(len(self.fold), self.config).at(keys).of(scans), labels

    def batches(self, keys: Sequence[int]) -> Iterator[Shown]:
        """Yield versions of scans, a batch at a time; the last one is filled by repeating its own.

        A GPU's libraries plan anew, for seconds, for every number of scans that they have not met.
        """
        for first in range(0, len(keys), self.config.batch):
            some = np.array(keys[first : first + self.config.batch], dtype=np.int64)
            yield self.versions(np.resize(some, self.config.batch))


@lru_cache(maxsize=2)
def _views(n: int, config: TrainConfig) -> Changes:
    """Return the changes of all versions of n scans; a run's seed is none of their matter."""
    return Changes.drawn(config.views * n, config, generator_for(0, 0, 0, _VIEW))


@lru_cache(maxsize=2)
def _pairs(n: int, config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return of all versions of n scans which are mixed, the share of each itself, and with which version."""
    generator = generator_for(0, 0, 1, _VIEW)
    every = config.views * n
    return *_mixed(every, config.mixup, generator), torch.randint(every, (every,), generator=generator)


def _mixed(n: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw which of n scans are mixed, bool (n,), and the share of the first of each two, float32 (n,)."""
    return torch.rand(n, generator=generator) < share, torch.rand(n, generator=generator)


def _blended(shown: Shown, mixed: Tensor, share: Tensor, partners: tuple[Tensor, Tensor]) -> Shown:
    """Return a batch of which those that are `mixed` have become blends with `partners` (Shown's first two).

    Labels are blended as the scans are (Zhang et al. 2018, arXiv:1710.09412, with lambda uniform in 0..1).
    """
    device = shown.scans.device
    where, own = mixed.to(device), share[mixed].to(device)
    scans, labels = shown.scans.clone(), F.one_hot(shown.labels, len(LABELS)).float()
    scans[where] = scans[where].lerp(partners[0], (1 - own)[:, None, None, None])
    others = F.one_hot(partners[1], len(LABELS)).float()
    labels[where] = labels[where].lerp(others, (1 - own)[:, None])
    return Shown(scans, labels, shown.keys)
