"""What a network costs, counted from its specification: against torch, torch-pruning, ONNX, known figures."""

import re
from functools import cache

import onnx
import pytest
import torch
import torch_pruning
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lite import watched_places
from onnx import TensorProto
from torch import nn

from octlet.compress.config import QuantConfig
from octlet.compress.cost import NetCost, cost_of
from octlet.compress.quant.fakequant import Watch
from octlet.compress.quant.graph import FakeQuantised
from octlet.core.errors import UsageError
from octlet.export.onnx import to_onnx
from octlet.export.qdq import to_qdq
from octlet.models.resnet import ResNet, build
from octlet.models.spec import NetSpec, UnitSpec, named_spec

# every convolution of another width, as pruning leaves them
SPECS = {
    "basic": NetSpec("v1.5", 7, ((UnitSpec((5, 7), 1, False),), (UnitSpec((9, 11), 2, True),))),
    "bottleneck": NetSpec("v1.5", 6, ((UnitSpec((5, 8, 13), 2, True), UnitSpec((9, 3, 13), 1, False)),)),
    "v2": NetSpec("v2", 6, ((UnitSpec((5, 8, 13), 1, True), UnitSpec((9, 3, 13), 2, False)),)),
}
SIZE = 45
IN_FLOAT = ("layer1.0.preact", "layer1.0.shortcut", "layer1.*.conv3", "layer1.1.conv1", "fc")


