"""Augmentation of a whole batch at once, on the device that trains."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from octlet.train.config import TrainConfig


def augment(batch: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Return augmented scans: mirrored, turned, scaled, moved, then brightness, contrast and speckle.

    Args:
        batch: float32 (N, 1, S, S) in -1..1.
        config: gives the largest size of each change; 0 leaves it out.
        generator: a CPU generator: the same state gives the same scans.

    Returns:
        float32 (N, 1, S, S) in -1..1.
    """
    n = len(batch)
    grid = F.affine_grid(
        _affine(n, config, generator).to(batch.device), list(batch.shape), align_corners=False
    )
    # reflection continues the tissue: a constant would draw the very borders that `prepare` removes
    moved = F.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)
    level = (moved + 1) / 2

    def draw(spread: float) -> Tensor:
        return _uniform(n, spread, generator).view(n, 1, 1, 1).to(batch.device)

    mean = level.mean((2, 3), keepdim=True)
    level = (level - mean) * (1 + draw(config.contrast)) + mean * (1 + draw(config.brightness))
    if config.speckle:
        noise = torch.randn(level.shape, generator=generator).to(batch.device)
        strength = (draw(0.5) + 0.5) * config.speckle
        level = level * (1 + strength * noise)
    return level.clamp(0, 1) * 2 - 1


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
