"""From simulated rounding to ONNX: equal integers, every layer computed in them, and the gates between."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from octlet.compress.config import QuantConfig
from octlet.compress.quant.calibrate import calibrate
from octlet.compress.quant.graph import FakeQuantised
from octlet.core.errors import GateError
from octlet.export import qdq
from octlet.export.package import simulated_scans
from octlet.export.qdq import IntegerModel, Parity, check_integers, check_placement, parity_of, to_qdq
from octlet.models.resnet import ResNet, build
from octlet.models.spec import NetSpec, UnitSpec, named_spec
from octlet.runtime.engines import onnxruntime
from octlet.runtime.machine import read_machine
from octlet.train.showing import Fold

SPECS = {
    "basic": NetSpec("v1.5", 8, ((UnitSpec((8, 8), 1, False),), (UnitSpec((16, 16), 2, True),))),
    "bottleneck": NetSpec("v1.5", 8, ((UnitSpec((8, 8, 16), 2, True), UnitSpec((8, 8, 16), 1, False)),)),
    "v2": NetSpec("v2", 8, ((UnitSpec((8, 8, 16), 1, True), UnitSpec((8, 8, 16), 2, False)),)),
}
FAMILIES = list(SPECS)


@pytest.fixture(autouse=True)
def _quickly(request: pytest.FixtureRequest, quick_folding) -> Iterator[None]:
    whole = request.node.get_closest_marker("slow") is not None  # the deep networks take the whole way
    with contextlib.nullcontext() if whole else quick_folding():
        yield


@dataclass(frozen=True)
class Case:
    net: ResNet
    twin: FakeQuantised
    model: IntegerModel
    size: int

    @property
    def graph(self) -> onnx.GraphProto:
        return onnx.load_from_string(self.model.onnx).graph


def random_net(spec: NetSpec) -> ResNet:
    """Random weights, batch norms that do something, and no unit that starts as its identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = build(spec)
        for name, module in net.named_modules():
            if name.endswith("conv3") and spec.family == "v2":
                nn.init.kaiming_normal_(module.weight)
                module.weight.data.mul_(0.3)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.2, 1.2)
                module.weight.data[::3].neg_()
                nn.init.normal_(module.bias, std=0.1)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


def made(spec: NetSpec, size: int, **settings) -> Case:
    net, config = random_net(spec), QuantConfig(calibration=16, **settings)
    twin = FakeQuantised(net, config, size)
    scans = phantoms(size)
    calibrate(twin, Fold(scans, np.arange(16), np.arange(16) % 4), config, 0, iter)
    return Case(net, twin, to_qdq(twin, size), size)


@cache
def phantoms(size: int) -> np.ndarray:
    return simulated_scans(16, size)


def case(family: str, bits: int = 8, *exclude: str) -> Case:
    return _case(family, bits, exclude)  # one cache entry however it is called


@cache
def _case(family: str, bits: int, exclude: tuple[str, ...]) -> Case:
    return made(SPECS[family], 32, weights_bits=bits, exclude=exclude)


def units(spec: NetSpec) -> int:
    return sum(len(stage) for stage in spec.stages)


def written_weights(graph: onnx.GraphProto) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The integers and scales that every named convolution of an ONNX file reads."""
    tensors = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    found = {}
    for node in graph.node:
        if node.op_type == "Conv" and (maker := makers.get(node.input[1])) is not None:
            assert maker.op_type == "DequantizeLinear"
            integers, scales, zeros = (tensors[name] for name in maker.input)
            assert integers.dtype == np.int8
            assert not zeros.any()
            found[node.name] = unfolded(integers) if node.name == "conv1" else integers, scales
    return found


def unfolded(stem: np.ndarray) -> np.ndarray:
    """The 7x7 kernel (C, 1, 7, 7) of a stem (C, 4, 4, 4) over 2x2 pixels."""
    kernel = torch.pixel_shuffle(torch.from_numpy(stem), 2).numpy()
    assert not kernel[:, :, 0].any()
    assert not kernel[:, :, :, 0].any()
    return kernel[:, :, 1:, 1:]


def folded(net: ResNet, layer: str) -> np.ndarray:
    """A layer's weights times the factor of the batch norm behind it, (C, ...) in double precision."""
    modules = dict(net.named_modules())
    weight = modules[layer].weight.detach().double()
    norm = modules.get(layer.replace("conv", "bn").replace("downsample.0", "downsample.1"))
    if isinstance(norm, nn.BatchNorm2d):
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = weight * factor.detach().reshape(-1, *[1] * (weight.ndim - 1))
    found: np.ndarray = weight.numpy()
    return found


