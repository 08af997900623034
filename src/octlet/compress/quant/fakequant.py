"""Rounding to integers, simulated in float, for prepare_qat_pt2e.

torchao's own fused module trains on one scale and converts with another (|min| / 128 against |min| / 127),
and torch's kernel costs as much as a convolution. These two keep the scale that was trained with, and are
made of operations that torch vectorises.
"""

from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchao.quantization.pt2e import FakeQuantizeBase

from octlet.compress.quant.ranges import BINS, grid, least_squares_range, percentile_range

LEVELS = 256
_LEAST = 2.0**-12  # a channel's largest weight


class _Round(torch.autograd.Function):
    """Clamp and round to a grid; the gradient passes inside the range only (Jacob et al. 2018)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.range = low, high
        return F.hardtanh(x, low, high).mul_(1 / scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grads[0], x, *ctx.range), None, None, None


class _RoundWeights(torch.autograd.Function):
    """Round to a grid that no weight lies outside; the gradient passes."""

    @staticmethod
    def forward(_ctx: Any, w: Tensor, scale: Tensor) -> Tensor:
        return w.mul(1 / scale).round_().mul_(scale)  # as the conversion does: a quotient may round otherwise

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class Watch(Enum):
    """What an activation's observer does with the values that pass."""

    NOTHING = 0
    WIDEN = 1  # calibration: the range holds every value
    COUNT = 2  # calibration: a histogram over the range that was found
    FOLLOW = 3  # training: a moving average of the batches' ranges


class ActivationFakeQuant(FakeQuantizeBase):  # type: ignore[misc]
    """uint8 activations, one scale and zero point a tensor; real zero is always representable."""

    dtype = torch.uint8
    qscheme = torch.per_tensor_affine
    quant_min, quant_max, is_dynamic = 0, LEVELS - 1, False
    averaging = 0.05

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))
        self.watch = Watch.NOTHING
        self.rounds = True
        self.counts: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        """Take note of a batch's values, as `watch` says."""
        if self.watch is Watch.WIDEN:
            self.low.copy_(torch.minimum(self.low, x.amin().float()))
            self.high.copy_(torch.maximum(self.high, x.amax().float()))
        elif self.watch is Watch.COUNT:
            counts = torch.histc(x.float(), BINS, float(self.low), float(self.high)).double()
            self.counts = counts if self.counts is None else self.counts + counts
        elif self.watch is Watch.FOLLOW and self.training:
            some = x[::4]  # an average over many steps needs no more of each
            self.low.lerp_(some.amin().float(), self.averaging)
            self.high.lerp_(some.amax().float(), self.averaging)

    def settle(self, percent: float | None) -> None:
        """Take the range from the histogram: its percentile, or without one the least squares; drop it."""
        if self.counts is None:
            raise RuntimeError("there is no histogram; show scans under Watch.COUNT first")
        counts = self.counts.cpu().numpy()
        whole = float(self.low), float(self.high)
        if whole[0] < whole[1]:
            low, high = (
                least_squares_range(counts, *whole, LEVELS)
                if percent is None
                else percentile_range(counts, *whole, percent)
            )
            self.low.fill_(low)
            self.high.fill_(high)
        self.counts = None

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Return scale, float32 (1,), and zero point, int32 (1,), of the present range."""
        scale, zero = grid(float(self.low), float(self.high), LEVELS)
        return torch.tensor([scale], dtype=torch.float32), torch.tensor([zero], dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` rounded, of the same shape and dtype."""
        if self.watch is not Watch.NOTHING:
            self.observe(x.detach())
        if not self.rounds:
            return x
        scale, zero = grid(float(self.low), float(self.high), LEVELS)
        rounded: Tensor = _Round.apply(  # type: ignore[no-untyped-call]
            x, scale, -zero * scale, (LEVELS - 1 - zero) * scale
        )
        return rounded


class WeightFakeQuant(FakeQuantizeBase):  # type: ignore[misc]
    """Signed weights of `bits` bits, symmetric, one scale an output channel: its largest magnitude / limit.

    The scale is taken from the weights at every pass, so that it never lags a step behind them. That of a
    channel whose weights are all but 0 is kept so large that 32 bits hold its bias, counted in steps of input
    times weight.
    """

    dtype = torch.int8
    qscheme = torch.per_channel_symmetric
    ch_axis, is_dynamic = 0, False

    def __init__(self, bits: int = 8, **_: Any) -> None:
        super().__init__()
        self.quant_max = 2 ** (bits - 1) - 1
        self.quant_min = -self.quant_max
        self.rounds = True
        self._scale: Tensor | None = None

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Return scales, float32 (C,), and zero points, all 0, int64 (C,), of the last pass."""
        if self._scale is None:
            raise RuntimeError("weights are quantised after a pass, not before the first")
        return self._scale, torch.zeros_like(self._scale, dtype=torch.int64)

    def forward(self, w: Tensor) -> Tensor:
        """Return weights (C, ...) rounded, of the same shape."""
        if not self.rounds:
            return w
        flat = w.detach().flatten(1)
        largest = torch.maximum(flat.amax(1), -flat.amin(1))  # twice as fast as abs().amax()
        self._scale = (largest / self.quant_max).clamp_min(_LEAST / self.quant_max)
        rounded: Tensor = _RoundWeights.apply(  # type: ignore[no-untyped-call]
            w, self._scale.reshape(-1, *[1] * (w.ndim - 1))
        )
        return rounded
