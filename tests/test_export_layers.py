"""Each layer's integers in ONNX Runtime against the file's own arithmetic, and biases in whole steps."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from test_export_integers import FAMILIES, SPECS, Case, phantoms, random_net

from octlet.compress.config import QuantConfig
from octlet.compress.quant.calibrate import calibrate
from octlet.compress.quant.graph import FakeQuantised
from octlet.core.errors import GateError
from octlet.core.image import normalise
from octlet.export import layers
from octlet.export.layers import LayerParity, check_layers
from octlet.export.qdq import to_qdq
from octlet.runtime.engines import onnxruntime
from octlet.train.showing import Fold

SIZE = 32


@pytest.fixture(autouse=True)
def _quickly(quick_folding):
    with quick_folding():
        yield


def scans() -> np.ndarray:
    return normalise(phantoms(SIZE))


def made(family: str, *exclude: str) -> Case:
    """A calibrated twin of a random network whose biases are not 0."""
    net, config = random_net(SPECS[family]), QuantConfig(calibration=16, exclude=exclude)
    generator = torch.Generator().manual_seed(7)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            module.bias.data.normal_(0, 0.1, generator=generator)
    twin = FakeQuantised(net, config, SIZE)
    calibrate(twin, Fold(phantoms(SIZE), np.arange(16), np.arange(16) % 4), config, 0, iter)
    return Case(net, twin, to_qdq(twin, SIZE), SIZE)


def whole_steps(model: bytes) -> list[np.ndarray]:
    """Every convolution's bias in steps of its 32-bit sums."""
    graph = onnx.load_from_string(model).graph
    tensors = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    found = []
    for node in graph.node:
        if node.op_type == "Conv":
            read, weights = (tensors[makers[name].input[1]] for name in node.input[:2])
            bias = makers.get(node.input[2])
            if bias is None:
                found.append(tensors[node.input[2]] / (read.astype(float) * weights))
            else:  # in integers already
                assert bias.op_type == "DequantizeLinear"
                found.append(tensors[bias.input[0]].astype(float))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_biases_become_whole_steps_and_every_engine_computes_the_same(family):
    before = made(family)
    off = [np.abs(steps - steps.round()).max() for steps in whole_steps(before.model.onnx)]
    assert max(off) > 0.1, "the biases are rounded already, so that this test shows nothing"
    batch = torch.from_numpy(scans())
    was = before.twin(batch).logits.detach()
    before.twin.round_biases()
    model = to_qdq(before.twin, SIZE)
    for steps in whole_steps(model.onnx):
        assert (np.abs(steps - steps.round()) <= 0.01 + 3e-7 * np.abs(steps)).all()  # kept as float32
    assert check_layers(model.onnx, scans()).steps <= 1
    now = before.twin(batch).logits.detach()
    assert float((now - was).abs().max()) < 0.05 * float(was.max() - was.min())
    computed = onnxruntime.load(model.onnx, SIZE, 1).run(scans()).logits
    assert np.abs(computed - now.numpy()).max() < 0.02 * float(now.max() - now.min())
    kept = {name: tensor.clone() for name, tensor in before.twin.named_parameters()}
    before.twin.round_biases()
    for name, tensor in before.twin.named_parameters():
        assert torch.allclose(tensor, kept[name], atol=1e-6), f"{name}: twice is not once"


def test_a_layer_that_stays_in_float_keeps_its_bias():
    chosen = made("v2", "layer1.0.conv2")
    name = "graph.layer1.0.conv2.bias"
    was = dict(chosen.twin.named_parameters())[name].detach().clone()
    chosen.twin.round_biases()
    assert torch.equal(dict(chosen.twin.named_parameters())[name], was)
    check_layers(to_qdq(chosen.twin, SIZE).onnx, scans())


def test_every_layer_that_writes_integers_is_compared():
    chosen = made("v2")
    chosen.twin.round_biases()
    model = to_qdq(chosen.twin, SIZE).onnx
    found = check_layers(model, scans())
    plain = onnx.load_from_string(model).graph
    assert found.layers == sum(node.op_type == "QuantizeLinear" for node in plain.node)
    assert found.values > 16 * 32 * 32


def test_a_kernel_that_computes_something_else_is_named(monkeypatch):
    chosen = made("v2")
    chosen.twin.round_biases()
    model = to_qdq(chosen.twin, SIZE).onnx
    whole = layers.merged

    def broken(data: bytes, *without: str):
        merged = whole(data, *without)
        node = next(each for each in merged.graph.node if each.name == "layer1.0.conv2")
        assert node.op_type == "QLinearConv"
        bias = next(each for each in merged.graph.initializer if each.name == node.input[8])
        sums = numpy_helper.to_array(bias).copy()
        sums[3] += 20000
        bias.CopyFrom(numpy_helper.from_array(sums, bias.name))
        return merged

    monkeypatch.setattr(layers, "merged", broken)
    with pytest.raises(GateError, match=r"are others, by up to \d+ steps, most in layer1\.0\.conv2;"):
        check_layers(model, scans())


@pytest.mark.parametrize(
    ("other", "steps", "passes"), [(0, 0, True), (100, 1, True), (101, 1, False), (1, 2, False)]
)
def test_the_gate(other, steps, passes):
    parity = replace(LayerParity(3, 100_000, 0, 0, "conv1"), other=other, steps=steps)
    if passes:
        parity.check()
        return
    with pytest.raises(GateError, match=f"{other} of 100000 values of 3 layers"):
        parity.check()
