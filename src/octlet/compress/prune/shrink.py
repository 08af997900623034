"""What one step of pruning takes away, before the network is trained again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from octlet.compress.config import PruneConfig
from octlet.compress.cost import cost_of
from octlet.compress.prune import restore
from octlet.compress.prune.channels import (
    Bounds,
    ChannelGroup,
    Dependencies,
    choose_widths,
    widths_of,
    with_widths,
)
from octlet.compress.prune.depth import Unit, rank_units, removable, renamed_without, without_units
from octlet.compress.prune.sparsity import kernels, sparsify
from octlet.data.index import Progress
from octlet.models.resnet import ResNet
from octlet.models.spec import NetSpec
from octlet.train.augment import augment
from octlet.train.config import TrainConfig
from octlet.train.objective import Objective
from octlet.train.run import device_of
from octlet.train.showing import GRADIENTS, Fold, Shown, epoch_order, generator_for

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shrinking:
    """Takes a network smaller step by step.

    Attributes:
        config: how far and by what.
        first: specification of the network that pruning begins with.
        training: its size, batch, seed and augmentation are those of the gradients.
        fold: training scans, for what is ranked by the network's answers.
        progress: a wrapper of a counting iterable.
        start: gives the network that the training begins again from, where it rewinds to its weights.
    """

    config: PruneConfig
    first: NetSpec
    training: TrainConfig
    fold: Fold
    progress: Progress
    start: Callable[[], ResNet]

    def step(self, net: ResNet, k: int) -> ResNet:
        """Return the network that step k, from 1, leaves of `net`, in eval mode; `net` is used up."""
        if self.config.what == "weights":
            return self._fewer_weights(net, k)
        due = self._units_due(net, k)
        if not self.config.restore:
            return self._fewer_channels(without_units(net, due), k)[0]
        scans, _ = self.fold.sample(restore.SCANS).batch(np.arange(min(restore.SCANS, len(self.fold))), CPU)
        wanted = restore.measured(net, scans)
        wanted = dict(restore.without_units(wanted, renamed_without(net.spec, due)))
        net = without_units(net, due)
        spec = net.spec
        net, kept = self._fewer_channels(net, k)
        restore.bring_back(net, restore.without_channels(wanted, spec, kept), scans)
        return net

    def _fewer_weights(self, net: ResNet, k: int) -> ResNet:
        left = (1 - self.config.sparsity) ** (k / self.config.steps)
        sparsify(net, 1 - left)
        if self.config.rewind != "weights":
            return net
        again = self.start()
        masks = dict(kernels(net))
        with torch.no_grad():
            for name, weight in kernels(again):
                weight.mul_(masks[name] != 0)
        return again.eval()

    def _units_due(self, net: ResNet, k: int) -> list[Unit]:
        all_of_them = len(removable(self.first))
        gone = all_of_them - len(removable(net.spec))
        due = round(self.config.units * all_of_them * k / self.config.steps) - gone
        if due <= 0:
            return []
        ranked = rank_units(net, self.fold, self.progress, device_of(self.training))
        return [unit for _, unit in ranked[:due]]

    def _fewer_channels(self, net: ResNet, k: int) -> tuple[ResNet, dict[str, torch.Tensor]]:
        """Return the network, and which channels stay of the convolutions that may have lost some."""
        wanted: float = self.config.to_macs ** (k / self.config.steps) * self.macs(self.first)
        if self.macs(net.spec) <= wanted:
            return net, {}
        if self.config.importance == "taylor":
            self._leave_gradients(net)
        found = Dependencies(net, self.config.importance)
        bounds = Bounds(self.config.round_to, self.config.floor, self._first_widths)
        spec, macs = net.spec, self.macs(net.spec)

        def fits(widths: Mapping[tuple[str, ...], int]) -> bool:
            return self.macs(with_widths(spec, widths)) <= wanted

        def price(group: ChannelGroup) -> float:
            if self.config.importance != "taylor":
                return 1.0  # a norm of weights, or a scale, is no amount that a MAC could buy
            return float(macs - self.macs(with_widths(spec, {group.layers: len(group.scores) - 1})))

        cut = found.without(choose_widths(found.groups, bounds, self.config.scope, fits, price))
        return cut, found.kept

    @cached_property
    def _first_widths(self) -> dict[str, int]:
        return widths_of(self.first)

    def macs(self, spec: NetSpec) -> int:
        """Return the multiply-accumulates of a network of this specification for one scan."""
        return cost_of(spec, self.training.size).macs

    def _leave_gradients(self, net: ResNet) -> None:
        """Leave the gradients of the labels' loss, summed over augmented training batches, in the network.

        The labels', because the answers of the dense network, which this one may still be, have none.
        """
        config = self.training
        objective = Objective(config.label_smoothing)
        order = epoch_order(self.fold, config, 0)
        net.zero_grad(set_to_none=True)
        batches = min(self.config.batches, len(order) // config.batch or 1)
        for b in self.progress(range(batches)):
            picks = order[b * config.batch : (b + 1) * config.batch]
            scans, labels = self.fold.batch(picks, CPU)
            shown = augment(scans, config, generator_for(config.seed, 0, b, GRADIENTS))
            objective.loss(net(shown), Shown(shown, labels, None)).backward()  # type: ignore[no-untyped-call]
