"""Which channels a network can only lose together, how much each matters, and the network without some."""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import nn

from octlet.compress.config import Importance
from octlet.compress.head import LinearHead
from octlet.core.errors import GateError, UsageError
from octlet.models.resnet import ResNet, build
from octlet.models.spec import NetSpec, UnitSpec

_UNIT_LAYER = re.compile(r"layer(\d+)\.(\d+)\.conv(\d+)")
_TRACED = 64  # side of the image that the dependencies are traced with, pixels: they do not depend on it


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of layers that read or add each other's outputs: a channel goes from all of them, or none.

    Attributes:
        layers: the convolutions that write them: one inside a unit, all that write a stage's residual path.
        scores: float64 (C,), how much each channel matters.
    """

    layers: tuple[str, ...]
    scores: NDArray[np.float64]

    def least(self, n: int) -> list[int]:
        """Return the positions of the n channels that matter least, of equals the first, ascending."""
        return sorted(np.argsort(self.scores, kind="stable")[:n].tolist())


class Dependencies:
    """The channel groups of a network, by torch-pruning's dependency graph (Fang et al. 2023,
    arXiv:2301.12900).
    """  # noqa: D205

    def __init__(self, net: ResNet, importance: Importance) -> None:
        """Trace `net`, which is not changed, and score its channels.

        Taylor scores read the gradients that the caller has left in the parameters.

        Raises UsageError for batch-norm scores of a network without batch norms.
        """
        self._net = net
        names = {module: name for name, module in net.named_modules()}
        known = widths_of(net.spec)
        score = _scorer(importance)
        self._groups: dict[tuple[str, ...], Any] = {}
        self.groups: list[ChannelGroup] = []
        self.kept: dict[str, torch.Tensor] = {}  # by `without`: the channels that stay of a convolution's
        with torch.enable_grad():  # it follows what autograd records
            self._graph = torch_pruning.DependencyGraph().build_dependency(
                LinearHead(net), torch.zeros(1, net.spec.channels, _TRACED, _TRACED)
            )
        for group in self._graph.get_all_groups(ignored_layers=[net.fc]):
            layers = tuple(_writers(group, names, known))
            scores = score(group)
            if scores is None:
                rule = f"no batch norm scales the channels of {layers[0]}"
                raise UsageError(rule, remedy="rank by magnitude or taylor")
            self._groups[layers] = group
            self.groups.append(ChannelGroup(layers, scores.double().cpu().numpy()))

    def without(self, widths: Mapping[tuple[str, ...], int]) -> ResNet:
        """Return a fresh network whose groups keep so many channels, those that matter most; use it once.

        The network that was traced is cut to pieces.
        """
        for group in self.groups:
            lost = group.least(len(group.scores) - widths[group.layers])
            stays = np.setdiff1d(np.arange(len(group.scores)), lost)
            self.kept |= dict.fromkeys(group.layers, torch.from_numpy(stays))
            if lost:
                root = self._groups[group.layers][0].dep
                self._graph.get_pruning_group(root.target.module, root.handler, lost).prune()
        spec = with_widths(self._net.spec, widths)
        return rebuilt(spec, self._net.state_dict())


def rebuilt(spec: NetSpec, state: Mapping[str, torch.Tensor]) -> ResNet:
    """Return the network of a specification with these tensors, in eval mode."""
    with torch.random.fork_rng(devices=[]):  # building draws weights that are overwritten at once
        net = build(spec)
    net.load_state_dict(state)
    return net.eval()


def _scorer(importance: Importance) -> Callable[[Any], torch.Tensor | None]:
    kinds = torch_pruning.importance
    if importance == "taylor":
        # as it is: an estimate of what the loss gains, comparable between layers (Molchanov et al. 2019)
        score = kinds.GroupTaylorImportance(normalizer=None, group_reduction="sum")
    elif importance == "batch-norm":
        score = kinds.BNScaleImportance()  # Liu et al. 2017, arXiv:1708.06519
    else:
        score = kinds.GroupMagnitudeImportance(p=2)  # mean 1 in each group
    found: Callable[[Any], torch.Tensor | None] = score
    return found


def _writers(group: Any, names: Mapping[nn.Module, str], known: Container[str]) -> Iterable[str]:
    """Yield the convolutions of `widths_of` whose outputs a group holds; projections and norms follow."""
    for dep, _ in group:
        module = dep.target.module
        if dep.handler == torch_pruning.prune_conv_out_channels and names.get(module) in known:
            yield names[module]


def with_widths(spec: NetSpec, widths: Mapping[tuple[str, ...], int]) -> NetSpec:
    """Return a specification whose named convolutions have other numbers of output channels."""
    stages = [list(stage) for stage in spec.stages]
    ends = {"conv1": spec.stem, "conv2": spec.last}
    for layers, width in widths.items():
        for layer in layers:
            if layer in ends:
                ends[layer] = width
                continue
            stage, unit, which = (int(word) for word in _UNIT_LAYER.findall(layer)[0])
            stages[stage - 1][unit] = _widened(stages[stage - 1][unit], which - 1, width)
    cut = tuple(tuple(stage) for stage in stages)
    return replace(spec, stem=ends["conv1"], stages=cut, last=ends["conv2"])


def _widened(unit: UnitSpec, which: int, width: int) -> UnitSpec:
    widths = (*unit.widths[:which], width, *unit.widths[which + 1 :])
    return replace(unit, widths=widths)


@dataclass(frozen=True)
class Bounds:
    """What may be taken from a group.

    Attributes:
        step: channels go in blocks, down to multiples of this.
        floor: share of a group's first channels that always stays.
        first: width of each convolution in the network that pruning began with.
    """

    step: int
    floor: float
    first: Mapping[str, int]

    def widths(self, group: ChannelGroup) -> list[int]:
        """Return the widths that a group may be cut to, the widest, its own, first."""
        width = len(group.scores)
        least = max(self.step, self.floor * self.first[group.layers[0]])
        below = range(width - 1, 0, -1)
        return [width, *(n for n in below if n % self.step == 0 and n >= least)]


def widths_of(spec: NetSpec) -> dict[str, int]:
    """Return the number of output channels of the stem, the units' and the last convolution, by name.

    A projection is not told: it has the channels of its unit's last convolution. Nor is a depthwise one,
    which has those of what it reads.
    """
    found = {"conv1": spec.stem} | ({"conv2": spec.last} if spec.last else {})
    for i, stage in enumerate(spec.stages, start=1):
        for u, unit in enumerate(stage):
            found |= {f"layer{i}.{u}.conv{k}": width for k, width in enumerate(unit.widths, start=1)}
    return found


@dataclass(frozen=True)
class _Cut:
    """One block off one group: the group's new width, and how much the block matters."""

    layers: tuple[str, ...]
    width: int
    score: float


