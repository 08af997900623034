"""Ranges, the grids over them and the simulated rounding, against numpy's and torch's own."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octlet.compress.config import QuantConfig
from octlet.compress.quant.calibrate import calibrate
from octlet.compress.quant.fakequant import ActivationFakeQuant, Watch, WeightFakeQuant
from octlet.compress.quant.graph import FakeQuantised
from octlet.compress.quant.ranges import grid, least_squares_range, percentile_range
from octlet.models.resnet import ResNet, build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.train.showing import Fold

TINY = NetSpec("v2", 8, ((UnitSpec((8, 8, 16), 2, True), UnitSpec((8, 8, 16), 1, False)),))
ENDS = st.floats(-1e3, 1e3, width=32)


@pytest.mark.parametrize(
    ("low", "high", "levels", "scale", "zero"),
    [
        (-1.0, 1.0, 255, 2 / 254, 127),
        (0.0, 5.1, 256, 0.02, 0),
        (-5.1, 0.0, 256, 0.02, 255),
        (-1.0, 4.1, 256, 0.02, 50),
        (2.0, 5.1, 256, 0.02, 0),  # widened to hold 0
        (-5.1, -2.0, 256, 0.02, 255),
        (0.0, 0.0, 256, 2.0**-16, 0),
    ],
)
def test_a_grid_is_its_closed_form(low, high, levels, scale, zero):
    assert grid(low, high, levels) == (float(np.float32(scale)), zero)


@given(ENDS, ENDS)
def test_a_grid_is_that_of_torchs_observer(one, other):
    from torch.ao.quantization.observer import MinMaxObserver

    low, high = sorted((one, other))
    observer = MinMaxObserver(torch.quint8, quant_min=0, quant_max=255, eps=2.0**-16)
    observer(torch.tensor([low, high]))
    wanted, place = (each.item() for each in observer.calculate_qparams())
    scale, zero = grid(low, high, 256)
    assert scale == pytest.approx(wanted, rel=1e-6)
    exact = -min(low, 0.0) / scale
    assert zero == place or abs(exact - np.floor(exact) - 0.5) < 1e-3


@given(ENDS, ENDS)
def test_a_grid_holds_its_range_and_a_real_zero(one, other):
    low, high = sorted((one, other))
    scale, zero = grid(low, high, 256)
    assert 0 <= zero <= 255
    slack = scale * 0.5001
    assert -zero * scale <= low + slack
    assert (255 - zero) * scale >= high - slack
    quantiser = ActivationFakeQuant()
    quantiser.low.fill_(low)
    quantiser.high.fill_(high)
    assert quantiser(torch.zeros(3)).tolist() == [0, 0, 0]


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any),
    st.floats(50, 100),
    st.floats(-10, 10),
    st.floats(0.01, 5),
)
def test_percentiles_are_numpys_on_values_spread_in_their_bins(counts, percent, first, width):
    """Hazen's definition: the k-th of n values stands at (k - 1/2) / n; between two, anything may be."""
    last = first + width * len(counts)
    spread = [first + width * (i + (j + 0.5) / n) for i, n in enumerate(counts) for j in range(n)]
    padded = np.array([first, *spread, last])
    ends = percentile_range(np.array(counts, float), first, last, percent)
    for found, share in zip(ends, (100 - percent, percent), strict=True):
        rank = len(spread) * share / 100 + 0.5
        below, above = padded[int(np.floor(rank - 1e-9))], padded[int(np.ceil(rank + 1e-9))]
        assert below - 1e-6 <= found <= above + 1e-6
        if 1 <= rank <= len(spread) and above - below < width / max(counts) * 1.001:  # in a bin that is full
            wanted = np.percentile(spread, share, method="hazen")
            assert found == pytest.approx(wanted, abs=1e-6 + (above - below) * 1e-6)


def test_a_percentile_cuts_what_stands_apart_and_a_hundred_per_cent_cuts_nothing():
    assert percentile_range(np.full(100, 7.0), -1.0, 1.0, 99.0) == pytest.approx((-0.98, 0.98))
    apart = np.array([1.0, *[0.0] * 97, 1e6, 1e6])  # one value in two million far below the others
    assert percentile_range(apart, 0.0, 100.0, 99.99)[0] == pytest.approx(98.0, abs=0.01)
    assert percentile_range(apart, 0.0, 100.0, 100.0) == (0.0, 100.0)
    # a share that ends exactly where nothing stands takes no part of the gap
    assert percentile_range(np.array([1.0, 0, 0, 3]), 0.0, 4.0, 75.0)[0] == 3.0
    assert percentile_range(np.array([3.0, 0, 0, 1]), 0.0, 4.0, 75.0)[1] == 1.0