def random_net(spec: NetSpec) -> ResNet:
    """A network no two of whose tensors are equal: the exporter would keep one of them, and drop zeros."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = build(spec)
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                nn.init.uniform_(tensor, 0.1 if name.endswith("var") else -0.5, 0.5)
    return net.eval()


# Against torch and torch-pruning ----------------------------------------------------------------------


@st.composite
def specs(draw: st.DrawFn) -> NetSpec:
    width = st.integers(1, 12)
    family = draw(st.sampled_from(["v1.5", "v2"]))
    length = 3 if family == "v2" else draw(st.sampled_from([2, 3]))
    before = stem = draw(width)
    stages = []
    for _ in range(draw(st.integers(1, 3))):
        units = []
        for _ in range(draw(st.integers(1, 3))):
            widths, stride = [draw(width) for _ in range(length)], draw(st.integers(1, 2))
            # an identity keeps its width, and in V1.5 its size
            projection = draw(st.booleans()) or (family == "v1.5" and stride > 1)
            if not projection:
                widths[-1] = before
            units.append(UnitSpec(tuple(widths), stride, projection))
            before = widths[-1]
        stages.append(tuple(units))
    return NetSpec(family, stem, tuple(stages), draw(st.integers(1, 5)), draw(st.integers(1, 3)))


@hypothesis_settings(max_examples=40)
@given(specs(), st.integers(32, 75))
@example(SPECS["bottleneck"], 33)
def test_macs_and_parameters_are_those_of_torch_and_torch_pruning(spec, size):
    net, cost = build(spec).eval(), cost_of(spec, size)
    places = watched_places(net)
    scan = torch.zeros(1, spec.channels, size, size)
    with torch.inference_mode():
        cam = net(scan).cam
    modules = dict(net.named_modules())
    weights = {layer.name: layer for layer in cost.layers if layer.macs}
    convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
    assert set(weights) == {*convolutions, "fc"}
    places["fc"] = cam[0, 0].numel()
    for name, layer in weights.items():
        assert layer.macs == modules[name].weight.numel() * places[name]
        parts = {modules[name], modules.get(norm_behind(name), modules[name])}
        assert layer.parameters == sum(p.numel() for part in parts for p in part.parameters())
    operations, parameters = torch_pruning.utils.count_ops_and_params(net, scan)
    assert cost.parameters == parameters == sum(p.numel() for p in net.parameters())
    # torch-pruning counts a batch norm as two operations and a bias as one a number, and misses the final
    # layer, which is not called as a module here
    norms = sum(2 * m.num_features * places[n] for n, m in modules.items() if isinstance(m, nn.BatchNorm2d))
    biases = sum(modules[n].out_channels * places[n] for n in convolutions if modules[n].bias is not None)
    assert operations == cost.macs - weights["fc"].macs + norms + biases


def norm_behind(convolution: str) -> str:
    return re.sub(r"conv(\d)$", r"bn\1", convolution).replace("downsample.0", "downsample.1")


@pytest.mark.parametrize(
    ("name", "gigamacs", "parameters"),
    [
        ("resnet18", 1.81, 11_689_512),
        ("resnet34", 3.66, 21_797_672),
        ("resnet50", 4.09, 25_557_032),
        ("resnet101", 7.80, 44_549_160),
    ],
)
def test_the_known_networks_have_torchvisions_figures(name, gigamacs, parameters):
    """As its documentation states them: three channels, 1000 classes, the final layer once."""
    cost = cost_of(named_spec(name, classes=1000, channels=3), 224)
    head = next(layer for layer in cost.layers if layer.name == "fc")
    assert cost.parameters == parameters
    assert round((cost.macs - head.macs + head.macs // 49) / 1e9, 2) == gigamacs


# Against ONNX -----------------------------------------------------------------------------------------


@cache
def float_graph(family: str) -> onnx.GraphProto:
    return inferred(to_onnx(random_net(SPECS[family]), SIZE))


@cache
def integer_graph(family: str, exclude: tuple[str, ...]) -> onnx.GraphProto:
    twin = FakeQuantised(random_net(SPECS[family]), QuantConfig(exclude=exclude), SIZE).eval()
    twin.round(False)
    twin.watch(Watch.WIDEN)
    generator = torch.Generator().manual_seed(5)
    twin(torch.rand(2, 1, SIZE, SIZE, generator=generator) * 2 - 1)
    return inferred(to_qdq(twin, SIZE).onnx)


def inferred(model: bytes) -> onnx.GraphProto:
    return onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True).graph


class Graph:
    """A model's graph as an engine runs it: what stands between Q and DQ as one operation in integers."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.makers = {node.output[0]: node for node in self.nodes}
        self.initialisers = {each.name: each for each in graph.initializer}
        self.outputs = [each.name for each in graph.output]
        self.image = graph.input[0].name
        self.infos = {each.name: each.type.tensor_type for each in graph.value_info}
        self.infos |= {each.name: each.type.tensor_type for each in [*graph.input, *graph.output]}

    def shape(self, tensor: str) -> list[int]:
        return [dim.dim_value or 1 for dim in self.infos[tensor].shape.dim]  # the batch is free: one scan

    def bytes(self, tensor: str) -> int:
        width = {TensorProto.FLOAT: 4, TensorProto.UINT8: 1}[self.infos[tensor].elem_type]
        return width * torch.Size(self.shape(tensor)).numel()

    def users(self, tensor: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if tensor in node.input]

    def source(self, tensor: str, kind: str) -> str | None:
        """What the node of a kind that writes `tensor` reads."""
        maker = self.makers.get(tensor)
        return maker.input[0] if maker is not None and maker.op_type == kind else None

    def main(self) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type in ("Conv", "MaxPool", "Add", "ReduceMean")]

    def in_integers(self, node: onnx.NodeProto) -> bool:
        read = node.input if node.op_type == "Add" else node.input[: 2 if node.op_type == "Conv" else 1]
        return node.op_type != "ReduceMean" and all(self.source(x, "DequantizeLinear") for x in read)

    def macs(self) -> list[int]:
        def of(node: onnx.NodeProto) -> int:
            weight = self.source(node.input[1], "DequantizeLinear") or node.input[1]
            positions = torch.Size(self.shape(node.output[0])[2:]).numel()
            taps = torch.Size(self.initialisers[weight].dims).numel()
            if node.name == "conv1" and self.initialisers[weight].dims[1] == 4:
                taps = taps * 49 // 64  # the others are zero, whatever was trained
            return taps * positions

        return [of(node) if node.op_type == "Conv" else 0 for node in self.main()]

    def weight_bytes(self) -> int:
        """Bytes of weights, biases and their scales: not of zero points, activations' scales or axes."""
        kept = [
            each
            for each in self.initialisers.values()
            if (each.data_type == TensorProto.FLOAT and each.dims and not each.name.endswith("input_scale"))
            or (each.data_type == TensorProto.INT8 and len(each.dims) == 4)
        ]
        return sum(len(onnx.numpy_helper.to_array(each).tobytes()) for each in kept)

    def alive(self) -> list[int]:
        """The most bytes alive at each of `main`: every step from the first use of its memory to the last."""
        steps: list[tuple[int, list[str], str]] = []
        image = self.image
        if folded := [node.output[0] for node in self.users(image) if node.op_type == "SpaceToDepth"]:
            steps.append((0, [image], folded[0]))
            image = folded[0]
        if any(node.op_type == "QuantizeLinear" for node in self.users(image)):
            steps.append((0, [image], self.users(image)[0].output[0]))
        for k, node in enumerate(self.main()):
            whole = self.in_integers(node)
            read = [x for x in node.input if x in self.infos and x not in self.initialisers]
            read = [x for x in read if self.source(x, "DequantizeLinear") not in self.initialisers]
            for x in [] if whole else read:
                integers = self.source(x, "DequantizeLinear")
                if integers and x not in self.outputs:  # an engine turns to float what float reads, then
                    steps.append((k, [integers], x))
            inputs = [(self.source(x, "DequantizeLinear") if whole else x) or x for x in read]
            out = self.rectified(node.output[0])
            stored = [user.output[0] for user in self.users(out) if user.op_type == "QuantizeLinear"]
            steps.append((k, [self.unrectified(x) for x in inputs], stored[0] if whole else node.output[0]))
            if not whole:
                steps.extend((k, [node.output[0]], x) for x in stored)
            read_back = [user.output[0] for x in stored for user in self.users(x)]
            steps.extend((k, stored, final) for final in read_back if final in self.outputs)
        return self.peaks(steps)

    def rectified(self, tensor: str) -> str:
        users = self.users(tensor)
        return users[0].output[0] if users and users[0].op_type == "Relu" else tensor

    def unrectified(self, tensor: str) -> str:
        return self.source(tensor, "Relu") or tensor

    def peaks(self, steps: list[tuple[int, list[str], str]]) -> list[int]:
        found = [0] * len(self.main())
        for at, (k, _, _) in enumerate(steps):
            written = {self.image} | {out for _, _, out in steps[: at + 1]}
            needed = {x for _, read, _ in steps[at:] for x in read} | {steps[at][2], *self.outputs}
            found[k] = max(found[k], sum(self.bytes(tensor) for tensor in written & needed))
        return found


