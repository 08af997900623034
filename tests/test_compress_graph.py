"""The twin of a network: unrounded it is the network itself; what rounds stands where it is said to."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from octlet.compress.config import QuantConfig
from octlet.compress.quant.fakequant import Watch, WeightFakeQuant
from octlet.compress.quant.graph import FakeQuantised
from octlet.core.errors import UsageError
from octlet.models.resnet import ResNet, build
from octlet.models.spec import NetSpec, UnitSpec

SPECS = {
    "basic": NetSpec("v1.5", 8, ((UnitSpec((8, 8), 1, False),), (UnitSpec((16, 16), 2, True),))),
    "bottleneck": NetSpec("v1.5", 8, ((UnitSpec((8, 8, 16), 2, True), UnitSpec((8, 8, 16), 1, False)),)),
    "v2": NetSpec("v2", 8, ((UnitSpec((8, 8, 16), 2, True), UnitSpec((8, 8, 16), 1, False)),)),
}
LAYERS = {
    "basic": "conv1 layer1.0.conv1 layer1.0.conv2 layer2.0.conv1 layer2.0.conv2 layer2.0.downsample.0 fc",
    "bottleneck": "conv1 layer1.0.conv1 layer1.0.conv2 layer1.0.conv3 layer1.0.downsample.0 "
    "layer1.1.conv1 layer1.1.conv2 layer1.1.conv3 fc",
    "v2": "conv1 layer1.0.preact layer1.0.conv1 layer1.0.conv2 layer1.0.conv3 layer1.0.shortcut "
    "layer1.1.preact layer1.1.conv1 layer1.1.conv2 layer1.1.conv3 norm fc",
}
FAMILIES = list(SPECS)
NORMED = ["basic", "bottleneck"]


@cache
def made(family: str) -> tuple[ResNet, FakeQuantised]:
    """A network that has trained a step, so that batch norms do something, and its twin; for copying."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        net = build(SPECS[family])
        for name, module in net.named_modules():
            if name.endswith("conv3"):  # zeros at first in V2
                nn.init.normal_(module.weight, std=0.2)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net, FakeQuantised(net, QuantConfig(), 32)


def fresh(family: str) -> tuple[ResNet, FakeQuantised]:
    return copy.deepcopy(made(family)[0]), copy.deepcopy(made(family)[1])


def scans(n: int = 6, seed: int = 1) -> Tensor:
    return torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) * 1.8 - 0.9


def calibrated(family: str) -> tuple[ResNet, FakeQuantised]:
    net, twin = fresh(family)
    twin.eval()
    twin.round(False)
    twin.watch(Watch.WIDEN)
    twin(scans(16, seed=2))
    twin.watch(Watch.NOTHING)
    twin.round(True)
    return net, twin


def gradients(net: nn.Module, n: int = 6) -> dict[str, Tensor]:
    net.zero_grad()
    out = net(scans(n))
    weights = torch.linspace(-1, 1, out.logits.numel()).reshape_as(out.logits)
    ((out.logits * weights).sum() + out.embedding.square().mean()).backward()
    found = {}
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        found[name.removeprefix("graph.")] = parameter.grad.clone()
    return found


