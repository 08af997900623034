"""EfficientNet-Lite0 in integers, and through the commands, like the ResNets."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from easy import STILL, command, result_of
from lite import NAME, NARROW, random_net, rounded, scans, seen
from onnx import numpy_helper
from torch import nn

from octlet.compress.config import QuantConfig
from octlet.compress.cost import cost_of
from octlet.compress.quant.graph import FakeQuantised
from octlet.core.bundle import Tolerances, open_bundle
from octlet.core.errors import GateError
from octlet.export.litert import to_litert
from octlet.export.onnx import check_parity, to_onnx
from octlet.export.qdq import check_integers, check_placement
from octlet.models.resnet import build
from octlet.models.spec import NetSpec, named_spec
from octlet.runtime.engine import ENGINES
from octlet.runtime.engines import onnxruntime
from octlet.train.checkpoint import load_run, save_run

litert_here = pytest.mark.skipif(not ENGINES["litert"].installed, reason="ai-edge-litert is not installed")


@pytest.fixture(scope="module", autouse=True)
def _quickly(quick_folding) -> Iterator[None]:
    with quick_folding():
        yield


@cache
# Rounding ---------------------------------------------------------------------------------------------


def test_without_rounding_the_twin_computes_the_network_whatever_its_epsilon():
    net = build(NARROW)
    net.load_state_dict(random_net().state_dict())
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.mul_(0.02)  # so small that it shows
    twin = FakeQuantised(net, QuantConfig(), 32)
    twin.round(False)
    x = torch.from_numpy(seen(32))
    for training in (True, False):
        net.train(training)
        twin.train(training)
        with torch.no_grad():
            for found, wanted in zip(twin(x), net(x), strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_every_layer_runs_in_integers_that_agree_with_the_simulation():
    size = 46
    twin, model = rounded(size)
    operators = check_placement(model.onnx)
    assert operators["QLinearConv"] == len(twin.layers) == 14
    assert operators["QLinearAdd"] == 1
    assert not {"Conv", "Clip", "Pad", "Add"} & set(operators)
    graph = onnx.load_from_string(model.onnx).graph
    names = [node.name for node in graph.node if node.op_type in ("Conv", "Add")]
    assert names == [layer.name for layer in cost_of(NARROW, size).layers if layer.kind != "mean"]
    told = check_integers(model, twin, scans(size))
    assert all(each["agreement"] == 1 for each in told.values())
    x = torch.from_numpy(seen(size))
    cam = onnxruntime.load(model.onnx, size, 1).run(seen(size)).cam
    with torch.inference_mode():
        simulated, converted, exact = twin(x).cam, model.converted(x)[1], random_net()(x).cam
    step, spread = float(twin.quantised[-1].output.calculate_qparams()[0]), float(exact.std())
    assert ((converted - simulated).abs() < 0.01 * step).float().mean() > 0.9
    # a sum at the edge between two steps may fall either way, and each layer hands that on
    assert np.abs(cam - simulated.numpy()).mean() < 0.02 * spread
    assert float((simulated - exact).abs().mean()) < 0.1 * spread


def test_the_weights_in_the_file_are_those_that_were_simulated_bit_by_bit():
    twin, model = rounded(46)
    simulated = {}
    hooks = [
        layer.weights.register_forward_hook(
            lambda _m, _i, out, name=layer.name: simulated.update({name: out.detach().numpy()})
        )
        for layer in twin.quantised
    ]
    twin.eval()(torch.zeros(1, 1, 46, 46))
    for hook in hooks:
        hook.remove()
    graph = onnx.load_from_string(model.onnx).graph
    tensors = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for node in (node for node in graph.node if node.op_type == "Conv"):
        integers, scales, _ = (tensors[name] for name in makers[node.input[1]].input)
        if node.name == "conv1":  # folded over 2x2 pixels: (C, 4, 2, 2), of which 3x3 pixels are not 0
            integers = torch.pixel_shuffle(torch.from_numpy(integers.copy()), 2).numpy()
            assert not integers[:, :, 3].any()
            assert not integers[:, :, :, 3].any()
            integers = integers[:, :, :3, :3]
        read = integers.astype(np.float32) * scales.reshape(-1, 1, 1, 1)
        assert np.array_equal(read, simulated[node.name]), node.name


def test_a_strided_depthwise_layer_in_float_is_named_and_allowed_when_it_was_asked_for():
    twin, model = rounded(46, "layer2.0.depthwise")
    with pytest.raises(GateError, match=r"layer2.0.depthwise"):
        check_placement(model.onnx)
    assert check_placement(model.onnx, ["layer2.0.depthwise"])["QLinearConv"] == 13
    check_integers(model, twin, scans(46))


# LiteRT, and the commands -----------------------------------------------------------------------------


def rectifiers_of(model: bytes) -> list[int]:
    """What is fused into the operations that can take a rectifier, by the schema's numbers."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model)).subgraphs[0]
    ways = (each.builtinOptions for each in graph.operators)
    return [way.fusedActivationFunction for way in ways if hasattr(way, "fusedActivationFunction")]


@litert_here
def test_litert_computes_the_same_with_rectifiers_and_paddings_in_its_convolutions():
    size = 46
    twin, model = rounded(size)
    integers = to_litert(model.onnx, size)
    integers.check_placement()
    floats = to_litert(to_onnx(random_net(), size), size)
    for other in (integers, floats):
        layers = {kind: other.operators.get(kind) for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD")}
        assert layers == {"CONV_2D": 10, "DEPTHWISE_CONV_2D": 4, "ADD": 1}
        assert not {"PAD", "RELU6", "MINIMUM"} & set(other.operators)
        assert sorted(rectifiers_of(other.data)) == [0] * 6 + [3] * 9  # NONE, RELU6
    check_parity(floats.data, random_net(), seen(size)[:2], Tolerances(), engine="litert")
    check_integers(model, twin, scans(size), others={"litert": integers.data})


def test_the_commands_take_it_from_training_to_a_model_file(easy_scans, tmp_path):
    run, small, rounded_run, file = (tmp_path / name for name in ("run", "small", "int8", "model.octlet"))
    words = ["--data", easy_scans, "--size", 32, "--batch", 8, "--epochs", 1, *STILL]
    trained = result_of("train", "--model", NAME, "--out", run, *words)
    assert trained["parameters"] == cost_of(named_spec(NAME), 32).parameters
    meta = load_run(run).meta | {"spec": NARROW.as_dict()}
    save_run(small, random_net(), meta)
    (small / "split.csv").write_bytes((run / "split.csv").read_bytes())
    taught = tmp_path / "taught"
    result_of("distill", small, "--data", easy_scans, "--student", small, "--out", taught, "--epochs", 1)
    words = ["--method", "qat", "--epochs", 1, "--set", "calibration=16", "--out", rounded_run]
    result = result_of("quantize", taught, "--data", easy_scans, *words)
    assert result["layers"] == [14, 14]
    extra = ["--litert"] if ENGINES["litert"].installed else []
    made = result_of("export", rounded_run, "--out", file, *extra)
    assert made["integers"]["onnxruntime"]["agreement"] >= 0.995
    assert NetSpec.from_dict(open_bundle(file).manifest.network) == NARROW
    assert command("verify", file)[0] == 0
    assert result_of("cost", file)["macs"] == cost_of(NARROW, 32).macs