@pytest.mark.parametrize(("family", "bits"), [*((family, 8) for family in FAMILIES), ("v2", 7), ("v2", 4)])
def test_no_weight_is_off_by_one(family, bits):
    found, net = written_weights(case(family, bits).graph), case(family, bits).net
    assert list(found) == list(case(family, bits).twin.layers)
    limit = 2 ** (bits - 1) - 1
    for layer, (integers, scales) in found.items():
        weights = folded(net, layer)
        wanted = np.abs(weights.reshape(len(weights), -1)).max(1) / limit
        np.testing.assert_allclose(scales, wanted, rtol=1e-5)
        steps = weights / wanted.reshape(-1, *[1] * (weights.ndim - 1))
        tie = np.abs(steps - np.floor(steps) - 0.5) < 1e-3
        assert tie.mean() < 0.02
        assert np.array_equal(integers.reshape(steps.shape)[~tie], np.round(steps)[~tie])
        assert np.abs(integers.astype(int)).max() == limit


def test_a_folded_stem_computes_the_same_to_the_bit(monkeypatch):
    chosen = case("v2")
    assert [node.op_type for node in chosen.graph.node].count("SpaceToDepth") == 1
    monkeypatch.setattr(qdq, "_fold_stem", lambda _: None)
    plain = to_qdq(chosen.twin, chosen.size).onnx
    assert "SpaceToDepth" not in [node.op_type for node in onnx.load_from_string(plain).graph.node]
    scans = np.random.default_rng(0).uniform(-1, 1, (3, 1, chosen.size, chosen.size)).astype(np.float32)
    found = [onnxruntime.load(model, chosen.size, 1).run(scans) for model in (chosen.model.onnx, plain)]
    for name in ("logits", "cam", "embedding"):
        assert np.array_equal(*(getattr(each, name) for each in found))


