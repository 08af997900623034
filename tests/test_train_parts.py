import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from easy import Silent

from octlet.core.errors import InputError, ModelFileError, UsageError
from octlet.core.image import normalise
from octlet.models.resnet import build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.train.augment import augment
from octlet.train.checkpoint import BEST, load_run, read_tensors, save_run, write_tensors
from octlet.train.config import TrainConfig
from octlet.train.loop import fit, validate
from octlet.train.objective import Objective
from octlet.train.schedule import one_cycle
from octlet.train.showing import Fold, epoch_order, generator_for, steps_per_epoch
from octlet.train.state import Progress, layout_of, make_optimizer, new_state

STILL = TrainConfig(flip=False, rotate=0, zoom=0, shift=0, brightness=0, contrast=0, speckle=0)
TINY = NetSpec("v1.5", 8, ((UnitSpec((8, 8), 1, False),), (UnitSpec((16, 16), 2, True),)))


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.3), (37, 0.1), (12, 0.5)])
def test_one_cycle_is_torchs(total, warmup):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.02, total_steps=total, pct_start=warmup, cycle_momentum=False
    )
    for step in range(total):
        assert math.isclose(
            one_cycle(step, total, 0.02, warmup), optimizer.param_groups[0]["lr"], rel_tol=1e-9
        )
        optimizer.step()
        theirs.step()


def test_a_warm_up_of_one_step_begins_at_the_peak():
    rates = [one_cycle(step, 10, 0.02, 0.1) for step in range(10)]
    assert rates[0] == 0.02
    assert rates == sorted(rates, reverse=True)
    assert math.isclose(rates[-1], 0.02 / 25 / 1e4)


def batch() -> torch.Tensor:
    return torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8


def generator(seed: int = 0) -> torch.Generator:
    return generator_for(seed, 0, 0, 1)


def test_no_augmentation_changes_nothing():
    torch.testing.assert_close(augment(batch(), STILL, generator()), batch(), atol=1e-5, rtol=0)