def error_of(ends: tuple[float, float], counts: np.ndarray, full: tuple[float, float], levels: int) -> float:
    """The squared error of rounding a histogram's middles, by torch."""
    edges = np.linspace(*full, len(counts) + 1)
    middles = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
    scale, zero = grid(*ends, levels)
    rounded = torch.fake_quantize_per_tensor_affine(middles.float(), scale, zero, 0, levels - 1).double()
    return float(torch.from_numpy(counts) @ (middles - rounded) ** 2)


@given(
    st.lists(st.integers(0, 1000), min_size=2, max_size=40).filter(any),
    st.floats(-5, 4),
    st.floats(0.1, 5),
    st.sampled_from([4, 16, 256]),
)
def test_the_least_squares_range_is_never_worse_than_the_full_one(counts, low, width, levels):
    full, weights = (low, low + width), np.array(counts, float)
    found = least_squares_range(weights, *full, levels)
    assert min(low, 0) - 1e-9 <= min(found[0], 0) <= max(found[1], 0) <= max(low + width, 0) + 1e-9
    worst = error_of(full, weights, full, levels)
    assert error_of(found, weights, full, levels) <= worst * (1 + 1e-4) + 1e-6 * weights.sum() * width**2


@pytest.mark.parametrize("levels", [8, 16])
@pytest.mark.parametrize("shape", ["normal", "laplace", "heavy", "rectified", "skewed"])
def test_the_least_squares_range_is_as_good_as_a_search_of_all_pairs(shape, levels):
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.normal(size=3000),
        "laplace": rng.laplace(size=3000),
        "heavy": rng.standard_t(3, size=3000),
        "rectified": np.maximum(rng.laplace(size=3000), 0),
        "skewed": rng.gamma(1, size=3000) - 0.5,
    }[shape]
    counts, edges = np.histogram(values, 96)
    weights, full = counts.astype(float), (float(edges[0]), float(edges[-1]))
    shares = np.linspace(0.2, 1, 41)
    pairs = [(full[0] * a, full[1] * b) for a in shares for b in shares]
    best = min(error_of(pair, weights, full, levels) for pair in pairs)
    found = error_of(least_squares_range(weights, *full, levels), weights, full, levels)
    assert found <= best * 1.01
    assert found < 0.9 * error_of(full, weights, full, levels)


def quantiser(low: float, high: float) -> ActivationFakeQuant:
    made = ActivationFakeQuant()
    made.low.fill_(low)
    made.high.fill_(high)
    return made


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (0.0, 0.7), (-2.0, 0.0), (-0.013, 40.0), (0.5, 2.0)])
def test_activations_round_and_pass_gradients_as_torchs_do(ends):
    made = quantiser(*ends)
    scale, zero = (each.item() for each in made.calculate_qparams())
    generator = torch.Generator().manual_seed(1)
    span = ends[1] - ends[0]
    ours = torch.empty(8, 3, 40, 40).uniform_(ends[0] - span, ends[1] + span, generator=generator)
    theirs = ours.clone().requires_grad_()
    ours.requires_grad_()
    found, wanted = made(ours), torch.fake_quantize_per_tensor_affine(theirs, scale, int(zero), 0, 255)
    steps = ours.detach() / scale
    tie = (steps - steps.floor() - 0.5).abs() < 1e-4
    assert tie.float().mean() < 0.01
    assert torch.equal(found[~tie], wanted[~tie])
    assert torch.unique(found).numel() == 256
    upstream = torch.randn(ours.shape, generator=generator)
    found.backward(upstream)
    wanted.backward(upstream)
    away = (steps + zero + 0.5).abs() > 0.6  # torch lets half a step outside of the range pass
    away &= (steps + zero - 255.5).abs() > 0.6
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad[away], theirs.grad[away])
    outside = (steps + zero < -0.6) | (steps + zero > 255.6)
    assert 0.3 < outside.float().mean() < 0.8
    assert not ours.grad[outside].any()


