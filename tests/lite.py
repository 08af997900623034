"""A narrow network of the family of EfficientNet-Lite0, the same rounded, and what other tests use too."""

from functools import cache

import numpy as np
import torch
from torch import nn

from octlet.compress.config import QuantConfig
from octlet.compress.quant.calibrate import calibrate
from octlet.compress.quant.graph import FakeQuantised
from octlet.export.package import simulated_scans
from octlet.export.qdq import IntegerModel, to_qdq
from octlet.models.resnet import ResNet, build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.train.showing import Fold

NAME = "efficientnet-lite0"
# as the whole: a unit that expands nothing, kernels of 3 and 5 with stride 2, an identity, and none
NARROW = NetSpec(
    "lite",
    8,
    (
        (UnitSpec((6,), 1, True),),
        (UnitSpec((24, 12), 2, True, 5), UnitSpec((32, 12), 1, False, 5)),
        (UnitSpec((20, 10), 2, True),),
    ),
    last=20,
)


def random_net(spec: NetSpec = NARROW) -> ResNet:
    """A network whose batch norms do something.

    One channel is all but 0 and held at 6 by what its batch norm adds, as ImageNet's weights have them: its
    bias, in steps of input times weight, must still fit into 32 bits.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = build(spec)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.2, 1.2)
                nn.init.normal_(module.bias, std=0.3)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
        with torch.no_grad():
            net.conv1.weight[0] *= 1e-12
            net.bn1.bias[0] = 7.0
    return net.eval()


def watched_places(net: nn.Module) -> dict[str, int]:
    """The places of each convolution's and batch norm's output, filled in when the network runs."""
    places: dict[str, int] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _, __, out, name=name: places.update({name: out[0, 0].numel()})
            )
    return places


@cache
def scans(size: int) -> np.ndarray:
    return simulated_scans(16, size)


def seen(size: int) -> np.ndarray:
    """The scans as the network's input."""
    return scans(size)[:, None].astype(np.float32) / 127.5 - 1


def rounded_by(net: ResNet, size: int, *exclude: str) -> FakeQuantised:
    config = QuantConfig(calibration=16, exclude=exclude)
    twin = FakeQuantised(net, config, size)
    calibrate(twin, Fold(scans(size), np.arange(16), np.arange(16) % 4), config, 0, iter)
    return twin


@cache
def rounded(size: int, *exclude: str) -> tuple[FakeQuantised, IntegerModel]:
    twin = rounded_by(random_net(), size, *exclude)
    return twin, to_qdq(twin, size)
