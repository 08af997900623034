"""Residual networks from a `NetSpec`: V1.5 under torchvision's key names, pre-activation V2, inverted units.

All end in the same head: a 1x1 convolution over the last feature map, then global average pooling. The
class activation map (Zhou et al. 2016) therefore IS the logits before pooling, at no extra pass.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from octlet.models.spec import NetSpec, UnitSpec


class Outputs(NamedTuple):
    """What a network says of N scans: logits (N, K), cam (N, K, h, w), embedding (N, C), all float32."""

    logits: Tensor
    cam: Tensor
    embedding: Tensor


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


class Unit(nn.Module):
    """Convolution and batch norm, two (basic) or three (bottleneck) times, plus the identity, then ReLU."""

    def __init__(self, inputs: int, spec: UnitSpec) -> None:
        super().__init__()
        self.length = len(spec.widths)
        kernels = (3, 3) if self.length == 2 else (1, 3, 1)
        strided = 0 if self.length == 2 else 1
        before = inputs
        for i, (width, kernel) in enumerate(zip(spec.widths, kernels, strict=True)):
            stride = spec.stride if i == strided else 1
            self.add_module(f"conv{i + 1}", _conv(before, width, kernel, stride))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(width))
            before = width
        self.downsample = (
            nn.Sequential(_conv(inputs, before, 1, spec.stride), nn.BatchNorm2d(before))
            if spec.projection
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, widths[-1], h / stride, w / stride)."""
        y = x
        for i in range(1, self.length + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            if i < self.length:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class PreUnit(nn.Module):
    """Pre-activation bottleneck with folded batch norms: scale-shift-ReLU, then three convolutions.

    The scale and shift are a 1x1 depthwise convolution, and the strided identity a 1x1 max-pool: both are
    exact, and stay in integers when the network is quantised.
    """

    def __init__(self, inputs: int, spec: UnitSpec) -> None:
        super().__init__()
        a, b, c = spec.widths
        self.stride = spec.stride
        self.preact = nn.Conv2d(inputs, inputs, 1, groups=inputs)
        self.conv1 = _conv(inputs, a, 1, bias=True)
        self.conv2 = _conv(a, b, 3, spec.stride, bias=True)
        self.conv3 = _conv(b, c, 1, bias=True)
        self.shortcut = _conv(inputs, c, 1, spec.stride, bias=True) if spec.projection else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, widths[-1], h / stride, w / stride)."""
        p = F.relu(self.preact(x))
        y: Tensor = self.conv3(F.relu(self.conv2(F.relu(self.conv1(p)))))
        if self.shortcut is not None:
            x = self.shortcut(p)
        elif self.stride > 1:
            x = F.max_pool2d(x, 1, self.stride)
        return y + x


class StridedConv2d(nn.Conv2d):
    """A convolution of stride 2 padded as TensorFlow's SAME does: as little as it reads, the odd row behind.

    Padded on both sides, as elsewhere here, weights from TensorFlow would look one pixel beside their places.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, outputs, h / 2, w / 2), halves rounded up."""
        kernel = self.kernel_size[0]
        (down, right) = (max(kernel - (2 if side % 2 == 0 else 1), 0) for side in x.shape[2:])
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return super().forward(x)


class InvertedUnit(nn.Module):
    """Inverted bottleneck (Sandler et al. 2018): 1x1 that expands, depthwise, 1x1 that stays linear.

    The identity is added where there is one. Rectifiers end at 6, which gives integers a known range.
    """

    def __init__(self, inputs: int, spec: UnitSpec) -> None:
        super().__init__()
        *expanded, width = spec.widths
        self.expands, self.identity = bool(expanded), not spec.projection
        before = inputs
        if self.expands:
            (before,) = expanded
            self.conv1 = _conv(inputs, before, 1)
            self.bn1 = _lite_norm(before)
        self.depthwise = (
            StridedConv2d(before, before, spec.kernel, groups=before)
            if spec.stride == 2
            else nn.Conv2d(before, before, spec.kernel, 1, spec.kernel // 2, groups=before, bias=False)
        )
        self.bn = _lite_norm(before)
        last = len(spec.widths)
        self.add_module(f"conv{last}", _conv(before, width, 1))
        self.add_module(f"bn{last}", _lite_norm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, widths[-1], h / stride, w / stride), halves rounded up."""
        wide = F.relu6(self.bn1(self.conv1(x))) if self.expands else x
        wide = F.relu6(self.bn(self.depthwise(wide)))
        last = 2 if self.expands else 1
        y: Tensor = self.get_submodule(f"bn{last}")(self.get_submodule(f"conv{last}")(wide))
        return x + y if self.identity else y