@pytest.mark.parametrize("bits", [8, 7, 4])
@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (5, 16)])
def test_weights_round_to_their_closed_form_and_as_torchs_do(bits, shape):
    made, limit = WeightFakeQuant(bits), 2 ** (bits - 1) - 1
    ours = torch.randn(shape, generator=torch.Generator().manual_seed(bits)).mul_(0.05)
    plain = ours.numpy().copy()
    ours.requires_grad_()
    found = made(ours)
    scale = (np.abs(plain.reshape(len(plain), -1)).max(1) / np.float32(limit)).astype(np.float32)
    wide = scale.reshape(-1, *[1] * (len(shape) - 1))
    assert np.array_equal(found.detach().numpy(), np.round(plain / wide) * wide)
    told, zeros = made.calculate_qparams()
    assert np.array_equal(told.numpy(), scale)
    assert not zeros.any()
    wanted = torch.fake_quantize_per_channel_affine(
        ours.detach(), told, zeros.int(), 0, made.quant_min, made.quant_max
    )
    assert torch.equal(found.detach(), wanted)
    integers = np.abs(found.detach().numpy() / wide).reshape(len(plain), -1).max(1)
    np.testing.assert_allclose(integers, limit, rtol=1e-6)
    upstream = torch.randn(shape)
    found.backward(upstream)
    assert torch.equal(ours.grad, upstream)  # none lies outside, so all pass


def test_a_channel_of_zeros_stays_zeros():
    made = WeightFakeQuant(8)
    weights = torch.stack([torch.zeros(4), torch.full((4,), 1e-30), torch.ones(4)])
    assert torch.equal(made(weights), torch.stack([torch.zeros(4), torch.zeros(4), torch.ones(4)]))


def test_rounding_that_is_off_returns_what_came():
    x = torch.randn(4, 5)
    for made in (quantiser(-0.1, 0.1), WeightFakeQuant(4)):
        made.rounds = False
        assert torch.equal(made(x), x)


def test_calibration_widens_to_the_smallest_and_the_largest_value():
    made = ActivationFakeQuant()
    made.watch, made.rounds = Watch.WIDEN, False
    batches = [torch.randn(4, 3, generator=torch.Generator().manual_seed(k)) * (k + 1) for k in range(4)]
    for batch in batches:
        assert torch.equal(made(batch), batch)
    whole = torch.cat(batches)
    assert (made.low, made.high) == (whole.min(), whole.max())


def test_training_follows_a_moving_average_of_the_batches():
    made = quantiser(-1.0, 1.0)
    made.watch = Watch.FOLLOW
    low, high = -1.0, 1.0
    for k in range(5):
        batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(k)) + 0.5
        made(batch)
        seen = batch.numpy()[::4]
        low, high = 0.95 * low + 0.05 * seen.min(), 0.95 * high + 0.05 * seen.max()
    assert (float(made.low), float(made.high)) == pytest.approx((low, high), rel=1e-5)
    made.watch = Watch.NOTHING
    made(torch.full((8, 6), 100.0))
    assert float(made.high) == pytest.approx(high, rel=1e-5)


@pytest.mark.parametrize("percent", [None, 99.0])
def test_a_counted_range_is_that_of_numpys_histogram(percent):
    made = ActivationFakeQuant()
    made.rounds = False
    batches = [torch.randn(400, generator=torch.Generator().manual_seed(k)) ** 3 for k in range(3)]
    for watch in (Watch.WIDEN, Watch.COUNT):
        made.watch = watch
        for batch in batches:
            made(batch)
    values = torch.cat(batches).numpy()
    full = float(values.min()), float(values.max())
    counts = np.histogram(values, 2048, full)[0].astype(float)
    wanted = percentile_range(counts, *full, 99.0) if percent else least_squares_range(counts, *full, 256)
    made.settle(percent)
    assert (float(made.low), float(made.high)) == pytest.approx(wanted, abs=2 * (full[1] - full[0]) / 2048)
    assert percent is None or (made.low > full[0] and made.high < full[1])
    with pytest.raises(RuntimeError, match="no histogram"):
        made.settle(percent)