def assert_near(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, each in wanted.items():
        close = 2e-4 * float(each.abs().max()) + 1e-5
        torch.testing.assert_close(
            found[name], each, rtol=1e-3, atol=close, msg=lambda m, n=name: f"{n}: {m}"
        )


def norm_after(layer: str) -> str:
    return layer.replace("conv", "bn").replace("downsample.0", "downsample.1")


def folded_factor(net: ResNet, layer: str) -> Tensor:
    """What the batch norm after a layer, if there is one, multiplies its weights by, (C, 1, ...)."""
    weight, norm = net.get_submodule(layer).weight, dict(net.named_modules()).get(norm_after(layer))
    wide = len(weight), *[1] * (weight.ndim - 1)
    if not isinstance(norm, nn.BatchNorm2d):
        return torch.ones(wide)
    return (norm.weight / (norm.running_var + norm.eps).sqrt()).reshape(wide)


def running(net: nn.Module) -> dict[str, Tensor]:
    found = {name.removeprefix("graph."): each for name, each in net.named_buffers()}
    return {name: each.clone() for name, each in found.items() if "running" in name}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", [False, True])
def test_with_rounding_off_the_twin_is_the_float_network(family, mode):
    net, twin = fresh(family)
    net.train(mode)
    twin.train(mode)
    twin.round(False)
    for found, wanted in zip(twin(scans()), net(scans()), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.detach().abs().max()))
    assert_near(running(twin), running(net))


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_to_eight_bits_changes_the_answers_a_little_and_to_two_a_lot(family):
    net, twin = calibrated(family)
    wanted = net.eval()(scans()).cam.detach()
    spread = float(wanted.max() - wanted.min())
    eight = float((twin(scans()).cam - wanted).abs().max()) / spread
    for each in twin.modules():
        if isinstance(each, WeightFakeQuant):
            each.quant_max = 1
    two = float((twin(scans()).cam - wanted).abs().max()) / spread
    assert 0 < eight < 0.15
    assert two > 2 * eight


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_modules_of_the_network_in_the_order_of_their_calls(family):
    net, twin = fresh(family)
    called: list[str] = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    net(scans())
    assert list(twin.layers) == [*called, "fc"] == LAYERS[family].split()
    assert tuple(layer.name for layer in twin.quantised) == twin.layers


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_is_rounded_by_what_stands_at_its_weights_and_at_its_output(family):
    """Scales against the network's own weights, with batch norm folded; ranges against its own outputs."""
    net, twin = calibrated(family)
    net.eval()
    twin(scans())
    written: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: written.update({name: out}))
    cam = net(scans(16, seed=2)).cam
    modules = dict(net.named_modules())
    for layer in twin.quantised:
        weight = (modules[layer.name].weight * folded_factor(net, layer.name)).detach()
        output = written.get(norm_after(layer.name), written.get(layer.name, cam))
        scale, _ = layer.weights.calculate_qparams()
        torch.testing.assert_close(scale, weight.flatten(1).abs().amax(1) / 127)
        assert float(layer.output.high) == pytest.approx(float(output.max()), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_lightened_and_unrounded_the_twin_has_the_float_networks_gradients(family):
    net, twin = fresh(family)
    twin.round(False)
    twin.lighten()
    net.train()
    twin.train()
    wanted = gradients(net)
    assert_near(gradients(twin), wanted)
    norms = [name for name in wanted if "bn" in name and name.endswith("weight")]
    assert norms or family == "v2"
    assert all(wanted[name].abs().max() > 1e-3 for name in norms)  # or equal gradients show nothing


@pytest.mark.parametrize("family", NORMED)
def test_lightened_and_rounded_the_answers_stay_and_only_batch_norm_factors_lose_a_gradient(family):
    _, plain = calibrated(family)
    _, light = calibrated(family)
    light.lighten()
    for twin in (plain, light):
        twin.train()
        twin.freeze_batch_norm()  # or rounding differs where sums do, and the gradients with it
    for found, wanted in zip(light(scans()), plain(scans()), strict=True):
        step = float(plain.quantised[-1].output.calculate_qparams()[0])
        assert float((found - wanted).abs().max()) <= 1.01 * step
    found, wanted = gradients(light), gradients(plain)
    kernels = [name for name, each in wanted.items() if each.ndim == 4]
    for name in kernels:
        cosine = torch.cosine_similarity(found[name].flatten(), wanted[name].flatten(), dim=0)
        assert cosine > 0.999, name


@pytest.mark.parametrize("family", NORMED)
def test_training_moves_running_figures_and_evaluation_does_not(family):
    _, twin = fresh(family)
    twin.round(False)
    before = running(twin)
    twin.eval()
    evaluated = twin(scans()).logits
    assert all(torch.equal(each, before[name]) for name, each in running(twin).items())
    assert twin.train() is twin
    trained = twin(scans()).logits
    assert not any(torch.equal(each, before[name]) for name, each in running(twin).items())
    assert not torch.allclose(trained, evaluated, rtol=0.01)


@pytest.mark.parametrize("family", NORMED)
def test_frozen_batch_norms_use_their_running_figures_in_training_too(family):
    _, twin = fresh(family)
    twin.round(False)
    twin.lighten()
    twin.train()
    twin.freeze_batch_norm()
    before = running(twin)
    found = twin(scans()).logits
    twin.eval()
    torch.testing.assert_close(found, twin(scans()).logits)
    twin.train()  # a new epoch
    twin(scans())
    assert twin.training
    assert all(torch.equal(each, before[name]) for name, each in running(twin).items())
    assert all(each.abs().max() > 0 for name, each in gradients(twin).items() if name.endswith("bn1.weight"))


def test_scans_that_are_evaluated_move_no_range():
    """The validation fold judges; it must leave nothing in the network."""
    _, twin = calibrated("v2")
    twin.watch(Watch.FOLLOW)
    before = [float(each.high) for each in twin.activations()]
    twin.eval()
    twin(scans(8, seed=9))
    assert [float(each.high) for each in twin.activations()] == before
    twin.train()
    twin(scans(8, seed=9))
    assert all(float(each.high) != old for each, old in zip(twin.activations(), before, strict=True))


@pytest.mark.parametrize(
    ("family", "patterns", "left"),
    [
        ("v2", ("layer1.0.conv2",), {"layer1.0.conv2"}),
        ("v2", ("*conv1", "fc"), {"conv1", "layer1.0.conv1", "layer1.1.conv1", "fc"}),
        ("basic", ("layer2.*",), {"layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"}),
        ("v2", ("*",), set(LAYERS["v2"].split())),
    ],
)
def test_excluded_layers_keep_their_float_weights_and_all_others_round_theirs(family, patterns, left):
    net = copy.deepcopy(made(family)[0]).eval()
    twin = FakeQuantised(net, QuantConfig(weights_bits=3, exclude=patterns), 32)
    assert set(twin.layers) - {layer.name for layer in twin.quantised} == left
    weights = [each for each in twin.modules() if isinstance(each, WeightFakeQuant)]
    assert len(weights) == len(twin.quantised)
    for each in twin.activations():
        each.rounds = False
    with torch.no_grad():
        for name, module in net.named_modules():
            if name in twin.layers and name not in left:
                factor = folded_factor(net, name)
                weight = module.weight * factor
                scale = (weight.flatten(1).abs().amax(1) / 3).reshape(factor.shape)
                module.weight.copy_((weight / scale).round() * scale / factor)
    twin.eval()
    wanted = net(scans()).logits
    torch.testing.assert_close(
        twin(scans()).logits, wanted, rtol=1e-3, atol=1e-3 * float(wanted.detach().abs().max())
    )


def test_an_exclusion_that_names_no_layer_is_refused():
    net = made("v2")[0]
    for pattern in ("layer9.*", "layer1.0", "conv"):
        with pytest.raises(UsageError, match=f"no layer is called '{pattern}'".replace("*", r"\*")):
            FakeQuantised(net, QuantConfig(exclude=("fc", pattern)), 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_is_rebuilt_from_its_tensors_bit_by_bit(family):
    net, twin = calibrated(family)
    again = copy.deepcopy(made(family)[1]).eval()
    again.load_state_dict(twin.state_dict())
    assert torch.equal(again(scans()).logits, twin(scans()).logits)
    names = {name for name, _ in twin.named_parameters()}
    assert names == {f"graph.{name}" for name, _ in net.named_parameters()}


def test_the_network_that_a_twin_is_made_of_is_left_alone():
    net = made("basic")[0]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    twin = FakeQuantised(net, QuantConfig(), 32)
    twin.round(False)
    twin.train()
    gradients(twin)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
