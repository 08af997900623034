"""Which residual units a network can do without."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from octlet.compress.answers import BATCH, divergence, log_probabilities
from octlet.compress.prune.channels import rebuilt
from octlet.data.index import Progress
from octlet.models.resnet import ResNet
from octlet.models.spec import NetSpec
from octlet.train.showing import Fold

SCANS = 48

Unit = tuple[int, int]
"""A unit's stage and place in it, both from 0."""


def removable(spec: NetSpec) -> list[Unit]:
    """Return the units whose identity is the input itself: without them the network still fits together."""
    return [
        (i, u)
        for i, stage in enumerate(spec.stages)
        for u, unit in enumerate(stage)
        if unit.stride == 1 and not unit.projection
    ]


def renamed_without(spec: NetSpec, units: Iterable[Unit]) -> dict[str, str]:
    """Return every unit's prefix, "layer1.0.", and the one that it has without these; "" for one of these."""
    gone = set(units)
    renamed: dict[str, str] = {}
    for i, stage in enumerate(spec.stages):
        kept = [u for u in range(len(stage)) if (i, u) not in gone]
        renamed |= {f"layer{i + 1}.{u}.": "" for u in range(len(stage))}
        renamed |= {f"layer{i + 1}.{u}.": f"layer{i + 1}.{new}." for new, u in enumerate(kept)}
    return renamed


def without_units(net: ResNet, units: Iterable[Unit]) -> ResNet:
    """Return a fresh network without these `removable` units; those behind them are counted anew."""
    gone = set(units)
    stages = [
        tuple(unit for u, unit in enumerate(stage) if (i, u) not in gone)
        for i, stage in enumerate(net.spec.stages)
    ]
    renamed = renamed_without(net.spec, gone)
    state = {}
    for key, tensor in net.state_dict().items():
        old = ".".join(key.split(".")[:2]) + "."
        if old not in renamed:
            state[key] = tensor
        elif renamed[old]:
            state[renamed[old] + key.removeprefix(old)] = tensor
    return rebuilt(replace(net.spec, stages=tuple(stages)), state)


def rank_units(net: ResNet, fold: Fold, progress: Progress, device: torch.device) -> list[tuple[float, Unit]]:
    """Leave out each removable unit alone; the one that changes the answers least comes first.

    Args:
        net: in eval mode, on the CPU, where it is left.
        fold: training scans, of which `SCANS` are used.
        progress: a wrapper of a counting iterable.
        device: where to compute.

    Returns pairs of the mean KL divergence from the whole network's answers, nats, and the unit.
    """
    net.eval().to(device)
    units = removable(net.spec)
    costs = dict.fromkeys(units, 0.0)
    sample = fold.sample(SCANS)
    with torch.inference_mode():
        for first in progress(range(0, len(sample), BATCH)):
            rows = np.arange(first, min(first + BATCH, len(sample)))
            scans, _ = sample.batch(rows, device)
            for unit, cost in _costs(net, scans, units):
                costs[unit] += cost * len(rows) / len(sample)
    net.cpu()
    return sorted((cost, unit) for unit, cost in costs.items())


def _costs(net: ResNet, scans: Tensor, units: Iterable[Unit]) -> Iterator[tuple[Unit, float]]:
    """Yield the divergence without each unit; what lies before it is computed once for all."""
    layers = {
        (i, u): net.get_submodule(f"layer{i + 1}.{u}")
        for i, stage in enumerate(net.spec.stages)
        for u in range(len(stage))
    }
    inputs, x = {}, net.stem(scans)
    for place, layer in layers.items():
        inputs[place] = x
        x = layer(x)
    whole = log_probabilities(net.head(net.activated(x)))
    for unit in units:
        x = inputs[unit]
        for place, layer in layers.items():
            x = layer(x) if place > unit else x
        yield unit, divergence(whole, log_probabilities(net.head(net.activated(x))))
