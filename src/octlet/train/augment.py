"""Augmentation of a whole batch at once, on the device that trains."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from octlet.train.config import TrainConfig

FIELDS = 16  # of noise; a scan is given one, rolled to any of S x S places


@dataclass(frozen=True)
class Changes:
    """What is done to n scans; all on the CPU.

    Attributes:
        affine: float32 (n, 2, 3), maps from output to input coordinates in -1..1.
        light: float32 (n, 3): factors of contrast and brightness, standard deviation of the speckle.
        noise: int64 (n, 3): the field of noise, and how far it is rolled down and right, in 0..2^16 - 1.
    """

    affine: Tensor
    light: Tensor
    noise: Tensor

    @classmethod
    def drawn(cls, n: int, config: TrainConfig, generator: torch.Generator) -> "Changes":
        """Draw those of n scans; `config` gives the largest size of each, and 0 leaves it out."""
        affine = _affine(n, config, generator)
        contrast, brightness = (_uniform(n, each, generator) for each in (config.contrast, config.brightness))
        speckle = torch.rand(n, generator=generator) * config.speckle
        noise = torch.randint(1 << 16, (n, 3), generator=generator)
        return cls(affine, torch.stack((1 + contrast, 1 + brightness, speckle), 1), noise)

    def __len__(self) -> int:
        return len(self.light)

    def at(self, places: NDArray[np.int64]) -> "Changes":
        """Return those at some places."""
        picks = torch.from_numpy(places)
        return Changes(self.affine[picks], self.light[picks], self.noise[picks])

    def of(self, scans: Tensor) -> Tensor:
        """Return scans, float32 (n, 1, S, S) in -1..1, with these changes made to them."""
        affine = self.affine.to(scans.device)
        grid = F.affine_grid(affine, list(scans.shape), align_corners=False)
        # reflection continues the tissue: a constant would draw the very borders that `prepare` removes
        moved = F.grid_sample(scans, grid, padding_mode="reflection", align_corners=False)
        level = (moved + 1) / 2
        contrast, brightness, speckle = self.light.to(scans.device).view(-1, 3, 1, 1, 1).unbind(1)
        mean = level.mean((2, 3), keepdim=True)
        level = (level - mean) * contrast + mean * brightness
        if self.light[:, 2].any():
            level = level * (1 + speckle * self._grain(scans))
        return level.clamp(0, 1) * 2 - 1

    def _grain(self, scans: Tensor) -> Tensor:
        """Return noise (n, 1, S, S) of mean 0 and standard deviation 1."""
        side = scans.shape[-1]
        which, down, right = self.noise.to(scans.device).unbind(1)
        place = torch.arange(side, device=scans.device)
        rows, columns = ((place + each[:, None]) % side for each in (down, right))
        fields = _fields(side, scans.device)
        return fields[(which % FIELDS)[:, None, None], rows[:, :, None], columns[:, None]][:, None]


def augment(batch: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Return augmented scans: mirrored, turned, scaled, moved, then brightness, contrast and speckle.

    Args:
        batch: float32 (N, 1, S, S) in -1..1.
        config: gives the largest size of each change; 0 leaves it out.
        generator: a CPU generator: the same state gives the same scans.

    Returns:
        float32 (N, 1, S, S) in -1..1.
    """
    return Changes.drawn(len(batch), config, generator).of(batch)


@lru_cache(maxsize=4)
def _fields(side: int, device: torch.device) -> Tensor:
    """Return `FIELDS` fields of white noise (FIELDS, side, side), the same everywhere."""
    generator = torch.Generator().manual_seed(side)
    return torch.randn((FIELDS, side, side), generator=generator).to(device)


def _uniform(n: int, spread: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(n, generator=generator) * 2 - 1) * spread


def _affine(n: int, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Return (N, 2, 3) maps from output to input coordinates in -1..1."""
    angle = _uniform(n, math.radians(config.rotate), generator)
    across = torch.exp(_uniform(n, math.log1p(config.zoom), generator))
    down = torch.exp(_uniform(n, math.log1p(config.zoom), generator))
    mirror = (
        torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0) if config.flip else torch.ones(n)
    )
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = across * torch.cos(angle) * mirror
    theta[:, 0, 1] = -down * torch.sin(angle)
    theta[:, 1, 0] = across * torch.sin(angle) * mirror
    theta[:, 1, 1] = down * torch.cos(angle)
    theta[:, 0, 2] = _uniform(n, 2 * config.shift, generator)
    theta[:, 1, 2] = _uniform(n, 2 * config.shift, generator)
    return theta
