"""The outputs of a cut network's layers, brought back to the mean and spread that they had before the cut.

Batch norms would do it by themselves in the next training. In ResNet V2 they are folded into scales and
shifts of ImageNet's statistics, which nothing moves but gradients: cut deep, such a network stands at chance
and stays there. The idea is EagleEye's (Li et al. 2020, arXiv:2007.02491), without the batch norms.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from octlet.core.errors import UsageError
from octlet.models.resnet import ResNet
from octlet.models.spec import NetSpec

GAIN = 8.0  # at most, and at least one over it: of a channel that hardly moves, the spread tells little
SCANS = 48


class Spread(NamedTuple):
    """Of a layer's outputs, for every channel, float32 (C,): their mean and standard deviation."""

    mean: Tensor
    std: Tensor


def scaled(spec: NetSpec) -> dict[str, str]:
    """Return every layer that had a batch norm, and the convolution that its channels come from.

    Raises UsageError for a family whose batch norms are not folded.
    """
    if spec.family != "v2":
        rule = f"prune.restore is for ResNet V2: a network of family '{spec.family}' has batch norms"
        raise UsageError(rule, remedy="leave it out: the training moves them")
    found: dict[str, str] = {}
    before = "conv1"
    for i, stage in enumerate(spec.stages, start=1):
        for u in range(len(stage)):
            unit = f"layer{i}.{u}"
            own = (f"{unit}.conv1", f"{unit}.conv2")
            found |= {f"{unit}.preact": before, **dict(zip(own, own, strict=True))}
            before = f"{unit}.conv3"
    return found | {"norm": before}


def measured(net: ResNet, scans: Tensor) -> dict[str, Spread]:
    """Return how the outputs of the `scaled` layers spread over scans, float32 (N, 1, S, S)."""
    found = {}

    def hook(name: str) -> Any:
        def note(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[name] = _spread(output)

        return note

    _run(net, scans, ((name, hook(name)) for name in scaled(net.spec)))
    return found


def bring_back(net: ResNet, wanted: Mapping[str, Spread], scans: Tensor) -> None:
    """Scale and shift the `scaled` layers in place, first to last, so that their outputs spread as `wanted`.

    Each sees what those before it give after theirs were moved.
    """

    def hook(aim: Spread) -> Any:
        def move(module: nn.Conv2d, inputs: object, output: Tensor) -> Tensor:
            has = _spread(output)
            gain = (aim.std / has.std.clamp_min(1e-12)).clamp(1 / GAIN, GAIN)
            module.weight.mul_(gain[:, None, None, None])
            module.get_parameter("bias").sub_(has.mean).mul_(gain).add_(aim.mean)
            return (output - _wide(has.mean)) * _wide(gain) + _wide(aim.mean)

        return move

    _run(net, scans, ((name, hook(wanted[name])) for name in scaled(net.spec)))


def _run(net: ResNet, scans: Tensor, hooks: Iterable[tuple[str, Any]]) -> None:
    handles = [net.get_submodule(name).register_forward_hook(hook) for name, hook in hooks]
    try:
        with torch.no_grad():
            net.eval()(scans)
    finally:
        for handle in handles:
            handle.remove()


def _spread(output: Tensor) -> Spread:
    std, mean = torch.std_mean(output, dim=(0, 2, 3), correction=0)
    return Spread(mean, std)


def _wide(each: Tensor) -> Tensor:
    return each[:, None, None]


def without_units(wanted: Mapping[str, Spread], renamed: Mapping[str, str]) -> Iterator[tuple[str, Spread]]:
    """Yield what is left of `measured` without residual units: `renamed` of `octlet.compress.prune.depth`."""
    for name, spread in wanted.items():
        unit, _, layer = name.rpartition(".")
        if not unit:
            yield name, spread
        elif renamed[f"{unit}."]:
            yield renamed[f"{unit}."] + layer, spread


def without_channels(
    wanted: Mapping[str, Spread], spec: NetSpec, kept: Mapping[str, Tensor]
) -> dict[str, Spread]:
    """Return what is left of `measured`: `kept` tells which channels, int64, stay of a convolution's."""
    sources = scaled(spec)
    found = {}
    for name, spread in wanted.items():
        picks = kept.get(sources[name])
        found[name] = spread if picks is None else Spread(spread.mean[picks], spread.std[picks])
    return found