def test_a_flip_mirrors_half_of_the_scans():
    scans = batch()
    out = augment(scans, replace(STILL, flip=True), generator())
    kept = [torch.allclose(a, b, atol=1e-4) for a, b in zip(out, scans, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in zip(out, scans, strict=True)]
    assert all(k != m for k, m in zip(kept, mirrored, strict=True))
    assert any(kept)
    assert any(mirrored)


def test_a_turn_is_a_turn_without_shear():
    """A smooth disc off the centre keeps its distance from the centre."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 65), torch.linspace(-1, 1, 65), indexing="ij")
    disc = torch.exp(-((x - 0.4) ** 2 + y**2) / 0.02)[None, None].repeat(8, 1, 1, 1) * 2 - 1
    out = (augment(disc, replace(STILL, rotate=90.0), generator()) + 1) / 2
    mass = out.sum((1, 2, 3))
    across, down = (out * x).sum((1, 2, 3)) / mass, (out * y).sum((1, 2, 3)) / mass
    torch.testing.assert_close(torch.hypot(across, down), torch.full((8,), 0.4), atol=0.01, rtol=0)
    assert down.abs().max() > 0.2


def test_scans_move_both_ways_by_up_to_the_share_of_the_side():
    spot = torch.full((300, 1, 64, 64), -1.0)
    spot[:, :, 31:33, 31:33] = 1.0
    mass = augment(spot, replace(STILL, shift=0.25), generator()) + 1
    place = torch.arange(64.0) - 31.5
    for axis in (2, 3):
        where = (mass.sum((1, 5 - axis)) * place).sum(1) / mass.sum((1, 2, 3))
        assert 15 < where.abs().max() <= 16.01
        assert where.abs().mean() == pytest.approx(8, rel=0.1)


def test_brightness_and_contrast_keep_to_their_bounds():
    scans = batch()
    level = (scans + 1) / 2
    bright = (augment(scans, replace(STILL, brightness=0.1), generator()) + 1) / 2
    ratios = bright.mean((1, 2, 3)) / level.mean((1, 2, 3))
    assert ratios.max() <= 1.1 + 1e-4
    assert ratios.min() >= 0.9 - 1e-4
    assert ratios.std() > 0.01
    flat = (augment(scans, replace(STILL, contrast=0.1), generator()) + 1) / 2
    torch.testing.assert_close(flat.mean((1, 2, 3)), level.mean((1, 2, 3)), atol=1e-3, rtol=0)


def test_speckle_is_multiplicative():
    dark, light = torch.full((1, 1, 64, 64), -0.8), torch.full((1, 1, 64, 64), 0.0)
    config = replace(STILL, speckle=0.1)
    spread = [(augment(scan, config, generator()) + 1).std().item() for scan in (dark, light)]
    assert spread[1] / spread[0] == pytest.approx(1.0 / 0.2, rel=0.05)
    many = augment(torch.full((200, 1, 64, 64), 0.0), config, generator()) + 1
    strengths = many.flatten(1).std(1)
    assert strengths.max() <= 0.105  # of a level of 1
    assert strengths.mean() == pytest.approx(0.05, rel=0.1)


def test_the_same_generator_gives_the_same_scans_in_range():
    config = TrainConfig(speckle=0.5)
    one, same, other = (augment(batch(), config, generator(s)) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.abs().max() <= 1


def fold(counts: tuple[int, ...]) -> Fold:
    labels = np.repeat(np.arange(4), counts)
    return Fold(np.zeros((len(labels), 32, 32), np.uint8), np.arange(len(labels)), labels)


def test_balanced_epochs_draw_every_class_alike():
    scans = fold((500, 40, 40, 420))
    drawn = np.bincount(scans.labels[epoch_order(scans, TrainConfig(balanced=True), 0)], minlength=4)
    assert drawn.sum() == 1000
    assert np.abs(drawn - 250).max() < 60  # four standard deviations


def test_plain_epochs_show_each_scan_once_in_a_new_order():
    scans = fold((5, 5, 5, 5))
    config = TrainConfig(balanced=False)
    first, second = epoch_order(scans, config, 0), epoch_order(scans, config, 1)
    assert sorted(first) == sorted(second) == list(range(20))
    assert list(first) != list(second)
    assert list(first) == list(epoch_order(scans, config, 0))


def test_a_last_batch_of_one_is_left_out():
    assert [steps_per_epoch(fold((n, 0, 0, 0)), TrainConfig(batch=4)) for n in (8, 9, 10)] == [2, 2, 3]


def test_the_optimiser_decays_kernels_only_and_speeds_up_the_head():
    net = build(TINY)
    groups = make_optimizer(net, TrainConfig(lr=1e-3, head_lr=1e-2)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0, 0.01]
    assert [g["share"] for g in groups] == pytest.approx([1, 1, 10])
    assert all(p.ndim == 4 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))


def test_a_saved_run_rebuilds_bit_equal(tmp_path):
    net = build(TINY)
    net(torch.randn(4, 1, 32, 32))
    save_run(tmp_path, net, {"spec": TINY.as_dict(), "size": 32})
    again = load_run(tmp_path)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(again.net(x).logits, net.eval()(x).logits)
    assert again.meta["size"] == 32


def test_damaged_checkpoints_are_named(tmp_path):
    with pytest.raises(InputError, match="no such run"):
        load_run(tmp_path / "none")
    with pytest.raises(ModelFileError, match="no such checkpoint"):
        load_run(tmp_path)
    save_run(tmp_path, build(TINY), {"spec": TINY.as_dict()})
    whole = (tmp_path / BEST).read_bytes()
    (tmp_path / BEST).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match="damaged"):
        load_run(tmp_path)
    other = replace(TINY, stem=16)
    save_run(tmp_path, build(TINY), {"spec": other.as_dict()})
    with pytest.raises(ModelFileError, match="do not fit"):
        load_run(tmp_path)


def test_foreign_safetensors_are_not_taken_for_checkpoints(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="not an Octlet checkpoint"):
        read_tensors(tmp_path / "x.safetensors")


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    t = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "x.safetensors", {"a": t, "b": t.T}, {})
    tensors, _ = read_tensors(tmp_path / "x.safetensors")
    assert torch.equal(tensors["a"], tensors["b"].T)


def test_a_state_survives_the_disk(tmp_path):
    config = TrainConfig(ema=0.9, lr=0.01)
    state = new_state(build(TINY), config, torch.device("cpu"))
    for _ in range(2):
        state.net(torch.randn(4, 1, 32, 32)).logits.square().sum().backward()
        state.optimizer.step()
        assert state.average is not None
        state.average.update_parameters(state.net)
    state.progress.epoch = 3
    state.save(tmp_path / "s.safetensors", {"lr": 0.01})
    other = new_state(build(TINY), config, torch.device("cpu"))
    other.load(tmp_path / "s.safetensors")
    assert other.progress == state.progress
    for key, value in state.judged.state_dict().items():
        assert torch.equal(value, other.judged.state_dict()[key])
    ours, theirs = state.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert all(torch.equal(v, theirs[i][k]) for i, slots in ours.items() for k, v in slots.items())


def test_channels_are_last_but_where_that_is_not_safe():
    """The gradient of a projection of six channels, with a stride, was written past its memory with AVX2."""
    torch.manual_seed(0)
    narrow, wide = (build(NetSpec("v1.5", n, ((UnitSpec((8, 8), 2, True),),))) for n in (6, 16))
    assert layout_of(wide) == torch.channels_last
    assert layout_of(narrow) == torch.contiguous_format
    exact = copy.deepcopy(narrow).double()
    state = new_state(narrow, TrainConfig(), torch.device("cpu"))
    scans = torch.randn(8, 1, 32, 32)
    for net, seen in ((exact, scans.double()), (state.net, scans)):
        net(seen).logits.square().sum().backward()
    wanted = dict(exact.named_parameters())
    for name, parameter in state.net.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), wanted[name].grad, rtol=1e-3, atol=1e-3)


def test_patience_stops_a_run_that_no_longer_gets_better():
    """With next to no learning rate and no batch norm nothing moves, so the first epoch stays the best."""
    frozen = NetSpec("v2", 8, ((UnitSpec((8, 8, 8), 1, True),),))
    config = TrainConfig(
        size=32, epochs=9, patience=2, lr=1e-9, batch=4, monitor="balanced_accuracy", amp="off"
    )
    state = new_state(build(frozen), config, torch.device("cpu"))
    scans = fold((3, 3, 3, 3))
    assert fit(state, scans, scans, config, torch.device("cpu"), Silent(), Objective())
    assert state.progress.best_epoch == 0
    assert len(state.progress.history) == 3


def test_validation_figures_are_scikit_learns():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

    config = TrainConfig(batch=5, amp="off")
    scans = np.random.default_rng(0).integers(0, 256, (12, 32, 32)).astype(np.uint8)
    labels = np.repeat(np.arange(4), (6, 3, 2, 1))
    some = Fold(scans, np.arange(12), labels)
    net = build(TINY).eval()
    found = validate(net, some, config, torch.device("cpu"))
    with torch.inference_mode():
        p = net(torch.from_numpy(normalise(scans))).logits.double().softmax(1).numpy()
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, p.argmax(1)))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, p.argmax(1)))
    assert found["loss"] == pytest.approx(log_loss(labels, p, labels=range(4)), rel=1e-5)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 1}, {"label_smoothing": 1.0}, {"lr": 0.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_the_best_epoch_is_the_first_of_the_lowest_scores_and_the_last_is_the_last():
    progress = Progress()
    assert [progress.close_epoch({}, score) for score in (3.0, 1.0, 2.0, 1.0)] == [True, True, False, False]
    assert progress.kept("best") == 1
    assert progress.kept("last") == 3
