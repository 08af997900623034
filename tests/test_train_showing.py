"""What an epoch shows, and what a teacher that remembers is asked of it."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from easy import Silent
from torch import nn

from octlet.core.image import normalise
from octlet.models.resnet import Outputs, ResNet, build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.train.config import TrainConfig
from octlet.train.loop import fit
from octlet.train.objective import Distillation, Objective, Remembered
from octlet.train.showing import Fold, Showing
from octlet.train.state import new_state

STILL = TrainConfig(flip=False, rotate=0, zoom=0, shift=0, brightness=0, contrast=0, speckle=0)
TINY = NetSpec("v2", 8, ((UnitSpec((8, 8, 8), 1, True),),))


@cache
def tiny() -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return build(TINY).eval()


class Watched(Objective):
    """Keeps the scans that the network is shown."""

    def loss(self, outputs, shown):
        seen.extend(scan.numpy().tobytes() for scan in shown.scans)
        return super().loss(outputs, shown)


seen: list[bytes] = []


@pytest.mark.parametrize(("views", "expected"), [(0, 6 * 9 * 12), (3, 3 * 12)])
def test_views_come_again_whatever_the_seed(views, expected):
    seen.clear()
    rng = np.random.default_rng(0)
    scans = Fold(rng.integers(0, 256, (12, 32, 32), np.uint8), np.arange(12), np.repeat(np.arange(4), 3))
    for seed in range(6):
        config = TrainConfig(size=32, epochs=9, batch=4, amp="off", views=views, balanced=False, seed=seed)
        state = new_state(build(TINY), config, torch.device("cpu"))
        assert fit(state, scans, scans, config, torch.device("cpu"), Silent(), Watched())
    assert len(seen) == 6 * 9 * 12
    assert len(set(seen)) == expected


def noise_fold(n: int = 12) -> Fold:
    levels = np.random.default_rng(0).integers(60, 200, (n, 32, 32), np.uint8)
    return Fold(levels, np.arange(n), np.arange(n) % 4)


@pytest.mark.parametrize("views", [0, 3])
def test_mixed_scans_are_blends_of_two_and_so_are_their_labels(views):
    """Solved for: with nothing else changed, a blend's share of a scan is its share of that one's label."""
    scans = noise_fold(4)
    config = replace(STILL, mixup=0.5, views=views, batch=4, balanced=False)
    plain = torch.from_numpy(normalise(scans.scans)).flatten(1)
    mixed = 0
    for epoch in range(30):
        showing = Showing(scans, config, epoch, torch.device("cpu"))
        shown = showing.step(0, showing.generator(0))
        shares = torch.linalg.lstsq(plain.T, shown.scans.flatten(1).T).solution.T
        torch.testing.assert_close(shares, shown.labels, atol=1e-4, rtol=0)
        torch.testing.assert_close(shown.labels.sum(1), torch.ones(4))
        assert (shown.labels > 1e-6).sum(1).max() <= 2
        assert shown.likeliest.tolist() == shares.argmax(1).tolist()
        mixed += int((shown.labels.max(1).values < 1).sum())
    assert 35 < mixed < 80


def test_a_version_is_the_same_by_itself_and_among_others():
    config = TrainConfig(views=4, mixup=0.5, batch=5)
    showing = Showing(noise_fold(), config, 0, torch.device("cpu"))
    keys = np.array([3, 47, 20, 20, 11])
    together = showing.versions(keys)
    assert together.keys == (3, 47, 20, 20, 11)
    for i in range(len(keys)):
        alone = showing.versions(keys[i : i + 1])
        torch.testing.assert_close(alone.scans[0], together.scans[i])
        torch.testing.assert_close(alone.labels[0], together.labels[i])
    whole = list(showing.batches(list(range(12))))
    assert [each.keys for each in whole] == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9), (10, 11, 10, 11, 10)]


class Counting(nn.Module):
    asked = 0

    def forward(self, scans: torch.Tensor) -> Outputs:
        self.asked += len(scans)
        return tiny()(scans)


@pytest.mark.parametrize("embeddings", [False, True])
def test_a_teacher_that_remembers_says_the_same_and_is_asked_only_for_what_is_new(embeddings):
    scans, teacher = torch.randn(5, 1, 32, 32), Counting()
    remembered = Remembered(teacher, embeddings=embeddings)
    assert remembered.unknown([3, 1, 3]) == [3, 1]
    with torch.no_grad():
        for picks in ([0, 1, 1], [1, 2, 0, 3], [3, 3], [4]):
            found, expected = remembered(scans[picks], tuple(picks)), tiny()(scans[picks])
            torch.testing.assert_close(found.logits, expected.logits)
            torch.testing.assert_close(found.cam, expected.cam)
            assert found.embedding.shape[1] == (expected.embedding.shape[1] if embeddings else 0)
        assert teacher.asked == 3 + 4 + 0 + 1
        remembered(scans[:2], None)  # of scans that never come again
        remembered(scans[:2], None)
    assert teacher.asked == 3 + 4 + 0 + 1 + 2 + 2
    assert remembered.unknown(range(7)) == [5, 6]


@pytest.mark.parametrize("views", [0, 2])
def test_a_teacher_that_remembers_is_asked_before_the_epoch_for_what_is_new_in_it(views):
    rng = np.random.default_rng(0)
    fold = Fold(rng.integers(0, 256, (7, 32, 32), np.uint8), np.arange(7), np.arange(7) % 4)
    config = TrainConfig(batch=3, views=views, amp="off", balanced=False)
    teacher = Counting()
    remembered = Remembered(teacher)
    objective = Distillation(0.0, remembered, 1.0, 1.0, half=False)
    new = []
    for epoch in range(9):
        showing = Showing(fold, config, epoch, torch.device("cpu"))
        new.append(len(remembered.unknown(showing.keys.tolist() if views else [])))
        before = teacher.asked
        parts = len(list(objective.meet(showing)))
        assert parts == -(-new[-1] // 3)
        assert teacher.asked - before == parts * 3  # full batches, whatever is new
    assert new[0] == (7 if views else 0)
    assert sum(new) == 7 * views
    asked = teacher.asked
    for step in range(3 if views else 0):
        shown = Showing(fold, config, 0, torch.device("cpu")).step(step, torch.Generator())
        torch.testing.assert_close(objective.ask(remembered, shown).logits, tiny()(shown.scans).logits)
    assert teacher.asked == asked