def check_against(graph: Graph, cost: NetCost) -> None:
    kinds = {"conv": "Conv", "depthwise": "Conv", "linear": "Conv", "pool": "MaxPool", "sum": "Add"}
    assert [kinds.get(layer.kind, "ReduceMean") for layer in cost.layers] == [
        node.op_type for node in graph.main()
    ]
    assert [layer.macs for layer in cost.layers] == graph.macs()
    assert [layer.activation_bytes for layer in cost.layers] == graph.alive()
    assert cost.peak_activation_bytes == max(graph.alive())
    assert cost.weight_bytes == graph.weight_bytes()


@pytest.mark.parametrize("family", list(SPECS))
def test_a_float_file_has_what_was_counted(family):
    graph = Graph(float_graph(family))
    cost = cost_of(SPECS[family], SIZE)
    check_against(graph, cost)
    dims = [tuple(each.dims) for each in graph.initialisers.values() if each.data_type == TensorProto.FLOAT]
    assert len(dims) == 2 * len([layer for layer in cost.layers if layer.macs])  # weights and bias, no norm


@pytest.mark.parametrize(("family", "exclude"), [("basic", ()), ("v2", ()), ("v2", IN_FLOAT)])
def test_an_integer_file_has_what_was_counted(family, exclude, quick_folding):
    with quick_folding():
        graph = Graph(integer_graph(family, exclude))
    cost = cost_of(SPECS[family], SIZE, quantised=True, exclude=exclude)
    check_against(graph, cost)
    names = [node.name for node in graph.main() if node.op_type in ("Conv", "Add")]
    assert names == [layer.name for layer in cost.layers if layer.kind not in ("pool", "mean")]


# What follows from the definitions --------------------------------------------------------------------


@given(specs(), st.integers(32, 200), st.booleans())
def test_what_is_alive_holds_at_least_input_and_output(spec, size, quantised):
    """And integers never take more than floats, but for the copies at the two ends."""
    cost, plain = cost_of(spec, size, quantised=quantised), cost_of(spec, size)
    for layer, other in zip(cost.layers, plain.layers, strict=True):
        assert (layer.name, layer.macs, layer.parameters) == (other.name, other.macs, other.parameters)
        if quantised and layer.kind in ("conv", "depthwise", "sum", "pool") and layer.name != "conv1":
            assert 4 * layer.activation_bytes == other.activation_bytes


def test_by_hand():
    """Sizes of a unit with a shortcut, 64 pixels: 32 after the stem, 16 after the pool, 8 after the unit."""
    spec = NetSpec("v1.5", 4, ((UnitSpec((6, 10), 2, True),),))
    rows = {layer.name: layer for layer in cost_of(spec, 64).layers}
    alive = {name: row.activation_bytes // 4 for name, row in rows.items()}
    assert alive["conv1"] == 64 * 64 + 4 * 32 * 32
    assert alive["pool"] == 4 * 32 * 32 + 4 * 16 * 16
    assert alive["layer1.0.conv1"] == 4 * 16 * 16 + 6 * 8 * 8
    assert alive["layer1.0.conv2"] == 4 * 16 * 16 + 6 * 8 * 8 + 10 * 8 * 8  # the shortcut's input is kept
    assert alive["layer1.0.downsample.0"] == 4 * 16 * 16 + 2 * 10 * 8 * 8
    assert alive["layer1.0.sum"] == 3 * 10 * 8 * 8
    assert rows["layer1.0.conv1"].macs == 4 * 6 * 9 * 64
    assert rows["layer1.0.conv1"].parameters == 4 * 6 * 9 + 2 * 6
    assert rows["layer1.0.conv1"].weight_bytes == 4 * (4 * 6 * 9 + 6)
    rows = {layer.name: layer for layer in cost_of(spec, 64, quantised=True, exclude=("fc",)).layers}
    assert rows["layer1.0.conv1"].weight_bytes == 4 * 6 * 9 + 8 * 6
    assert rows["fc"].weight_bytes == 4 * (10 * 4 + 4)
    assert rows["conv1"].activation_bytes == max(8 * 64 * 64, 64 * 64 + 4 * 32 * 32)  # folded in float
    assert rows["conv1"].weight_bytes == 4 * 64 + 8 * 4


def test_no_input_is_refused():
    with pytest.raises(UsageError, match="0 pixels"):
        cost_of(SPECS["v2"], 0)