def _lite_norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)  # TensorFlow's, which the weights were trained with


_UNITS: dict[str, Callable[[int, UnitSpec], nn.Module]] = {
    "v1.5": Unit,
    "v2": PreUnit,
    "lite": InvertedUnit,
}


class ResNet(nn.Module):
    """A network for float32 scans (N, channels, S, S) in -1..1; returns `Outputs`."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        v2, lite = spec.family == "v2", spec.family == "lite"
        self.conv1: nn.Conv2d = (
            StridedConv2d(spec.channels, spec.stem, 3)
            if lite
            else nn.Conv2d(spec.channels, spec.stem, 7, 2, 3, bias=v2)
        )
        self.bn1 = None if v2 else _lite_norm(spec.stem) if lite else nn.BatchNorm2d(spec.stem)
        width = spec.stem
        for i, units in enumerate(spec.stages, start=1):
            stage = nn.Sequential()
            for unit in units:
                stage.append(_UNITS[spec.family](width, unit))
                width = unit.widths[-1]
            self.add_module(f"layer{i}", stage)
        self.norm = nn.Conv2d(width, width, 1, groups=width) if v2 else None
        self.conv2 = _conv(width, spec.last, 1) if lite else None
        self.bn2 = _lite_norm(spec.last) if lite else None
        self.fc = nn.Linear(spec.last or width, spec.classes)
        _initialise(self)

    def stem(self, x: Tensor) -> Tensor:
        """Map scans (N, channels, S, S) to what the first unit takes: a quarter of the side, "lite" half."""
        x = self.conv1(x)
        if self.bn1 is not None:
            x = F.relu(self.bn1(x)) if self.conv2 is None else F.relu6(self.bn1(x))
        return F.max_pool2d(x, 3, 2, 1) if self.conv2 is None else x

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, C, S / 32, S / 32)."""
        x = self.stem(x)
        for i in range(1, len(self.spec.stages) + 1):
            x = self.get_submodule(f"layer{i}")(x)
        return self.activated(x)

    def activated(self, x: Tensor) -> Tensor:
        """Map what the last unit gives to the last feature map, of the same height and width."""
        if self.conv2 is not None and self.bn2 is not None:
            return F.relu6(self.bn2(self.conv2(x)))
        return x if self.norm is None else F.relu(self.norm(x))

    def head(self, features: Tensor) -> Outputs:
        """Map the last feature map to `Outputs`."""
        cam = F.conv2d(features, self.fc.weight[:, :, None, None], self.fc.bias)
        return Outputs(cam.mean((2, 3)), cam, features.mean((2, 3)))

    def forward(self, x: Tensor) -> Outputs:
        """Map scans (N, channels, S, S) to `Outputs`."""
        return self.head(self.features(x))


def _initialise(net: ResNet) -> None:
    """He et al. 2015 for convolutions, depthwise ones too; identities for the scale-shifts of V2."""
    for name, module in net.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if module.groups > 1 and module.bias is not None:
            nn.init.ones_(module.weight)
        elif module.groups > 1:  # each channel is written by its own kernel alone
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
        else:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        if name.endswith("conv3") and net.spec.family == "v2":
            # without batch norms a deep fresh net explodes: start each unit as its identity
            nn.init.zeros_(module.weight)


def build(spec: NetSpec) -> ResNet:
    """Return a fresh network of `spec`, its weights drawn from torch's global generator."""
    return ResNet(spec)


def count_parameters(net: nn.Module) -> int:
    """Return the number of trainable numbers in a network."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
