"""Quantisation-aware training of the linear layers alone, by torchao: the baseline that Octlet grew from."""

import copy
import warnings
from typing import Any

import torch
from torch import nn

from octlet.compress.head import LinearHead
from octlet.core.errors import UsageError
from octlet.models.resnet import ResNet

GROUP = 32


def prepare_linear(net: ResNet) -> LinearHead:
    """Return a copy of `net` with torchao's int8-activation int4-weight rounding simulated in its last layer.

    Raises UsageError where the layer's width is no multiple of the group that shares a scale.
    """
    width = net.fc.in_features
    if width % GROUP:
        raise UsageError(f"the final layer has {width} inputs", remedy=f"torchao takes multiples of {GROUP}")
    head = LinearHead(copy.deepcopy(net))
    _apply(head, "prepare")
    return head


def converted_linear(head: LinearHead) -> tuple[LinearHead, ResNet]:
    """Return torchao's quantised network, and a float one whose last weights lie on the same 4-bit grid.

    The float one does what no engine here has a kernel for: its weights are rounded, its activations are not.
    """
    quantised = copy.deepcopy(head).eval()
    _apply(quantised, "convert")
    snapped = copy.deepcopy(head.net).eval()
    weight: Any = quantised.fc.weight
    plain = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        plain.weight.copy_(weight.dequantize())
        plain.bias.copy_(quantised.fc.bias)  # type: ignore[arg-type]
    snapped.fc = plain
    return quantised, snapped


def _apply(head: LinearHead, step: str) -> None:
    with warnings.catch_warnings():  # of deprecations between torch and torchao
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_
        from torchao.quantization.qat import QATConfig

        # torchao up to 0.13 called this Int8DynamicActivationInt4WeightConfig(group_size=32)
        base = Int8DynamicActivationIntxWeightConfig(torch.int4, PerGroup(GROUP))  # type: ignore[attr-defined]
        quantize_(head, QATConfig(base, step=step), lambda module, name: name == "fc" and _is_linear(module))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
