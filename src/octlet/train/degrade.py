"""Scans as a weak, coarse or moving recording shows them: a student's are degraded, its teacher's are not.

A teacher's answer to the clean scan is the target for the degraded one, so a student can become more robust
than its teacher (Xie et al. 2020, arXiv:1911.04252).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_CONTRAST = 0.15  # of the distance from the mean
MOST_SPECKLE = 0.6  # standard deviation
GRAINS = (1, 2)  # sides of a grain of speckle, pixels
LONGEST_BLUR, WIDEST_BLUR = 8.0, 2.0  # standard deviations along a line and across it, pixels
LARGEST_BLOCK = 10  # pixels


def degrade(scans: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return scans of which some have lost contrast, or carry speckle, blur or blocks, one of these each.

    Args:
        scans: float32 (N, 1, S, S) in -1..1.
        share: the probability, in 0..1, that a scan is degraded; the rest is returned as it is.
        generator: a CPU generator: the same state gives the same scans. It is left alone where `share` is 0.

    Returns:
        float32 (N, 1, S, S) in -1..1; `scans` themselves are not changed.
    """
    if not share:
        return scans
    drawn = torch.rand((len(scans), 3), generator=generator).tolist()
    found = scans.clone()
    for i, (taken, which, strength) in enumerate(drawn):
        if taken < share:
            fault = FAULTS[int(which * len(FAULTS))]
            found[i] = fault((scans[i] + 1) / 2, strength, generator).clamp(0, 1) * 2 - 1
    return found


def faded(scan: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Bring levels (1, S, S) in 0..1 nearer to their mean, at most to `LEAST_CONTRAST` of the distance."""
    return scan.mean().lerp(scan, LEAST_CONTRAST**strength)


def speckled(scan: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply each grain of a scan (1, S, S) in 0..1 by 1 + N(0, 1) times at most `MOST_SPECKLE`."""
    side = scan.shape[-1]
    grain = GRAINS[int(torch.randint(len(GRAINS), (), generator=generator))]
    noise = torch.randn((1, math.ceil(side / grain), math.ceil(side / grain)), generator=generator)
    wide = noise.repeat_interleave(grain, 1).repeat_interleave(grain, 2)[:, :side, :side]
    return scan * (1 + strength * MOST_SPECKLE * wide.to(scan.device))


def blurred(scan: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Convolve a scan (1, S, S) with a Gaussian that is longer along a line of any direction than across it.

    A round one is a lens out of focus, a long one an eye that moves; edges are mirrored.
    """
    angle, across = torch.rand(2, generator=generator).tolist()
    long = max(strength * LONGEST_BLUR, 0.3)
    short = min(long, max(across * WIDEST_BLUR, 0.3))
    reach = min(math.ceil(2 * long), scan.shape[-1] - 1)
    place = torch.arange(-reach, reach + 1, dtype=torch.float32)
    down, right = place[:, None], place
    sine, cosine = math.sin(angle * math.pi), math.cos(angle * math.pi)
    along, aside = right * cosine + down * sine, down * cosine - right * sine
    kernel = torch.exp(-((along / long) ** 2 + (aside / short) ** 2) / 2)
    kernel = (kernel / kernel.sum()).to(scan.device)
    wide = F.pad(scan[None], (reach,) * 4, mode="reflect")
    return F.conv2d(wide, kernel[None, None])[0]


def blocky(scan: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Give blocks of a scan (1, S, S), 2 to `LARGEST_BLOCK` pixels wide, their mean."""
    side = scan.shape[-1]
    blocks = max(1, round(side / (2 + strength * (LARGEST_BLOCK - 2))))
    return F.interpolate(F.adaptive_avg_pool2d(scan[None], blocks), (side, side), mode="nearest")[0]


FAULTS: tuple[Callable[[Tensor, float, torch.Generator], Tensor], ...] = (faded, speckled, blurred, blocky)
