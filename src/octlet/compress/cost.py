"""What a network costs to store and to compute, from its specification alone: nothing is built.

MACs are the multiply-accumulates of convolutions and of the final layer, padding included; additions of
biases and shortcuts, rectifiers, poolings and means are none. The final layer is computed at every position
of the last feature map (its output there is the class activation map), and is counted so.

Memory is counted in the order in which `octlet.models.resnet` computes, one scan at a time: a tensor lives
from the operation that writes it to the last that reads it, the three outputs to the end. Batch norms and
rectifiers are part of what they follow. Every other operation has an output of its own, a residual sum and a
max-pool too; an engine that writes a sum over one of its terms needs less, one that unfolds a convolution's
input needs more. Weights are not in it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from octlet.compress.config import is_excluded
from octlet.core.errors import UsageError
from octlet.models.spec import NetSpec, UnitSpec

_FOLDED = {7**2: 4 * 4**2, 3**2: 4 * 2**2}  # weights a channel of the stem, and over 2x2 pixels

Kind = Literal["conv", "depthwise", "linear", "pool", "sum", "mean"]


@dataclass(frozen=True)
class LayerCost:
    """What one operation costs; a layer without weights has only `activation_bytes`.

    Attributes:
        name: of the module ("layer3.4.conv2", "fc"); "layer3.4.sum", "layer3.4.pool", "pool", "logits" and
            "embedding" for what is no module.
        kind: what it is.
        macs: multiply-accumulates for one scan.
        parameters: trainable numbers, those of the batch norm behind it included.
        weight_bytes: in the exported file, where batch norms are folded. A weight and a bias take 4 bytes
            each; with int8 a weight takes 1, and every output channel 4 for its bias and 4 for its scale.
            The stem is exported as 4x4 over the four channels of 2x2 pixels then, if the size is even: 64
            weights a channel in place of 49 (in "lite" 2x2: 16 in place of 9), the others zero, which are no
            MACs.
            The batch norm of a layer that is left out of the rounding is counted as folded too; the exporter
            leaves it, with 16 bytes more a channel.
        activation_bytes: the most memory that is alive while it computes: its inputs, its output, what the
            shortcut holds meanwhile, and the copies that pass between integers and float.
    """

    name: str
    kind: Kind
    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class NetCost:
    """What a network costs, operation by operation, in the order of computation."""

    layers: tuple[LayerCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one scan."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Trainable numbers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights, biases and their scales in the exported file."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def peak(self) -> LayerCost:
        """The first layer at which most memory is alive."""
        return max(self.layers, key=lambda layer: layer.activation_bytes)

    @property
    def peak_activation_bytes(self) -> int:
        """The most bytes of activations that are alive at once."""
        return self.peak.activation_bytes


def cost_of(spec: NetSpec, size: int, *, quantised: bool = False, exclude: Iterable[str] = ()) -> NetCost:
    """Count what a network costs for one scan.

    Args:
        spec: the network, pruned or not.
        size: side of the square input, pixels; any, not only multiples of 32.
        quantised: whether it runs in integers, where `octlet.compress.quant.quantizer` places them: a byte
            for every weight and activation. The scan and the three outputs are float32 all the same.
        exclude: names or patterns of the layers that stay in float32 then.

    Raises:
        UsageError: a size below 1.
    """
    if size < 1:
        raise UsageError(f"an input of {size} pixels", remedy="give a size of at least 1")
    ops = _operations(spec, size)
    patterns = tuple(exclude)
    rounded = [quantised and _is_rounded(op, patterns) for op in ops]
    alive = _alive(ops, rounded)
    rows = zip(ops, rounded, alive, strict=True)
    folded = _folds(ops)
    return NetCost(tuple(_layer(*row, folded) for row in rows if row[0].kind != "input"))


class _Op(NamedTuple):
    """An operation that writes channels x side x side numbers; the first is the scan itself."""

    name: str
    kind: Kind | Literal["input"]
    reads: tuple[int, ...]
    channels: int
    side: int
    weights: int = 0
    vectors: int = 0  # trainable numbers an output channel: a batch norm's two, or a bias

    @property
    def numbers(self) -> int:
        return self.channels * self.side**2


def _is_rounded(op: _Op, exclude: tuple[str, ...]) -> bool:
    return op.kind in ("sum", "pool") or bool(op.weights and not is_excluded(op.name, exclude))


def _folds(ops: Sequence[_Op]) -> bool:
    """Tell whether the scan can be taken as 2x2 pixels a channel (see `octlet.export.qdq`)."""
    return ops[0].channels == 1 and ops[0].side % 2 == 0


def _layer(op: _Op, rounded: bool, alive: int, folded: bool) -> LayerCost:
    assert op.kind != "input"  # noqa: S101  (for the type checker)
    a_weight, a_channel = (1, 8) if rounded else (4, 4)
    kept = op.weights
    if rounded and folded and op.name == "conv1":
        kept = op.channels * _FOLDED[op.weights // op.channels]
    stored = kept * a_weight + op.channels * a_channel if op.weights else 0
    parameters = op.weights + op.channels * op.vectors
    return LayerCost(op.name, op.kind, op.weights * op.side**2, parameters, stored, alive)


# The operations ---------------------------------------------------------------------------------------


def _operations(spec: NetSpec, size: int) -> list[_Op]:
    """List the operations in the order in which `octlet.models.resnet` computes them, the outputs last."""
    net = _Network(spec, size)
    lite = spec.family == "lite"
    x = net.conv("conv1", 0, spec.stem, 3 if lite else 7, 2)
    if not lite:
        x = net.pool("pool", x, 2)
    units = {"v1.5": net.unit, "v2": net.pre_unit, "lite": net.inverted_unit}
    for i, stage in enumerate(spec.stages, start=1):
        for j, unit in enumerate(stage):
            x = units[spec.family](f"layer{i}.{j}", x, unit)
    if net.v2:
        x = net.depthwise("norm", x)
    if lite:
        x = net.conv("conv2", x, spec.last)
    channels, side = net.ops[x].channels, net.ops[x].side
    cam = net.add(_Op("fc", "linear", (x,), spec.classes, side, channels * spec.classes, 1))
    net.add(_Op("logits", "mean", (cam,), spec.classes, 1))
    net.add(_Op("embedding", "mean", (x,), channels, 1))
    return net.ops


class _Network:
    """Operations added one by one; each method returns the position of what it added.

    Every kernel is odd and padded by its half, or by all that it reads, so that only strides shrink an image.
    """

    def __init__(self, spec: NetSpec, size: int) -> None:
        self.v2 = spec.family == "v2"
        self.ops = [_Op("scan", "input", (), spec.channels, size)]

    def add(self, op: _Op) -> int:
        self.ops.append(op)
        return len(self.ops) - 1

    def _shrunk(self, source: int, stride: int) -> int:
        return (self.ops[source].side - 1) // stride + 1

    def conv(self, name: str, source: int, channels: int, kernel: int = 1, stride: int = 1) -> int:
        weights = self.ops[source].channels * channels * kernel**2
        side = self._shrunk(source, stride)
        return self.add(_Op(name, "conv", (source,), channels, side, weights, 1 if self.v2 else 2))

    def depthwise(self, name: str, source: int, kernel: int = 1, stride: int = 1) -> int:
        channels, side = self.ops[source].channels, self._shrunk(source, stride)
        vectors = 1 if self.v2 else 2
        return self.add(_Op(name, "depthwise", (source,), channels, side, channels * kernel**2, vectors))

    def pool(self, name: str, source: int, stride: int) -> int:
        side = self._shrunk(source, stride)
        return self.add(_Op(name, "pool", (source,), self.ops[source].channels, side))

    def sum(self, unit: str, one: int, other: int) -> int:
        out = self.ops[one]
        return self.add(_Op(f"{unit}.sum", "sum", (one, other), out.channels, out.side))

    def unit(self, name: str, x: int, spec: UnitSpec) -> int:
        kernels, strided = ((3, 3), 0) if len(spec.widths) == 2 else ((1, 3, 1), 1)
        y = x
        for i, (width, kernel) in enumerate(zip(spec.widths, kernels, strict=True)):
            y = self.conv(f"{name}.conv{i + 1}", y, width, kernel, spec.stride if i == strided else 1)
        if spec.projection:
            x = self.conv(f"{name}.downsample.0", x, spec.widths[-1], 1, spec.stride)
        return self.sum(name, y, x)

    def pre_unit(self, name: str, x: int, spec: UnitSpec) -> int:
        a, b, c = spec.widths
        p = self.depthwise(f"{name}.preact", x)
        y = self.conv(f"{name}.conv2", self.conv(f"{name}.conv1", p, a), b, 3, spec.stride)
        y = self.conv(f"{name}.conv3", y, c)
        if spec.projection:
            x = self.conv(f"{name}.shortcut", p, c, 1, spec.stride)
        elif spec.stride > 1:
            x = self.pool(f"{name}.pool", x, spec.stride)
        return self.sum(name, y, x)

    def inverted_unit(self, name: str, x: int, spec: UnitSpec) -> int:
        *expanded, width = spec.widths
        y = self.conv(f"{name}.conv1", x, *expanded) if expanded else x
        y = self.depthwise(f"{name}.depthwise", y, spec.kernel, spec.stride)
        y = self.conv(f"{name}.conv{len(spec.widths)}", y, width)
        return y if spec.projection else self.sum(name, y, x)


# Memory -----------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """Something that reads buffers and fills one of so many bytes, on behalf of an operation."""

    op: int
    reads: tuple[int, ...]
    size: int


def _alive(ops: Sequence[_Op], rounded: Sequence[bool]) -> list[int]:
    """Return for every operation the most bytes that are alive while it computes."""
    steps, outputs = _steps(ops, rounded)
    last = {buffer: position for position, step in enumerate(steps) for buffer in step.reads}
    now, most = 0, [0] * len(ops)
    for position, step in enumerate(steps):
        now += step.size
        most[step.op] = max(most[step.op], now)
        ended = {buffer for buffer in step.reads if last[buffer] == position} - outputs
        now -= sum(steps[buffer].size for buffer in ended)
    return most


def _steps(ops: Sequence[_Op], rounded: Sequence[bool]) -> tuple[list[_Step], set[int]]:
    """Write down every buffer that is filled, and which of them are the network's outputs.

    A value of a float layer is rounded at once if an integer layer reads it. A value of an integer layer is
    turned to float for every float layer that reads it, just before, and at once if it is an output.
    """
    wanted: list[set[bool]] = [set() for _ in ops]
    for op, is_rounded in zip(ops, rounded, strict=True):
        for value in op.reads:
            wanted[value].add(is_rounded)
    outputs = range(len(ops) - 3, len(ops))
    steps: list[_Step] = []
    forms: list[dict[bool, int]] = []  # of every value: the buffer of its integers, of its floats

    def fill(k: int, reads: tuple[int, ...], numbers: int, integers: bool) -> int:
        op = max(k, 1)  # the scan is rounded by conv1
        steps.append(_Step(op, reads, numbers * (1 if integers else 4)))
        return len(steps) - 1

    for k, (op, integers) in enumerate(zip(ops, rounded, strict=True)):
        reads = tuple(
            forms[value][integers]
            if integers in forms[value]
            else fill(k, (forms[value][True],), ops[value].numbers, False)
            for value in op.reads
        )
        own = fill(k, reads, op.numbers, integers)
        forms.append({integers: own})
        if k in outputs if integers else True in wanted[k]:
            if op.kind == "input" and _folds(ops):
                own = fill(k, (own,), op.numbers, False)
            forms[k][not integers] = fill(k, (own,), op.numbers, not integers)
    return steps, {forms[k][False] for k in outputs}
