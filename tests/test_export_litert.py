"""From the ONNX file to LiteRT: the same integers, held to the same bounds, in one model file with ONNX."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from easy import command, result_of
from lite import scans, seen
from onnx import numpy_helper
from torch import nn

from octlet.compress.config import QuantConfig
from octlet.compress.quant.calibrate import calibrate
from octlet.compress.quant.graph import FakeQuantised
from octlet.core.bundle import CARD, ONNX, TFLITE, Tolerances, open_bundle, write_bundle
from octlet.core.errors import GateError
from octlet.core.settings import as_dict
from octlet.export import litert as translation
from octlet.export.litert import to_litert
from octlet.export.onnx import check_parity, to_onnx, torch_outputs
from octlet.export.qdq import IntegerModel, check_integers, check_placement, to_qdq
from octlet.models.resnet import ResNet, build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.runtime import engine as engine_module
from octlet.runtime.engine import ENGINES
from octlet.runtime.engines import litert, onnxruntime
from octlet.runtime.verify import verify
from octlet.train.checkpoint import save_run
from octlet.train.showing import Fold

pytestmark = pytest.mark.skipif(not ENGINES["litert"].installed, reason="ai-edge-litert is not installed")

# every convolution of another width, as pruning leaves them
SPECS = {
    "basic": NetSpec("v1.5", 7, ((UnitSpec((5, 7), 1, False),), (UnitSpec((9, 11), 2, True),))),
    "bottleneck": NetSpec("v1.5", 6, ((UnitSpec((5, 8, 13), 2, True), UnitSpec((9, 3, 13), 1, False)),)),
    "v2": NetSpec("v2", 6, ((UnitSpec((5, 8, 13), 1, True), UnitSpec((9, 3, 13), 2, False)),)),
    "wide": NetSpec("v1.5", 3, ((UnitSpec((192, 160, 13), 2, True),),)),
}
OUTPUTS = ("logits", "cam", "embedding")


@pytest.fixture(scope="module", autouse=True)
def _quickly(quick_folding) -> Iterator[None]:
    with quick_folding():
        yield


@cache
def random_net(family: str) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = build(SPECS[family])
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                nn.init.uniform_(tensor, 0.1 if name.endswith("var") else -0.5, 0.5)
    return net.eval()


@cache
def float_file(family: str, size: int) -> bytes:
    return to_onnx(random_net(family), size)


@cache
def simulated(family: str, size: int, *exclude: str) -> FakeQuantised:
    config = QuantConfig(calibration=16, exclude=exclude)
    twin = FakeQuantised(random_net(family), config, size)
    calibrate(twin, Fold(scans(size), np.arange(16), np.arange(16) % 4), config, 0, iter)
    return twin


@cache
def rounded(family: str, size: int, *exclude: str) -> tuple[FakeQuantised, IntegerModel]:
    twin = simulated(family, size, *exclude)
    return twin, to_qdq(twin, size)


def altered(model: bytes) -> bytes:
    """An ONNX file that says CNV too readily."""
    whole = onnx.load_from_string(model)
    (bias,) = (each for each in whole.graph.initializer if each.name == "fc.bias")
    more = numpy_helper.to_array(bias) + np.array([100, 0, 0, 0], np.float32)
    bias.CopyFrom(numpy_helper.from_array(more, bias.name))
    data: bytes = whole.SerializeToString()
    return data


def graph_of(model: bytes) -> Any:
    """The first graph of a .tflite file, and its constants as arrays by tensor."""
    from ai_edge_litert import schema_py_generated as schema

    whole = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model))
    kinds = {number: name.lower() for name, number in vars(schema.TensorType).items() if name.isupper()}
    graph = whole.subgraphs[0]
    for tensor in graph.tensors:
        data = whole.buffers[tensor.buffer].data
        tensor.values = (
            None if data is None else np.frombuffer(data.tobytes(), kinds[tensor.type]).reshape(tensor.shape)
        )
    return graph


# The same numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "size"), [("basic", 50), ("bottleneck", 45), ("v2", 46)])
def test_a_float_network_computes_what_torch_does(family: str, size: int) -> None:
    net = random_net(family)
    model = to_litert(float_file(family, size), size)
    wanted = torch_outputs(net, seen(size)[:4])
    found = litert.load(model.data, size, 1).run(seen(size)[:4])
    for name in OUTPUTS:
        both = np.concatenate([getattr(each, name) for each in wanted]), getattr(found, name)
        np.testing.assert_allclose(both[1], both[0], atol=1e-4 * np.ptp(both[0]))
    with pytest.raises(GateError, match="in float"):
        model.check_placement()


def test_integers_are_those_of_onnx_runtime() -> None:
    twin, model = rounded("v2", 32)
    other = to_litert(model.onnx, 32)
    other.check_placement()
    assert other.operators["ADD"] == 2
    layers = [other.operators.get(kind, 0) for kind in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    assert sum(layers) == len(twin.layers)
    assert layers[1] == sum("preact" in name or name == "norm" for name in twin.layers)
    a, b = onnxruntime.load(model.onnx, 32, 1), litert.load(other.data, 32, 1)
    one, two = a.run(seen(32)), b.run(seen(32))
    step = float(twin.quantised[-1].output.calculate_qparams()[0])
    off = np.abs(one.cam - two.cam) / step
    assert off.max() <= 2.01  # steps of the last grid: the engines round a sum between two in their own ways
    assert (off < 0.01).mean() > 0.97
    for name in OUTPUTS:
        both = getattr(one, name), getattr(two, name)
        assert np.abs(both[0] - both[1]).mean() < 0.003 * np.ptp(both[0])


def test_weights_biases_and_grids_are_those_of_the_onnx_file() -> None:
    _, model = rounded("v2", 32)
    given = onnx.load_from_string(model.onnx).graph
    arrays = {each.name: numpy_helper.to_array(each) for each in given.initializer}
    makers = {node.output[0]: node for node in given.node}
    written = graph_of(to_litert(model.onnx, 32).data)
    tensors = {tensor.name.decode(): tensor for tensor in written.tensors}
    for node in (node for node in given.node if node.op_type == "Conv"):
        integers, scales = (arrays[name] for name in makers[node.input[1]].input[:2])
        weight, bias = (tensors[f"{node.name}.{part}"] for part in ("weight", "bias"))
        apart = node.name.endswith(("preact", "norm"))
        order = (1, 2, 3, 0) if apart else (0, 2, 3, 1)
        assert weight.values.dtype == np.int8
        assert np.array_equal(weight.values, np.transpose(integers, order))
        assert np.array_equal(weight.quantization.scale, scales)
        assert weight.quantization.quantizedDimension == (3 if apart else 0)
        assert not weight.quantization.zeroPoint.any()
        scale = arrays[makers[node.input[0]].input[1]]
        assert bias.values.dtype == np.int32
        read = bias.values * scale.astype(np.float64) * scales
        assert np.abs(read - arrays[node.input[2]]).max() <= (scale * scales).max()
    for node in (node for node in given.node if node.op_type == "QuantizeLinear"):
        scale, zero = (arrays[name] for name in node.input[1:])
        grid = tensors[node.output[0]].quantization
        assert (grid.scale.item(), grid.zeroPoint.item()) == (scale.item(), int(zero) - 128)


def test_constants_lie_where_the_engine_may_read_them_in_place() -> None:
    from ai_edge_litert import schema_py_generated as schema

    data = to_litert(rounded("v2", 32)[1].onnx, 32).data
    model = schema.Model.GetRootAs(data)
    for k in range(1, model.BuffersLength()):
        vector = model.Buffers(k)._tab
        assert vector.Vector(vector.Offset(4)) % 16 == 0


# Layers in float --------------------------------------------------------------------------------------


def test_layers_in_float_are_named_and_allowed_only_when_asked_for() -> None:
    layers = ("layer1.0.conv2", "layer1.0.downsample.0")
    twin, model = rounded("wide", 45, *layers)  # too many weights for the exporter to fold a batch norm into
    nodes = onnx.load_from_string(model.onnx).graph.node
    assert not {node.op_type for node in nodes} & {"Mul", "Div", "BatchNormalization"}
    check_placement(model.onnx, layers)
    other = to_litert(model.onnx, 45)
    assert other.in_float == layers
    with pytest.raises(GateError, match=f"computes {layers[0]} in float, 1 nodes"):
        other.check_placement([layers[1], "layer1", "norm"])
    other.check_placement(layers)
    told = check_integers(model, twin, scans(45), others={"litert": other.data})
    for parity in told.values():
        assert parity["logits"] < 0.01


def test_a_graph_with_something_else_is_refused() -> None:
    def broken(change) -> bytes:
        model = onnx.load_from_string(rounded("v2", 32)[1].onnx)
        change({node.name: node for node in model.graph.node}, {t.name: t for t in model.graph.initializer})
        return model.SerializeToString()

    def another_operation(nodes, _) -> None:
        nodes["layer1.0.sum"].op_type = "Mul"

    def another_mean(nodes, _) -> None:
        nodes["node_mean"].attribute[0].i = 1
        nodes["node_mean"].attribute[-1].i = 1

    def large_bias(nodes, tensors) -> None:
        tensor = tensors[nodes["layer1.1.conv1"].input[2]]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1e9), tensor.name))

    for change, told in (
        (another_operation, "layer1.0.sum is a Mul"),
        (another_mean, "a mean of something else"),
        (large_bias, "a bias of layer1.1.conv1 is too large"),
    ):
        with pytest.raises(GateError, match=told):
            to_litert(broken(change), 32)


# The gates --------------------------------------------------------------------------------------------


def test_parity_is_a_gate() -> None:
    net, model = random_net("basic"), float_file("basic", 50)
    good, wrong = (to_litert(each, 50).data for each in (model, altered(model)))
    assert max(check_parity(good, net, seen(50)[:4], Tolerances(), engine="litert").values()) < 1e-4
    with pytest.raises(GateError, match=r"LiteRT's logits are .* of their range from torch's"):
        check_parity(wrong, net, seen(50)[:4], Tolerances(), engine="litert")


def test_integers_are_compared_with_what_was_simulated() -> None:
    twin, model = rounded("v2", 32)
    good, wrong = (to_litert(each, 32).data for each in (model.onnx, altered(model.onnx)))
    told = check_integers(model, twin, scans(32), others={"litert": good})
    assert list(told) == ["converted", "onnxruntime", "litert"]
    assert told["litert"]["agreement"] >= 0.995
    with pytest.raises(GateError, match="the simulated and the litert network agree on"):
        check_integers(model, twin, scans(32), others={"litert": wrong})


# One model file with both -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("both") / "model.octlet"
    return out, result_of("export", tiny_run, "--out", out, "--litert", "--name", "tiny")


def test_a_model_file_carries_both(both, model_file: Path) -> None:
    path, result = both
    bundle = open_bundle(path)
    files = {name: entry.file for name, entry in bundle.manifest.engines.items()}
    assert files == {"onnxruntime": ONNX, "litert": TFLITE}
    assert "ai-edge-litert" in bundle.manifest.versions
    assert bundle.read(ONNX) == open_bundle(model_file).read(ONNX)
    told = result["litert"]
    assert told["bytes"] == len(bundle.read(TFLITE))
    assert told["operators"]["CONV_2D"] == 13
    assert max(told["parity"].values()) < 1e-5
    assert f" bytes of ONNX and {told['bytes']:,} of LiteRT;" in bundle.read(CARD).decode()
    assert bundle.read(TFLITE) == to_litert(bundle.read(ONNX), 64).data  # equal runs, equal bytes


def test_both_are_verified_and_predict_the_same(both, easy_scans: Path) -> None:
    path, _ = both
    code, out, _ = command("verify", path, "--json")
    names = [check["name"] for check in json.loads(out)["checks"]]
    assert code == 0
    assert len(names) == len(set(names)) == 4 + 4 + 2 * (4 + 3)
    assert {"onnxruntime, logits", "litert, logits", "phantom-CNV.jpeg: pixels"} <= set(names)
    assert json.loads(out)["model"]["engine"] == "onnxruntime, litert"
    shares = [
        [
            each["probabilities"]
            for each in result_of("predict", easy_scans, "-m", path, *words)["predictions"]
        ]
        for words in ((), ("--engine", "litert"))
    ]
    assert len(shares[0]) == 60
    for one, other in zip(*shares, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_verify_names_the_engine_that_computes_something_else(both, tmp_path: Path) -> None:
    bundle = open_bundle(both[0])
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    files[TFLITE] = to_litert(altered(files[ONNX]), 64).data
    write_bundle(tmp_path / "m.octlet", bundle.manifest, files)
    report = verify(tmp_path / "m.octlet", threads=1)
    failed = {check.name for check in report.checks if not check.passed}
    assert {"litert, logits", "litert, cam"} <= failed
    assert all(name.startswith("litert, ") for name in failed)
    assert verify(tmp_path / "m.octlet", engine="onnxruntime", threads=1).passed


def test_without_litert(both, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dict(ENGINES) | {"litert": replace(ENGINES["litert"], package="no_such_package")}
    monkeypatch.setattr(translation, "ENGINES", absent)
    monkeypatch.setattr(engine_module, "ENGINES", absent)
    monkeypatch.setattr("octlet.runtime.verify.ENGINES", absent)
    code, _, err = command("export", tiny_run, "--out", tmp_path / "m.octlet", "--litert")
    assert code == 2
    assert 'LiteRT is not installed (pip install "octlet[litert]")' in err
    assert not (tmp_path / "m.octlet").exists()
    report = verify(both[0], threads=1)
    assert report.passed
    assert report.model["engine"] == "onnxruntime"


def test_a_quantised_run_is_exported_for_both(tmp_path: Path) -> None:
    layers = ("conv1", "layer1.0.conv2")  # which stay in float
    how = as_dict(QuantConfig(calibration=16, exclude=layers)) | {"calibrated_on": 16, "layers": [10, 12]}
    meta = {"spec": SPECS["v2"].as_dict(), "size": 32, "quantization": how}
    save_run(tmp_path / "run", simulated("v2", 32, *layers), meta)
    words = ("--out", tmp_path / "m.octlet", "--litert", "--images", 200)
    code, out, err = command("export", tmp_path / "run", *words)
    assert code == 0, err
    assert "output     ONNX Runtime  LiteRT" in out
    assert "LiteRT runs 9 CONV_2D" in out
    found = open_bundle(tmp_path / "m.octlet").manifest.training["integers"]
    assert set(found) == {"converted", "litert", "onnxruntime"}
    assert found["litert"]["images"] == 200
    assert found["litert"]["agreement"] >= 0.995
    assert verify(tmp_path / "m.octlet", threads=1).passed