@pytest.mark.parametrize("constant", [0.0, 2.5])
def test_an_activation_that_never_changes_keeps_its_range(constant):
    made = ActivationFakeQuant()
    made.rounds = False
    for watch in (Watch.WIDEN, Watch.COUNT):
        made.watch = watch
        made(torch.full((4, 2), constant))
    made.settle(99.0)
    made.rounds = True
    assert (float(made.low), float(made.high)) == (constant, constant)
    torch.testing.assert_close(made(torch.full((2,), constant)), torch.full((2,), constant))


class Shown(Fold):
    """A fold that takes note of what it showed."""

    def batch(self, picks, device):
        seen.extend(picks.tolist())
        return super().batch(picks, device)


seen: list[int] = []


@cache
def prepared() -> tuple[ResNet, FakeQuantised]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = build(TINY).eval()
        for name, parameter in net.named_parameters():
            if name.endswith("conv3.weight"):  # zeros at first
                torch.nn.init.normal_(parameter, std=0.2)
    return net, FakeQuantised(net, QuantConfig(weights_bits=2), 32)


def calibrated(counts: tuple[int, ...], seed: int = 0, **settings) -> tuple[FakeQuantised, Shown, int]:
    labels = np.random.default_rng(5).permutation(np.repeat(np.arange(4), counts))
    scans = np.random.default_rng(6).integers(0, 256, (len(labels), 32, 32)).astype(np.uint8)
    fold = Shown(scans, np.arange(len(labels)), labels)
    twin = copy.deepcopy(prepared()[1])
    seen.clear()
    return twin, fold, calibrate(twin, fold, QuantConfig(**settings), seed, iter)


@pytest.mark.parametrize(
    ("counts", "n", "wanted"),
    [
        ((40, 5, 9, 30), 20, (5, 5, 5, 5)),
        ((40, 2, 9, 30), 20, (6, 2, 6, 6)),
        ((7, 3, 2, 4), 99, (7, 3, 2, 4)),
    ],
)
def test_calibration_shows_as_many_scans_of_every_class_as_there_are(counts, n, wanted):
    _, fold, shown = calibrated(counts, calibration=n, observer="min-max")
    assert shown == len(seen) == len(set(seen)) == sum(wanted)
    assert tuple(np.bincount(fold.labels[seen], minlength=4)) == wanted


def test_the_draw_is_the_seeds_and_a_histogram_sees_the_same_scans_twice():
    draws = []
    for seed, observer in ((0, "min-max"), (0, "histogram"), (1, "min-max")):
        calibrated((9, 9, 9, 9), seed, calibration=20, observer=observer)
        draws.append(list(seen))
    assert draws[1] == draws[0] * 2
    assert set(draws[2]) != set(draws[0])


def test_ranges_are_those_of_the_float_network_whatever_other_layers_round():
    """Weights of two bits: a pass that rounded would give ranges that are far off."""
    twin, fold, _ = calibrated((4, 4, 4, 4), calibration=16, observer="min-max")
    net, found = prepared()[0], {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    scans, _ = fold.batch(np.arange(16), torch.device("cpu"))
    with torch.inference_mode():
        found["fc"] = net(scans).cam
    for hook in hooks:
        hook.remove()
    assert {layer.name for layer in twin.quantised} == set(found)
    for layer in twin.quantised:
        assert float(layer.output.high) == pytest.approx(float(found[layer.name].max()), rel=1e-4)
        rectified = float(layer.output.low) == 0
        assert rectified or float(layer.output.low) == pytest.approx(float(found[layer.name].min()), rel=1e-4)
    first = twin.activations()[0]
    assert (float(first.low), float(first.high)) == (float(scans.min()), float(scans.max()))
    assert all(each.watch is Watch.NOTHING and each.rounds for each in twin.activations())


def test_observers_that_cut_give_narrower_ranges():
    widths = []
    for settings in ({}, {"observer": "histogram"}, {"observer": "percentile", "percentile": 90.0}):
        twin, _, _ = calibrated((4, 4, 4, 4), **settings)
        widths.append([float(each.high - each.low) for each in twin.activations()])
        assert all(each.counts is None for each in twin.activations())
    full, cut, percent = np.array(widths)
    assert (cut <= full).all()
    assert (percent < 0.9 * full).all()