def test_a_stem_in_float_is_not_folded():
    kinds = [node.op_type for node in case("v2", 8, "conv1").graph.node]
    assert "SpaceToDepth" not in kinds


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_layers_read_one_constant(family):
    graph = case(family).graph
    makers = {node.output[0]: node for node in graph.node}
    rounding = [makers[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    read = [name for node in rounding for name in (*node.input, *node.output)]
    assert len(rounding) == len(case(family).twin.layers)
    assert len(read) == len(set(read)) == 4 * len(rounding)


@pytest.mark.skipif(read_machine().clips_sums, reason="this CPU computes one of the two only")
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_done_for_a_cpu_that_clips_sums_computes_the_same_to_the_bit(family, monkeypatch):
    chosen = case(family)
    scans = np.random.default_rng(0).uniform(-1, 1, (3, 1, chosen.size, chosen.size)).astype(np.float32)
    old = replace(read_machine(), architecture="x86_64", features=("avx2",))
    found = [onnxruntime.load(chosen.model.onnx, chosen.size, 1).run(scans)]
    monkeypatch.setattr(onnxruntime, "read_machine", lambda: old)
    found.append(onnxruntime.load(chosen.model.onnx, chosen.size, 1).run(scans))
    for name in ("logits", "cam", "embedding"):
        assert np.array_equal(*(getattr(each, name) for each in found))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_in_the_file_are_those_that_were_simulated_bit_by_bit(family):
    chosen, simulated = case(family), {}
    hooks = [
        layer.weights.register_forward_hook(
            lambda _m, _i, out, name=layer.name: simulated.update({name: out})
        )
        for layer in chosen.twin.quantised
    ]
    chosen.twin.eval()(torch.zeros(1, 1, chosen.size, chosen.size))
    for hook in hooks:
        hook.remove()
    for layer, (integers, scales) in written_weights(chosen.graph).items():
        read = integers.astype(np.float32) * scales.reshape(-1, *[1] * (integers.ndim - 1))
        assert np.array_equal(read, simulated[layer].detach().numpy()), layer


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_runtime_computes_every_convolution_and_every_sum_in_integers(family):
    operators = check_placement(case(family).model.onnx)
    assert operators["QLinearConv"] == len(case(family).twin.layers)
    assert operators["QLinearAdd"] == units(SPECS[family])
    assert not {"Conv", "FusedConv", "Add", "MaxPool", "Relu", "BatchNormalization"} & set(operators)


def test_a_whole_resnet18_runs_in_integers():
    spec = named_spec("resnet18")
    whole = made(spec, 64)
    operators = check_placement(whole.model.onnx)
    assert (operators["QLinearConv"], operators["QLinearAdd"]) == (21, 8)
    assert len(whole.model.onnx) < 4.2 * sum(p.numel() for p in whole.net.parameters()) / 4


def test_a_deep_network_runs_in_integers():
    spec = named_spec("resnet101v2")
    operators = check_placement(made(spec, 64).model.onnx)
    assert (operators["QLinearConv"], operators["QLinearAdd"]) == (126, units(spec))


@pytest.mark.parametrize(
    ("family", "layer"),
    [
        ("v2", "layer1.0.conv2"),
        ("v2", "layer1.1.preact"),
        ("v2", "conv1"),
        ("basic", "layer2.0.downsample.0"),
    ],
)
def test_a_layer_in_float_is_named_and_allowed_only_when_it_was_asked_for(family, layer):
    # between two rounded layers ONNX Runtime would round its weights, by one scale for all channels
    chosen = case(family, 8, layer)
    with pytest.raises(GateError, match=rf"computes {layer}[\w.]* in float, 1 nodes"):
        check_placement(chosen.model.onnx)
    with pytest.raises(GateError, match=layer):
        check_placement(chosen.model.onnx, ["layer1.0.conv1", "layer1"])
    operators = check_placement(chosen.model.onnx, [layer])
    assert operators["QLinearConv"] == len(chosen.twin.layers) - 1
    assert operators["QLinearAdd"] == units(SPECS[family])
    assert layer not in written_weights(chosen.graph)


@pytest.mark.parametrize(("family", "layer"), [("v2", "layer1.0.conv2"), ("basic", "layer2.0.downsample.0")])
def test_a_network_with_a_layer_in_float_computes_what_was_simulated(family, layer):
    chosen = case(family, 8, layer)
    scans = phantoms(32)[:, None].astype(np.float32) / 127.5 - 1
    with torch.inference_mode():
        wanted = chosen.twin.eval()(torch.from_numpy(scans)).cam.numpy()
    found = onnxruntime.load(chosen.model.onnx, 32, 1).run(scans).cam
    assert np.abs(found - wanted).mean() < 0.01 * wanted.std()


def test_a_head_in_float_is_allowed_by_its_name():
    operators = check_placement(case("v2", 8, "fc", "norm").model.onnx, ["fc", "norm"])
    assert operators["QLinearConv"] == len(case("v2").twin.layers) - 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_converted_network_and_the_file_compute_what_was_simulated(family):
    chosen = case(family)
    scans = torch.from_numpy(phantoms(32)[:, None].astype(np.float32) / 127.5 - 1)
    with torch.inference_mode():
        wanted, found = chosen.twin.eval()(scans), chosen.model.converted(scans)
    step = float(chosen.twin.quantised[-1].output.calculate_qparams()[0])
    off = (wanted.cam - found[1]).abs() / step
    assert off.max() <= 3.01  # steps of the last grid: a sum at the edge between two may fall either way
    assert (off < 0.01).float().mean() > 0.9
    float_cam = chosen.net(scans).cam.detach()
    assert float((found[1] - float_cam).abs().mean()) < 0.1 * float(float_cam.std())


def test_three_ways_of_computing_are_compared_and_a_gate_falls_where_they_part():
    chosen = case("v2")
    many = np.concatenate([phantoms(32)] * 2)
    told = check_integers(chosen.model, chosen.twin, many)
    assert set(told) == {"converted", "onnxruntime"}
    assert all(each["images"] == 32 for each in told.values())
    assert all(each["agreement"] >= 0.995 and each["logits"] <= 0.05 for each in told.values())
    other = made(SPECS["v2"], 32)
    with torch.no_grad():
        dict(other.twin.named_parameters())["graph.fc.bias"].add_(torch.tensor([5.0, -5.0, 0.0, 0.0]))
    with pytest.raises(GateError, match="simulated and the converted"):
        check_integers(chosen.model, other.twin, many)


def logits(n: int = 1000) -> np.ndarray:
    """Range 0 to 1, each row's largest ahead by 0.5."""
    made_up = np.zeros((n, 4), np.float32)
    made_up[np.arange(n), np.arange(n) % 4] = 1
    made_up[:, 3] *= 0.5
    return made_up


def test_agreement_and_the_bound_on_logits_are_shares():
    one, other = logits(), logits()
    other[:3] = np.roll(other[:3], 1, axis=1)
    found = parity_of(one, other)
    assert (found.images, found.agreement, found.same, found.logits) == (1000, 0.997, 0.997, 1.0)
    assert parity_of(one, one) == Parity(1000, 1.0, 1.0, 0.0)
    assert parity_of(10 * one, 10 * one + 0.2).logits == pytest.approx(0.02)
    near = np.array([[0.0, 1.0], [0.5, 0.52], [0.5, 0.53]])  # logits in a range of 1: the second is a tie
    found = parity_of(near, near[:, ::-1])
    assert (found.agreement, found.same) == (pytest.approx(1 / 3), 0)
    assert parity_of(one[:, :1] * 0, one[:, :1] * 0).logits == 0


@pytest.mark.parametrize(
    ("agreement", "off", "passes"),
    [
        (1.0, 0.0, True),
        (0.995, 0.05, True),
        (0.994, 0.0, False),
        (1.0, 0.051, False),
        (1.0, float("nan"), False),
    ],
)
def test_parity_is_a_gate(agreement, off, passes):
    parity = Parity(1000, agreement, agreement, off)
    if passes:
        parity.check("this and that")
        return
    with pytest.raises(GateError, match=r"this and that agree on .* of 1000 images"):
        parity.check("this and that")


def test_a_network_that_computes_no_numbers_does_not_pass():
    broken = logits()
    broken[0] = np.nan
    with pytest.raises(GateError):
        parity_of(broken, broken).check("both")
