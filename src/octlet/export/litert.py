"""From the ONNX file to LiteRT: the same numbers, in the layout and the operations of the other engine.

Both engines thus compute from one source. What in ONNX is an operation between Q/DQ pairs is one operation on
int8 here: uint8 numbers with zero point z become int8 ones with z - 128, all else is kept (LiteRT 8-bit
quantization specification; Jacob et al. 2018). Images are (1, h, w, c) instead of (N, c, h, w).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from octlet.core.errors import GateError, UsageError
from octlet.export.tflite import Grid, Writer
from octlet.runtime.engine import ENGINES, INPUT, OUTPUTS

_CENTRE = 128  # what an int8 number is less than its uint8 one
_BIAS = 2.0**31  # what a 32-bit bias stays under


@dataclass(frozen=True)
class LiteRtModel:
    """A .tflite file, how often it holds which operation, and the layers and sums that it has in float."""

    data: bytes
    operators: dict[str, int]
    in_float: tuple[str, ...]

    def check_placement(self, excluded: Collection[str] = ()) -> None:
        """Raise GateError naming every layer or sum in float that is not in `excluded`."""
        if wrong := [name for name in self.in_float if name not in excluded]:
            rule = f"LiteRT computes {', '.join(wrong[:5])} in float, {len(wrong)} nodes in all"
            raise GateError(rule, remedy="a layer that is meant to is named with 'octlet quantize --exclude'")


def require_litert() -> None:
    """Raise UsageError where LiteRT, which brings the file's schema and computes the proof, is not there."""
    kind = ENGINES["litert"]
    if not kind.installed:
        raise UsageError(f"{kind.title} is not installed", remedy=kind.install)


def to_litert(model: bytes, size: int) -> LiteRtModel:
    """Return what `to_onnx` or `to_qdq` wrote as a LiteRT file for one scan, float32 `image` (1, 1, S, S).

    Raises:
        UsageError: LiteRT is not installed.
        GateError: an operation that Octlet's networks do not have, or a bias that 32 bits cannot hold.
    """
    require_litert()
    return _Translation(onnx.load_from_string(model).graph, size).run()


@dataclass(frozen=True)
class _Value:
    """A tensor that is computed: its place, its shape (1, h, w, c) or (1, c), its grid if it is int8."""

    tensor: int
    shape: tuple[int, ...]
    grid: Grid | None = None


@dataclass(frozen=True)
class _Step:
    """An ONNX node with what can be computed in one go with it: a rectifier, and rounding to a grid.

    Attributes:
        node: the first of them.
        rectifier: that follows, by LiteRT's name: "RELU", "RELU6" or "NONE".
        output: what the rectifier, or without one the node, writes.
        grid: of the rounding that follows, None without one.
        rounded: what the rounding writes.
    """

    node: Any
    rectifier: str
    output: str
    grid: Grid | None
    rounded: str

    def of(self, name: str, default: Any) -> Any:
        """Return an attribute of the node."""
        found = (each for each in self.node.attribute if each.name == name)
        return next((onnx.helper.get_attribute_value(each) for each in found), default)


@dataclass(frozen=True)
class _Kernel:
    """A convolution's numbers: weights as in ONNX, their scales if they are int8, and its bias, float32."""

    weights: NDArray[Any]
    scales: NDArray[np.float32] | None
    bias: NDArray[np.float32]
    depthwise: bool

    @property
    def laid_out(self) -> NDArray[Any]:
        """(O, I, h, w) as (O, h, w, I); where every channel goes alone, (O, 1, h, w) as (1, h, w, O)."""
        return self.weights.transpose((1, 2, 3, 0) if self.depthwise else (0, 2, 3, 1))

    def as_float(self) -> "_Kernel":
        """Return the same with float weights."""
        if self.scales is None:
            return self
        return replace(self, weights=self.weights * self.scales.reshape(-1, 1, 1, 1), scales=None)


