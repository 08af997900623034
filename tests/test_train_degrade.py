import numpy as np
import pytest
import torch
from easy import Silent
from scipy import ndimage

from octlet.core.image import normalise
from octlet.models.resnet import build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.train import degrade as faults
from octlet.train.config import TrainConfig
from octlet.train.degrade import blocky, blurred, degrade, faded, speckled
from octlet.train.loop import fit
from octlet.train.objective import Distillation
from octlet.train.showing import Fold, generator_for
from octlet.train.state import new_state


def generator(seed: int = 0) -> torch.Generator:
    return generator_for(seed, 0, 0, 1)


def scan(side: int = 64) -> torch.Tensor:
    return torch.rand(1, side, side, generator=generator(1)) * 0.5 + 0.2


def test_about_the_share_is_degraded_and_the_rest_is_untouched():
    scans = scan(16)[None].repeat(400, 1, 1, 1) * 2 - 1
    before = scans.clone()
    out = degrade(scans, 0.5, generator())
    assert torch.equal(scans, before)
    changed = (out != scans).flatten(1).any(1)
    assert 150 < int(changed.sum()) < 250
    assert out.abs().max() <= 1
    assert torch.equal(out, degrade(scans, 0.5, generator()))
    assert not torch.equal(out, degrade(scans, 0.5, generator(1)))


def test_no_share_draws_nothing():
    """A run without it shall be what it was before there was any."""
    drawn = generator()
    scans = scan()[None]
    assert degrade(scans, 0.0, drawn) is scans
    assert torch.equal(drawn.get_state(), generator().get_state())


def test_every_fault_comes_as_often(monkeypatch: pytest.MonkeyPatch):
    levels = [0.1, 0.4, 0.6, 0.9]
    monkeypatch.setattr(faults, "FAULTS", tuple(lambda s, *_, to=to: torch.full_like(s, to) for to in levels))
    out = (degrade(torch.zeros(400, 1, 2, 2), 1.0, generator()) + 1) / 2
    counts = [int(torch.isclose(out[:, 0, 0, 0], torch.tensor(level)).sum()) for level in levels]
    assert sum(counts) == 400
    assert min(counts) > 65  # four standard deviations


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_fading_keeps_the_mean_and_shrinks_the_spread(strength: float):
    out = faded(scan(), strength, generator())
    assert out.mean().item() == pytest.approx(scan().mean().item(), abs=1e-6)
    assert (out.std() / scan().std()).item() == pytest.approx(0.15**strength, rel=1e-5)


@pytest.mark.parametrize("grain", [1, 2])
def test_speckle_is_multiplicative_in_grains(grain: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faults, "GRAINS", (grain,))
    flat = torch.full((1, 257, 257), 0.4)
    noise = speckled(flat, 0.5, generator()) / flat - 1
    assert noise.std().item() == pytest.approx(0.5 * 0.6, rel=0.05)
    first = noise[:, : 256 // grain * grain, : 256 // grain * grain]
    each = first.reshape(256 // grain, grain, 256 // grain, grain)
    assert torch.equal(each, each[:, :1, :, :1].expand_as(each))
    neighbours = np.corrcoef(noise[0, 0, :-grain:grain].numpy(), noise[0, 0, grain::grain].numpy())[0, 1]
    assert abs(neighbours) < 0.25


def test_a_round_blur_is_scipys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faults, "WIDEST_BLUR", 1e9)  # as wide as long, whatever the angle
    wanted = ndimage.gaussian_filter(scan()[0].numpy(), 2.4, mode="mirror", radius=5)
    np.testing.assert_allclose(blurred(scan(), 0.3, generator())[0].numpy(), wanted, atol=2e-3)


def test_a_long_blur_is_long_along_its_line_only():
    point = torch.zeros(1, 65, 65)
    point[0, 32, 32] = 1
    out = blurred(point, 1.0, generator())[0]
    assert out.sum().item() == pytest.approx(1, abs=1e-5)
    place = torch.arange(65.0) - 32
    moments = torch.stack(
        [
            (out * place[:, None] ** 2).sum(),
            (out * place**2).sum(),
            (out * place[:, None] * place).sum(),
        ]
    )
    covariance = torch.tensor([[moments[0], moments[2]], [moments[2], moments[1]]])
    short, long = torch.linalg.eigvalsh(covariance).sqrt().tolist()
    assert 5 < long <= 8
    assert short <= 2.1


def test_a_small_scan_can_be_blurred():
    assert blurred(scan(8), 1.0, generator()).shape == (1, 8, 8)


def test_blocks_are_means():
    out = blocky(scan(60), 0.375, generator())  # blocks of 5 pixels
    wanted = scan(60).reshape(12, 5, 12, 5).mean((1, 3))
    torch.testing.assert_close(out[0], wanted.repeat_interleave(5, 0).repeat_interleave(5, 1))


TINY = NetSpec("v1.5", 8, ((UnitSpec((8, 8), 1, False),), (UnitSpec((16, 16), 2, True),)))


def test_the_teacher_sees_the_scans_as_they_are():
    seen: dict[str, torch.Tensor] = {}
    still = dict.fromkeys(("rotate", "zoom", "shift", "brightness", "contrast", "speckle"), 0.0)
    config = TrainConfig(
        size=32, epochs=1, batch=8, amp="off", degrade=1.0, device="cpu", flip=False, **still
    )
    state = new_state(build(TINY), config, torch.device("cpu"))
    teacher = build(TINY).eval()
    for name, net in (("student", state.net), ("teacher", teacher)):
        net.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    levels = np.random.default_rng(0).integers(60, 200, (8, 32, 32), dtype=np.uint8)
    train = Fold(levels, np.arange(8), np.arange(8) % 4)
    fit(
        state,
        train,
        train.sample(0),
        config,
        torch.device("cpu"),
        Silent(stops=True),
        Distillation(teacher=teacher, half=False),
    )

    def apart(shown: torch.Tensor) -> list[float]:
        """Return how far each scan is from the nearest clean one."""
        return [float(np.abs(normalise(levels) - each.numpy()).mean((1, 2, 3)).min()) for each in shown]

    assert max(apart(seen["teacher"])) < 1e-4
    assert min(apart(seen["student"])) > 1e-4