def choose_widths(
    groups: Sequence[ChannelGroup],
    bounds: Bounds,
    scope: str,
    fits: Callable[[Mapping[tuple[str, ...], int]], bool],
    price: Callable[[ChannelGroup], float] = lambda _: 1.0,
) -> dict[tuple[str, ...], int]:
    """Take as few blocks as make the network fit.

    Args:
        groups: of `Dependencies`.
        bounds: what may be taken.
        scope: "global" takes the block of the lowest mean score for its price, wherever it is; "layer" takes
            the same share of every group.
        fits: tells whether a network of these widths is small enough; fewer channels must never fit worse.
        price: what a channel of a group costs.

    Returns the width of every group; raises GateError where all that may go is not enough.
    """
    cuts = [cut for group in groups for cut in _cuts(group, bounds, scope, price(group))]
    cuts.sort(key=lambda cut: cut.score)  # stable, and rising within a group: its blocks go in order
    widths = {group.layers: len(group.scores) for group in groups}

    def after(n: int) -> dict[tuple[str, ...], int]:
        return widths | {cut.layers: cut.width for cut in cuts[:n]}

    low, high = 0, len(cuts)
    if not fits(after(high)):
        remedy = "lower prune.floor or prune.round_to, remove units with --units, or ask for less"
        raise GateError("so few MACs cannot be reached by removing channels", remedy=remedy)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(after(middle)) else (middle + 1, high)
    return after(low)


def _cuts(group: ChannelGroup, bounds: Bounds, scope: str, price: float) -> list[_Cut]:
    widths = bounds.widths(group)
    ranked = np.sort(group.scores)
    total = len(ranked)
    cuts = []
    for before, width in pairwise(widths):
        block = ranked[total - before : total - width]
        # by layer: the share of the first width that is gone, and of equals the least important block first
        gone = 1 - width / bounds.first[group.layers[0]] + 1e-9 * block.mean() / ranked.mean()
        score = block.mean() / price if scope == "global" else gone
        cuts.append(_Cut(group.layers, width, float(score)))
    return cuts
