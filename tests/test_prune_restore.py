"""A cut network's layers, brought back to what they gave before: against torch and known answers."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from test_prune_parts import PRE, fold, net_of, scans

from octlet.cli.main import main
from octlet.compress.config import PruneConfig
from octlet.compress.prune import restore
from octlet.compress.prune.shrink import Shrinking
from octlet.core.errors import UsageError
from octlet.models.resnet import ResNet
from octlet.train.config import TrainConfig


def test_what_is_measured_is_what_the_layers_give() -> None:
    net, given = net_of(PRE), scans()
    found = restore.measured(net, given)
    assert list(found) == [name for name, _ in net.named_modules() if name in restore.scaled(PRE)]
    assert len(found) == 3 * 5 + 1
    with torch.no_grad():
        x = net.layer1[0].preact(net.stem(given)).double().numpy()
    np.testing.assert_allclose(found["layer1.0.preact"].mean, x.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(found["layer1.0.preact"].std, x.std((0, 2, 3)), rtol=1e-4)


def test_scales_and_shifts_that_were_moved_are_found_again() -> None:
    net, given = net_of(PRE), scans()
    other = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in restore.scaled(PRE):
            layer = other.get_submodule(name)
            gain = torch.rand(len(layer.bias), generator=generator) * 3 + 0.3
            layer.weight.mul_(gain[:, None, None, None])
            layer.bias.mul_(gain).add_(torch.randn(len(gain), generator=generator))
    with torch.no_grad():
        assert (other(given).logits - net(given).logits).abs().max() > 0.1
        restore.bring_back(other, restore.measured(net, given), given)
        torch.testing.assert_close(other(given).logits, net(given).logits, rtol=1e-3, atol=1e-3)


def test_a_channel_that_never_moves_is_shifted_and_not_blown_up() -> None:
    net, given = net_of(PRE), scans()
    wanted = restore.measured(net, given)
    with torch.no_grad():
        net.layer1[0].conv1.weight[0] = 0
    restore.bring_back(net, wanted, given)
    found = restore.measured(net, given)["layer1.0.conv1"]
    assert found.std[0] == 0
    assert found.mean[0] == pytest.approx(float(wanted["layer1.0.conv1"].mean[0]), abs=1e-5)


def test_what_a_step_leaves_gives_what_it_gave_before() -> None:
    config = PruneConfig(to_macs=0.5, steps=1, units=0.5, round_to=2, restore=True)
    shown = fold()
    given = shown.batch(np.arange(len(shown)), torch.device("cpu"))[0]

    def cut(config: PruneConfig) -> ResNet:
        shrinking = Shrinking(config, PRE, TrainConfig(size=64, amp="off"), shown, iter, lambda: net_of(PRE))
        return shrinking.step(net_of(PRE), 1)

    before, after = restore.measured(net_of(PRE), given), cut(config)
    plain = cut(PruneConfig(to_macs=0.5, steps=1, units=0.5, round_to=2))
    assert after.spec == plain.spec
    assert sum(map(len, after.spec.stages)) == 4
    found, moved = restore.measured(after, given), restore.measured(plain, given)
    # the last norm's channels are those of the last stage; none of a random network's is idle
    kept = _kept(before["norm"], found["norm"])
    assert len(kept) == after.spec.stages[-1][-1].widths[-1]
    assert len(_kept(before["norm"], moved["norm"])) < len(kept)


def _kept(before: restore.Spread, found: restore.Spread) -> list[int]:
    """Return the channels of `before` that `found` has, in their order."""
    pairs = zip(found.mean, found.std, strict=True)
    near = [
        torch.isclose(before.mean, m, rtol=1e-2) & torch.isclose(before.std, s, rtol=1e-2) for m, s in pairs
    ]
    rows = [int(each.nonzero()[0]) for each in near if each.any()]
    return sorted(set(rows))


def test_networks_with_batch_norms_and_single_weights_have_no_use_for_it(
    easy_run: Path, easy_scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="whole channels"):
        PruneConfig(what="weights", restore=True)
    words = ["prune", str(easy_run), "--data", str(easy_scans), "--out", str(tmp_path / "cut")]
    assert main([*words, "--to-macs", "0.5", "--steps", "1", "--set", "prune.restore=true"]) == 2
    assert "has batch norms" in capsys.readouterr().err
    assert not (tmp_path / "cut").exists()
