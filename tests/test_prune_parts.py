"""What pruning removes: against closed forms, numpy, and torch's own pruning."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune as torch_prune

from octlet.compress.prune.channels import (
    Bounds,
    ChannelGroup,
    Dependencies,
    choose_widths,
    widths_of,
    with_widths,
)
from octlet.compress.prune.depth import rank_units, removable, without_units
from octlet.compress.prune.sparsity import hold_zeros, kernels, sparsify, sparsity_of, zipped_bytes
from octlet.core.errors import GateError, UsageError
from octlet.models.resnet import ResNet, build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.train.checkpoint import load_run, save_run
from octlet.train.showing import Fold

BASIC = NetSpec("v1.5", 8, ((UnitSpec((8, 8), 1, False),) * 2, (UnitSpec((6, 12), 2, True),)))
_UNITS = (UnitSpec((4, 6, 16), 1, True), UnitSpec((6, 4, 16), 1, False), UnitSpec((4, 4, 16), 1, False))
DEEP = NetSpec("v1.5", 8, (_UNITS,))
PRE = NetSpec(
    "v2",
    8,
    (
        (UnitSpec((4, 4, 16), 1, True), UnitSpec((4, 6, 16), 1, False), UnitSpec((4, 4, 16), 2, False)),
        (UnitSpec((6, 6, 24), 1, True), UnitSpec((6, 6, 24), 1, False)),
    ),
)
SPECS = pytest.mark.parametrize("spec", [BASIC, DEEP, PRE], ids=["basic", "bottleneck", "v2"])


def net_of(spec: NetSpec, seed: int = 0) -> ResNet:
    """A network whose every number is random: no zero kernels, no idle batch norms."""
    generator = torch.Generator().manual_seed(seed)
    net = build(spec).eval()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + 0.1)
        for tensor in (p for name, p in net.named_parameters() if p.ndim == 4):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return net


def scans(n: int = 3) -> torch.Tensor:
    return torch.rand((n, 1, 48, 48), generator=torch.Generator().manual_seed(5)) * 2 - 1


def fold(n: int = 12) -> Fold:
    rng = np.random.default_rng(0)
    return Fold(rng.integers(0, 256, (n, 32, 32), dtype=np.uint8), np.arange(n), np.arange(n) % 4)


@SPECS
def test_every_convolution_is_in_one_group_and_a_residual_path_is_tied(spec):
    groups = Dependencies(net_of(spec), "magnitude").groups
    names = [layer for group in groups for layer in group.layers]
    assert sorted(names) == sorted(widths_of(spec))
    together = {layer: group.layers for group in groups for layer in group.layers}
    for i, stage in enumerate(spec.stages, start=1):
        last = [f"layer{i}.{u}.conv{len(unit.widths)}" for u, unit in enumerate(stage)]
        assert set(last) <= set(together[last[0]])
        inner = [f"layer{i}.{u}.conv1" for u in range(len(stage))]
        assert all(together[name] == (name,) for name in inner)
    assert ("layer1.0.conv2" in together["conv1"]) == (spec is BASIC)  # it has no projection


@SPECS
def test_channels_that_carry_nothing_can_go_without_a_trace(spec):
    net = net_of(spec)
    dead = [1, 2]
    with torch.no_grad():  # each convolution's first dead channels write zero, and no one hears them
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d):
                module.weight[dead] = 0
                if module.bias is not None:
                    module.bias[dead] = 0
                if module.groups == 1 and name != "conv1":
                    module.weight[:, dead] = 0
            elif isinstance(module, nn.BatchNorm2d):
                for each in (module.weight, module.bias, module.running_mean):
                    each[dead] = 0
        net.fc.weight[:, dead] = 0
        expected = net(scans())
    found = Dependencies(net, "magnitude")
    small = found.without({group.layers: len(group.scores) - 2 for group in found.groups})
    assert widths_of(small.spec) == {name: width - 2 for name, width in widths_of(spec).items()}
    with torch.no_grad():
        actual = small(scans())
    torch.testing.assert_close(actual.logits, expected.logits)
    torch.testing.assert_close(actual.cam, expected.cam)


def test_magnitude_is_the_mean_norm_of_all_that_would_go():
    net = net_of(DEEP)
    groups = {group.layers: group.scores for group in Dependencies(net, "magnitude").groups}
    out = (net.layer1[1].conv1.weight.detach().numpy() ** 2).sum((1, 2, 3))
    norm = net.layer1[1].bn1.weight.detach().numpy() ** 2
    into = (net.layer1[1].conv2.weight.detach().numpy() ** 2).sum((0, 2, 3))
    expected = (out + norm + into) / 3
    np.testing.assert_allclose(groups["layer1.1.conv1",], expected / expected.mean(), rtol=1e-5)


def test_batch_norm_scales_rank_and_are_missed_where_there_are_none():
    net = net_of(DEEP)
    groups = {group.layers: group.scores for group in Dependencies(net, "batch-norm").groups}
    scale = net.layer1[1].bn1.weight.detach().abs().numpy()
    np.testing.assert_allclose(groups["layer1.1.conv1",], scale / scale.mean(), rtol=1e-5)
    with pytest.raises(UsageError, match=r"no batch norm.*taylor"):
        Dependencies(net_of(PRE), "batch-norm")


def test_taylor_is_the_first_order_change_of_the_loss():
    net = net_of(PRE)
    net(scans()).logits.square().sum().backward()
    groups = {group.layers: group.scores for group in Dependencies(net, "taylor").groups}
    first, second = net.layer1[1].conv1, net.layer1[1].conv2

    def change(layer: nn.Conv2d, axes: tuple[int, ...]) -> np.ndarray:
        return (layer.weight * layer.weight.grad).detach().abs().sum(axes).numpy()

    expected = change(first, (1, 2, 3)) + change(second, (0, 2, 3))
    np.testing.assert_allclose(groups["layer1.1.conv1",], expected, rtol=1e-5)


def test_tracing_leaves_the_network_as_it_was():
    net = net_of(PRE)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    Dependencies(net, "magnitude")
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    assert not net.training


def group(name: str, scores: list[float]) -> ChannelGroup:
    return ChannelGroup((name,), np.array(scores))


def test_the_global_scope_takes_the_least_important_blocks_and_no_more_than_it_must():
    groups = [group("conv1", [9, 1, 8, 2]), group("layer1.0.conv1", [5, 6, 0, 0.5])]
    bounds = Bounds(2, 0.1, {"conv1": 4, "layer1.0.conv1": 4})
    sizes = [
        choose_widths(groups, bounds, "global", lambda widths, most=most: sum(widths.values()) <= most)
        for most in (8, 7, 6, 5, 4)
    ]
    assert [tuple(found.values()) for found in sizes] == [(4, 4), (4, 2), (4, 2), (2, 2), (2, 2)]
    assert groups[0].least(2) == [1, 3]
    with pytest.raises(GateError, match="round_to"):
        choose_widths(groups, bounds, "global", lambda widths: sum(widths.values()) <= 3)


def test_a_block_matters_as_much_as_its_channels_on_average():
    groups = [group("conv1", [0, 9, 9, 9]), group("layer1.0.conv1", [3, 3, 9, 9])]
    bounds = Bounds(2, 0.1, {"conv1": 4, "layer1.0.conv1": 4})
    found = choose_widths(groups, bounds, "global", lambda widths: sum(widths.values()) <= 6)
    assert tuple(found.values()) == (4, 2)


def test_the_layer_scope_spares_what_was_cut_before():
    groups = [group("conv1", [1.0] * 8), group("layer1.0.conv1", [9.0] * 16)]
    bounds = Bounds(2, 0.1, {"conv1": 16, "layer1.0.conv1": 16})
    found = choose_widths(groups, bounds, "layer", lambda widths: sum(widths.values()) <= 16)
    assert tuple(found.values()) == (8, 8)


def test_a_dear_channel_goes_before_a_cheap_one_that_matters_less():
    groups = [group("conv1", [1.0, 1.0]), group("layer1.0.conv1", [2.0, 2.0])]
    bounds = Bounds(1, 0.1, {"conv1": 2, "layer1.0.conv1": 2})
    prices = {"conv1": 1.0, "layer1.0.conv1": 10.0}
    found = choose_widths(
        groups, bounds, "global", lambda w: sum(w.values()) <= 3, lambda g: prices[g.layers[0]]
    )
    assert tuple(found.values()) == (2, 1)


def test_the_layer_scope_takes_equal_shares_of_the_first_widths_whatever_the_scores():
    groups = [group("conv1", [1000.0] * 8), group("layer1.0.conv1", list(np.arange(32.0)))]
    bounds = Bounds(2, 0.25, {"conv1": 8, "layer1.0.conv1": 32})
    found = choose_widths(groups, bounds, "layer", lambda widths: sum(widths.values()) <= 20)
    assert tuple(found.values()) == (4, 16)
    floor = choose_widths(groups, bounds, "layer", lambda widths: sum(widths.values()) <= 10)
    assert tuple(floor.values()) == (2, 8)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(1, 16),
    st.floats(0, 1),
    st.sampled_from(["global", "layer"]),
    st.floats(0, 1),
)
def test_widths_stay_in_bounds_and_the_last_block_was_needed(sizes, step, floor, scope, share):
    rng = np.random.default_rng(0)
    groups = [ChannelGroup((f"layer1.{k}.conv1",), rng.random(size)) for k, size in enumerate(sizes)]
    bounds = Bounds(step, floor, {group.layers[0]: len(group.scores) for group in groups})
    wanted = share * sum(sizes)

    def fits(widths) -> bool:
        return sum(widths.values()) <= wanted

    try:
        found = choose_widths(groups, bounds, scope, fits)
    except GateError:
        assert sum(bounds.widths(group)[-1] for group in groups) > wanted
        return
    assert fits(found)
    for each in groups:
        size, width = len(each.scores), found[each.layers]
        assert width == size or (width % step == 0 and width >= max(step, floor * size))
    more = [found | {g.layers: w} for g in groups for w in bounds.widths(g)[-2::-1] if w > found[g.layers]]
    assert all(sum(found.values()) < sum(each.values()) for each in more)


def test_widths_are_written_where_they_belong():
    names = {("conv1",): 4, ("layer1.2.conv3", "layer1.0.conv3"): 10, ("layer1.1.conv2",): 2}
    spec = with_widths(DEEP, names)
    assert spec.stem == 4
    assert [unit.widths for unit in spec.stages[0]] == [(4, 6, 10), (6, 2, 16), (4, 4, 10)]
    assert with_widths(DEEP, {}) == DEEP


@SPECS
def test_a_pruned_network_comes_back_bit_by_bit_where_torch_pruning_was_never_seen(spec, tmp_path):
    found = Dependencies(net_of(spec), "magnitude")
    small = found.without({group.layers: max(2, len(group.scores) // 2) for group in found.groups})
    save_run(tmp_path, small, {"spec": small.spec.as_dict(), "size": 48})
    with torch.no_grad():
        told = dict(zip(("logits", "cam", "embedding"), small(scans()), strict=True))
        save_file(told | {"image": scans()}, tmp_path / "told.safetensors")
    code = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "import torch; from octlet.train.checkpoint import load_run\n"
        "from safetensors.torch import load_file\n"
        f"told = load_file({str(tmp_path / 'told.safetensors')!r})\n"
        f"with torch.no_grad(): found = load_run({str(tmp_path)!r}).net(told['image'])\n"
        "assert all(torch.equal(getattr(found, name), told[name]) for name in found._fields)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_units_that_change_no_shape_can_go():
    assert removable(BASIC) == [(0, 0), (0, 1)]
    assert removable(DEEP) == [(0, 1), (0, 2)]
    assert removable(PRE) == [(0, 1), (1, 1)]  # the strided unit makes the image smaller


@SPECS
def test_a_network_without_a_unit_is_the_network_with_that_unit_an_identity(spec):
    net = net_of(spec)
    stage, unit = removable(spec)[0]
    small = without_units(net, [(stage, unit)])
    assert len(small.spec.stages[stage]) == len(spec.stages[stage]) - 1
    layer = net.get_submodule(f"layer{stage + 1}")
    layer[unit].forward = nn.Identity().forward
    with torch.no_grad():
        assert torch.equal(small(scans()).logits, net(scans()).logits)


def test_the_unit_that_changes_nothing_is_ranked_first():
    net = net_of(PRE)
    with torch.no_grad():
        net.layer2[1].conv3.weight.zero_()
        net.layer2[1].conv3.bias.zero_()
    (least, first), (more, second) = rank_units(net, fold(), iter, torch.device("cpu"))
    assert (first, second) == ((1, 1), (0, 1))
    assert least == pytest.approx(0, abs=1e-12)
    assert more > 1e-6


@pytest.mark.parametrize("share", [0.0, 0.37, 0.9])
def test_global_zeros_are_those_of_torchs_own_pruning(share):
    ours, theirs = net_of(PRE), net_of(PRE)
    sparsify(ours, share)
    named = dict(theirs.named_modules())
    chosen = [(named[name.removesuffix(".weight")], "weight") for name, _ in kernels(theirs)]
    count = round(share * sum(module.weight.numel() for module, _ in chosen))
    torch_prune.global_unstructured(chosen, torch_prune.L1Unstructured, amount=count)
    for (name, weight), (module, _) in zip(kernels(ours), chosen, strict=True):
        assert torch.equal(weight, module.weight), name
    assert sparsity_of(ours) == pytest.approx(share, abs=1e-3)


def test_equal_weights_do_not_all_go_at_once():
    net = net_of(PRE)
    with torch.no_grad():
        for _, weight in kernels(net):
            weight.fill_(1.0)
    sparsify(net, 0.5)
    assert sparsity_of(net) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
def test_zeros_stay_zero_and_the_rest_trains(kind):
    net = net_of(BASIC)
    sparsify(net, 0.6)
    hold_zeros(net)
    before = {name: weight.clone() for name, weight in kernels(net)}
    optimizer = kind(net.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        net(scans()).logits.square().sum().backward()
        optimizer.step()
    for name, weight in kernels(net):
        assert torch.equal(weight == 0, before[name] == 0)
        assert not torch.equal(weight, before[name])


def test_zeros_shrink_the_zip_and_scales_of_channels_are_left_alone():
    net = net_of(PRE)
    dense = zipped_bytes(net)
    assert dense < 1.1 * 4 * sum(p.numel() for p in net.parameters())
    sparsify(net, 0.9)
    assert zipped_bytes(net) < 0.6 * dense
    assert (net.norm.weight != 0).all()
    assert "norm.weight" not in dict(kernels(net))


def test_a_run_that_is_pruned_is_a_run(tmp_path: Path):
    found = Dependencies(net_of(BASIC), "magnitude")
    small = found.without({group.layers: 4 for group in found.groups})
    save_run(tmp_path, small, {"spec": small.spec.as_dict()})
    assert load_run(tmp_path).net.spec == small.spec == with_widths(BASIC, dict.fromkeys(_groups(BASIC), 4))
    assert replace(small.spec, stem=9) != small.spec


def _groups(spec: NetSpec) -> list[tuple[str, ...]]:
    return [(name,) for name in widths_of(spec)]