class _Translation:
    """One walk over the nodes of an ONNX graph, in their order."""

    def __init__(self, graph: Any, size: int) -> None:
        self.graph, self.size, self.writer = graph, size, Writer()
        self.constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        self.makers = {node.output[0]: node for node in graph.node}
        self.users: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.values: dict[str, _Value] = {}
        self.floats: dict[int, _Value] = {}  # of the int8 tensors that are read as floats too
        self.fused: set[str] = set()
        self.in_float: list[str] = []

    def run(self) -> LiteRtModel:
        """Write every node; raises GateError where one has no place."""
        kinds = {
            "Conv": self._convolution,
            "Add": self._sum,
            "MaxPool": self._pool,
            "ReduceMean": self._mean,
            "SpaceToDepth": self._space_to_depth,
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
        }
        image = self.writer.tensor(INPUT, (1, 1, self.size, self.size))
        shape = (1, self.size, self.size, 1)
        self.values[INPUT] = self._emit("RESHAPE", [image, self._numbers(shape)], f"{INPUT}.nhwc", shape)
        for node in self.graph.node:
            if node.output[0] in self.fused:
                continue
            if node.op_type not in kinds:
                raise GateError(f"{node.name} is a {node.op_type}, which has no place in a LiteRT file yet")
            kinds[node.op_type](self._step(node))
        outputs = {name: self._output(name) for name in OUTPUTS}
        data = self.writer.finish({INPUT: image}, outputs)
        return LiteRtModel(data, self.writer.counts, tuple(self.in_float))

    # What is read -------------------------------------------------------------------------------------

    def _step(self, node: Any) -> _Step:
        name, rectifier, grid = node.output[0], "NONE", None
        for kind, title in (("Relu", "RELU"), ("Clip", "RELU6")):
            user = self._only_user(name, kind)
            if user is not None and [self.constants[each] for each in user.input[1:]] in ([], [0, 6]):
                name, rectifier = user.output[0], title
        rounded = name
        if (user := self._only_user(name, "QuantizeLinear")) is not None:
            rounded, grid = user.output[0], self._grid(user)
        return _Step(node, rectifier, name, grid, rounded)

    def _only_user(self, name: str, kind: str) -> Any:
        users = self.users.get(name, [])
        alone = len(users) == 1 and users[0].op_type == kind and name not in OUTPUTS
        return users[0] if alone else None

    def _grid(self, node: Any) -> Grid:
        """Return the int8 grid of a Q or DQ node's uint8 numbers, one scale a tensor."""
        scale, zero = (self.constants[name].reshape(-1)[:1] for name in node.input[1:])
        return Grid(scale, zero.astype(np.int64) - _CENTRE)

    def _kernel(self, step: _Step) -> _Kernel:
        name, *bias = step.node.input[1:]
        scales = None
        if name not in self.constants:
            name, scale, _ = self.makers[name].input
            scales = self.constants[scale]
        weights = self.constants[name]
        given = self.constants[bias[0]] if bias else np.zeros(len(weights), np.float32)
        return _Kernel(weights, scales, given, depthwise=step.of("group", 1) > 1)

    def _as_float(self, value: _Value) -> _Value:
        if value.grid is None:
            return value
        if value.tensor not in self.floats:
            tensor = self.writer.tensor("", value.shape)
            self.writer.operation("DEQUANTIZE", [value.tensor], tensor, version=2)
            self.floats[value.tensor] = _Value(tensor, value.shape)
        return self.floats[value.tensor]

    # What is written ----------------------------------------------------------------------------------

    def _emit(
        self,
        kind: str,
        inputs: list[int],
        name: str,
        shape: tuple[int, ...],
        grid: Grid | None = None,
        **how: Any,
    ) -> _Value:
        """Write an operation; what it gives is called `name` from now on."""
        tensor = self.writer.tensor(name, shape, grid)
        self.writer.operation(kind, inputs, tensor, **how)
        self.values[name] = _Value(tensor, shape, grid)
        return self.values[name]

    def _numbers(self, values: Sequence[Any]) -> int:
        return self.writer.constant("", np.array(values, np.int32))

    def _result(self, step: _Step, integers: bool) -> tuple[str, Grid | None]:
        """Return the name and the grid of what a step gives; what is fused with it needs no writing."""
        self.fused |= {step.output, step.rounded} if integers else {step.output}
        return (step.rounded, step.grid) if integers else (step.output, None)

    def _convolution(self, step: _Step) -> None:
        x, kernel = self.values[step.node.input[0]], self._kernel(step)
        integers = x.grid is not None and step.grid is not None and kernel.scales is not None
        if not integers:
            self.in_float.append(step.node.name)
            x, kernel = self._as_float(x), kernel.as_float()
        operands = self._operands(step.node.name, x, kernel)
        padded, padding, (height, width) = self._padded(step, x, kernel.weights.shape[2:], "PAD")
        name, grid = self._result(step, integers)
        down, right = step.of("strides", (1, 1))
        self._emit(
            "DEPTHWISE_CONV_2D" if kernel.depthwise else "CONV_2D",
            [padded, *operands],
            name,
            (1, height, width, len(kernel.weights)),
            grid,
            version=3 if integers else 1,
            options="DepthwiseConv2DOptions" if kernel.depthwise else "Conv2DOptions",
            padding=padding,
            strideH=down,
            strideW=right,
            fusedActivationFunction=self._rectifier(step),
            **({"depthMultiplier": 1} if kernel.depthwise else {}),
        )

    def _operands(self, name: str, x: _Value, kernel: _Kernel) -> list[int]:
        """Write the weights and the bias; of int8 ones the bias is rounded, as ONNX Runtime rounds it."""
        if x.grid is None or kernel.scales is None:
            weights = self.writer.constant(f"{name}.weight", kernel.laid_out)
            return [weights, self.writer.constant(f"{name}.bias", kernel.bias)]
        steps = x.grid.scales * kernel.scales
        bias = np.rint(kernel.bias / steps)
        if not (np.abs(bias) < _BIAS).all():
            raise GateError(f"a bias of {name} is too large for the 32 bits that LiteRT has for it")
        zeros = np.zeros(len(steps), np.int64)
        grid = Grid(kernel.scales, zeros, 3 if kernel.depthwise else 0)
        return [
            self.writer.constant(f"{name}.weight", kernel.laid_out, grid),
            self.writer.constant(f"{name}.bias", bias.astype(np.int32), Grid(steps, zeros)),
        ]

    def _padded(
        self, step: _Step, x: _Value, kernel: Sequence[int], kind: str
    ) -> tuple[int, int, tuple[int, int]]:
        """Return `x` padded as far as it is read, what is left to LiteRT to pad, and the height and width.

        LiteRT's own padding, SAME, has the odd row behind; torch has it in front, so that there it is VALID.
        """
        strides, pads = step.of("strides", (1, 1)), step.of("pads", (0, 0, 0, 0))
        sides, sizes = [], []
        for n, k, s, before, after in zip(x.shape[1:3], kernel, strides, pads[:2], pads[2:], strict=True):
            sizes.append((n + before + after - k) // s + 1)
            sides.append((before, max((sizes[-1] - 1) * s + k - n - before, 0)))
        height, width = sizes
        kinds = self.writer.schema.Padding
        if not np.any(sides):
            return x.tensor, kinds.VALID, (height, width)
        same = [(-(-n // s), sum(each) // 2) for n, s, each in zip(x.shape[1:3], strides, sides, strict=True)]
        if same == [(size, before) for size, (before, _) in zip(sizes, sides, strict=True)]:
            return x.tensor, kinds.SAME, (height, width)
        shape = (1, *(n + sum(side) for n, side in zip(x.shape[1:3], sides, strict=True)), x.shape[3])
        inputs = [x.tensor, self._numbers([(0, 0), *sides, (0, 0)])]
        if kind == "PADV2":  # of a maximum: by what is never the largest
            lowest = np.float32(np.finfo(np.float32).min) if x.grid is None else np.int8(-_CENTRE)
            inputs.append(self.writer.constant("", np.array([lowest]), x.grid))
        version = 1 if x.grid is None else 2
        padded = self._emit(kind, inputs, f"{step.output}.padded", shape, x.grid, version=version)
        return padded.tensor, kinds.VALID, (height, width)

    def _rectifier(self, step: _Step) -> int:
        kind: int = getattr(self.writer.schema.ActivationFunctionType, step.rectifier)
        return kind

    def _sum(self, step: _Step) -> None:
        terms = [self.values[name] for name in step.node.input]
        integers = step.grid is not None and all(each.grid is not None for each in terms)
        if not integers:
            self.in_float.append(step.node.name)
            terms = [self._as_float(each) for each in terms]
        name, grid = self._result(step, integers)
        self._emit(
            "ADD",
            [each.tensor for each in terms],
            name,
            terms[0].shape,
            grid,
            version=2 if integers else 1,
            options="AddOptions",
            fusedActivationFunction=self._rectifier(step),
        )

    def _pool(self, step: _Step) -> None:
        x, kernel = self.values[step.node.input[0]], step.of("kernel_shape", (1, 1))
        integers = x.grid is not None and step.grid is not None and x.grid.equals(step.grid)
        x = x if integers else self._as_float(x)
        padded, padding, (height, width) = self._padded(step, x, kernel, "PADV2")
        name, grid = self._result(step, integers)
        down, right = step.of("strides", (1, 1))
        self._emit(
            "MAX_POOL_2D",
            [padded],
            name,
            (1, height, width, x.shape[3]),
            grid,
            version=2 if integers else 1,
            options="Pool2DOptions",
            padding=padding,
            strideH=down,
            strideW=right,
            filterHeight=kernel[0],
            filterWidth=kernel[1],
        )

    def _mean(self, step: _Step) -> None:
        x = self._as_float(self.values[step.node.input[0]])
        if tuple(self.constants[step.node.input[1]]) != (2, 3) or step.of("keepdims", 1):
            raise GateError(f"{step.node.name} is a mean of something else than images")
        inputs = [x.tensor, self._numbers((1, 2))]
        self._emit("MEAN", inputs, step.output, (1, x.shape[3]), options="ReducerOptions", keepDims=False)

    def _space_to_depth(self, step: _Step) -> None:
        x, block = self.values[step.node.input[0]], step.of("blocksize", 0)
        _, height, width, channels = x.shape
        shape = (1, height // block, width // block, channels * block**2)
        self._emit(
            "SPACE_TO_DEPTH", [x.tensor], step.output, shape, options="SpaceToDepthOptions", blockSize=block
        )

    def _quantize(self, step: _Step) -> None:
        x = self._as_float(self.values[step.node.input[0]])
        self._emit("QUANTIZE", [x.tensor], step.node.output[0], x.shape, self._grid(step.node))

    def _dequantize(self, step: _Step) -> None:
        """Let the floats be called by their integers: who needs floats asks for them."""
        if step.node.input[0] not in self.constants:
            self.values[step.node.output[0]] = self.values[step.node.input[0]]

    def _output(self, name: str) -> int:
        x = self._as_float(self.values[name])
        if len(x.shape) == 2:
            return x.tensor
        _, height, width, channels = x.shape
        inputs = [x.tensor, self._numbers((0, 3, 1, 2))]
        shape = (1, channels, height, width)
        return self._emit("TRANSPOSE", inputs, f"{name}.nchw", shape, options="TransposeOptions").tensor
