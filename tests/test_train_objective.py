"""What is minimised, against formulas in numpy; and what a quantisation-aware training changes on its way."""

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from octlet.compress.config import QuantConfig
from octlet.compress.quant.fakequant import Watch
from octlet.compress.quant.graph import FakeQuantised
from octlet.compress.quant.run import QatObjective
from octlet.core.errors import ModelFileError
from octlet.core.labels import LABELS
from octlet.models.resnet import Outputs, ResNet, build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.train.checkpoint import TrainedRun
from octlet.train.config import TrainConfig
from octlet.train.loop import fit
from octlet.train.objective import (
    Distillation,
    MatchedDistillation,
    Objective,
    cam_distance,
    distillation,
    map_error,
    on_one_grid,
    similarity_distance,
)
from octlet.train.prior import log_shares, shift_prior
from octlet.train.showing import Fold, Shown
from octlet.train.state import new_state

TINY = NetSpec("v2", 8, ((UnitSpec((8, 8, 8), 1, True),),))
META = {"data": {"per_class": dict(zip(LABELS, (10, 30, 20, 40), strict=True))}}
HERE = Path("run")


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> float:
    rows = log_softmax(logits.double().numpy())
    wanted = np.eye(4)[labels.numpy()] * (1 - smoothing) + smoothing / 4
    return float(-(wanted * rows).sum(1).mean())


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    ours, theirs = (log_softmax(each.double().numpy() / temperature) for each in (student, teacher))
    return float(temperature**2 * (np.exp(theirs) * (theirs - ours)).sum(1).mean())


class Answers(nn.Module):
    """A teacher that says the same of every batch, and remembers in which arithmetic it was asked."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.half = logits, False

    def forward(self, scans: torch.Tensor) -> Outputs:
        self.half = torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
        return Outputs(self.logits, self.logits, self.logits)


class Silence(nn.Module):
    def forward(self, scans: torch.Tensor) -> Outputs:
        raise AssertionError("nobody asked the teacher")


STUDENT, TEACHER, TRUTH = numbers(1, 7, 4), numbers(2, 7, 4), torch.tensor([0, 1, 2, 3, 0, 0, 2])
SHOWN = Shown(torch.zeros(7, 1, 8, 8), TRUTH, None)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_distillation_is_its_formula_and_torchs_divergence(temperature):
    found = float(distillation(STUDENT, TEACHER, temperature))
    assert found == pytest.approx(divergence(STUDENT, TEACHER, temperature), rel=1e-5)
    theirs = nn.KLDivLoss(reduction="batchmean")(
        (STUDENT / temperature).log_softmax(1), (TEACHER / temperature).softmax(1)
    )
    assert found == pytest.approx(float(theirs) * temperature**2, rel=1e-5)
    assert float(distillation(TEACHER, TEACHER + 5, temperature)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_has_the_gradient_of_its_closed_form(temperature):
    student = STUDENT.clone().requires_grad_()
    distillation(student, TEACHER, temperature).backward()
    wanted = (STUDENT / temperature).softmax(1) - (TEACHER / temperature).softmax(1)
    torch.testing.assert_close(student.grad, wanted * temperature / len(STUDENT))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_without_a_teacher_the_loss_is_cross_entropy(smoothing):
    found = Objective(smoothing).loss(Outputs(STUDENT, STUDENT, STUDENT), SHOWN)
    assert float(found) == pytest.approx(cross_entropy(STUDENT, TRUTH, smoothing), rel=1e-5)
    assert float(Distillation(smoothing).of_logits(STUDENT, SHOWN)) == float(found)


def test_the_loss_is_computed_in_float32_whatever_the_networks_arithmetic():
    halves = STUDENT.bfloat16()
    found = Objective().loss(Outputs(halves, halves, halves), SHOWN)
    assert found.dtype is torch.float32
    assert float(found) == pytest.approx(cross_entropy(halves.float(), TRUTH, 0.0), rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_teacher_has_its_weight_and_the_labels_the_rest(weight):
    teacher = Answers(TEACHER) if weight else Silence()
    found = Distillation(0.1, teacher, weight, 2.0, half=False).of_logits(STUDENT, SHOWN)
    soft, hard = divergence(STUDENT, TEACHER, 2.0), cross_entropy(STUDENT, TRUTH, 0.1)
    assert float(found) == pytest.approx(weight * soft + (1 - weight) * hard, rel=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_the_teacher_computes_in_half_precision_only_where_that_was_asked_for(half):
    teacher = Answers(TEACHER)
    Distillation(0.0, teacher, 0.5, 2.0, half=half).of_logits(STUDENT, SHOWN)
    assert teacher.half is half


def unit(row: np.ndarray) -> np.ndarray:
    result: np.ndarray = row / np.sqrt((row**2).sum())
    return result


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The mean over scans and classes of the squared distance of unit maps, one at a time."""
    ours, theirs = one.double().numpy(), other.double().numpy()
    found = [
        ((unit(ours[n, k].ravel()) - unit(theirs[n, k].ravel())) ** 2).sum()
        for n in range(len(ours))
        for k in range(ours.shape[1])
    ]
    return float(np.mean(found))


def unlike(one: torch.Tensor, other: torch.Tensor) -> float:
    """The mean over scans of the squared distance of unit rows of similarities, one at a time."""
    pair = []
    for each in (one.double().numpy(), other.double().numpy()):
        table = [[sum(a * b) for b in each] for a in each]
        pair.append([unit(np.array(row)) for row in table])
    return float(np.mean([((a - b) ** 2).sum() for a, b in zip(*pair, strict=True)]))


MAPS, THEIRS = numbers(5, 3, 4, 6, 5), numbers(6, 3, 4, 6, 5)
WIDE, NARROW = numbers(7, 6, 12), numbers(8, 6, 5)


def test_maps_are_compared_by_where_they_look():
    assert float(cam_distance(MAPS, THEIRS)) == pytest.approx(apart(MAPS, THEIRS), rel=1e-5)
    sure = torch.tensor([0.1, 1, 5, 80])[:, None, None]
    assert float(cam_distance(MAPS * sure, MAPS)) == pytest.approx(0, abs=1e-6)
    assert float(cam_distance(-MAPS, MAPS)) == pytest.approx(4, rel=1e-5)


def test_maps_of_two_sizes_are_compared_on_the_smaller_grid():
    fine = numbers(9, 3, 4, 12, 15)
    coarse = fine.reshape(3, 4, 6, 2, 5, 3).mean((3, 5))
    for one, other in ((fine, THEIRS), (THEIRS, fine)):
        assert float(cam_distance(one, other)) == pytest.approx(apart(coarse, THEIRS), rel=1e-5)
    pooled, whole = on_one_grid([fine, THEIRS])
    assert whole is THEIRS
    torch.testing.assert_close(pooled.mean((2, 3)), fine.mean((2, 3)))  # the logits
    tall, wide = on_one_grid([numbers(1, 1, 4, 6, 3), numbers(2, 1, 4, 2, 9)])
    assert tall.shape == wide.shape == (1, 4, 2, 3)


def test_embeddings_of_two_widths_are_compared_by_which_scans_are_alike():
    assert float(similarity_distance(NARROW, WIDE)) == pytest.approx(unlike(NARROW, WIDE), rel=1e-5)
    turn = torch.linalg.qr(numbers(3, 12, 12))[0]
    assert float(similarity_distance(WIDE @ turn, WIDE)) == pytest.approx(0, abs=1e-6)
    n = len(WIDE)  # the paper's formula: the Frobenius norm over N squared
    tables = [torch.nn.functional.normalize(each @ each.T, dim=1) for each in (NARROW, WIDE)]
    paper = (tables[0] - tables[1]).norm() ** 2 / n**2
    assert float(similarity_distance(NARROW, WIDE)) == pytest.approx(float(paper) * n, rel=1e-5)


@pytest.mark.parametrize(("distance", "values"), [(cam_distance, MAPS), (similarity_distance, WIDE)])
def test_what_is_equal_is_not_moved_and_what_differs_is(distance, values):
    student = values.clone().requires_grad_()
    distance(student, values).backward()
    assert float(student.grad.abs().max()) < 1e-7
    other = (values + numbers(4, *values.shape)).requires_grad_()
    before = distance(other, values)
    before.backward()
    moved = other.detach() - 0.1 * other.grad / other.grad.norm()
    assert float(distance(moved, values)) < before.item()


@pytest.mark.parametrize(("distance", "values"), [(cam_distance, MAPS), (similarity_distance, WIDE)])
def test_a_network_that_says_nothing_yet_has_a_finite_gradient(distance, values):
    student = torch.zeros_like(values).requires_grad_()
    distance(student, values).backward()
    assert student.grad.isfinite().all()


class Once(nn.Module):
    def __init__(self, outputs: Outputs) -> None:
        super().__init__()
        self.outputs, self.asked = outputs, 0

    def forward(self, scans: torch.Tensor) -> Outputs:
        self.asked += 1
        return self.outputs


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("match", ["maps", "cam", "features"])
def test_matching_adds_its_distance_and_asks_the_teacher_once(match, weight):
    student = Outputs(STUDENT, numbers(10, 7, 4, 6, 5), numbers(11, 7, 12))
    teacher = Once(Outputs(TEACHER, numbers(12, 7, 4, 6, 5), numbers(13, 7, 5)))
    objective = MatchedDistillation(0.1, teacher, weight, 2.0, False, match, 3.0)
    found = float(objective.loss(student, SHOWN))
    hard, soft = cross_entropy(STUDENT, TRUTH, 0.1), divergence(STUDENT, TEACHER, 2.0)
    told = teacher.outputs
    added = {
        "maps": float(((student.cam - told.cam) ** 2).mean() / told.cam.var((0, 2, 3), correction=0).mean()),
        "cam": apart(student.cam, told.cam),
        "features": unlike(student.embedding, told.embedding),
    }[match]
    assert found == pytest.approx(weight * soft + (1 - weight) * hard + 3 * added, rel=1e-5)
    assert teacher.asked == 1


def test_matching_is_computed_in_float32_whatever_the_networks_arithmetic():
    halves = Outputs(STUDENT.bfloat16(), numbers(10, 7, 4, 6, 5).bfloat16(), numbers(11, 7, 12).bfloat16())
    wholes = Outputs(*(each.float() for each in halves))
    found = [
        MatchedDistillation(0.0, Once(Outputs(*teacher)), 0.5, 2.0, False, "cam", 1.0).loss(student, SHOWN)
        for student in (halves, wholes)
        for teacher in (map(torch.neg, halves), map(torch.neg, wholes))
    ]
    assert {each.dtype for each in found} == {torch.float32}
    assert len({float(each) for each in found}) == 1


def test_log_shares_are_those_of_the_training_scans():
    np.testing.assert_allclose(log_shares(META, HERE).numpy(), np.log([0.1, 0.3, 0.2, 0.4]), rtol=1e-6)
    for bad in ({}, {"data": {"per_class": {"CNV": 3}}}):
        with pytest.raises(ModelFileError, match="every class"):
            log_shares(bad, HERE)


@cache
def tiny() -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return build(TINY).eval()


def test_a_shifted_network_starts_from_the_loss_of_the_unshifted_one():
    """Or training would undo the shift at once."""
    scans, labels = numbers(5, 8, 1, 32, 32) / 9, torch.arange(8) % 4
    trained = TrainedRun(copy.deepcopy(tiny()), copy.deepcopy(META))
    shift_prior(trained, 0.7, HERE)
    assert trained.meta["prior_shift"] == 0.7
    with torch.no_grad():
        plain, shifted = tiny()(scans), trained.net(scans)
    assert float((plain.logits - shifted.logits).abs().max()) > 0.5
    settings = {"label_smoothing": 0.1, "teacher": tiny(), "weight": 0.5, "temperature": 2.0, "half": False}
    offset = 0.7 * log_shares(META, HERE)
    wanted = Distillation(**settings).loss(plain, Shown(scans, labels, None))
    found = QatObjective(**settings, offset=offset).loss(shifted, Shown(scans, labels, None))
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    assert float(QatObjective(**settings).loss(shifted, Shown(scans, labels, None))) > 1.02 * float(wanted)


def test_the_error_of_a_map_is_the_share_of_its_variance_that_is_missed():
    maps, wanted = numbers(6, 3, 4, 2, 5), numbers(7, 3, 4, 2, 5)
    theirs = wanted.double().numpy().transpose(1, 0, 2, 3).reshape(4, -1)
    ours = maps.double().numpy().transpose(1, 0, 2, 3).reshape(4, -1)
    expected = ((ours - theirs) ** 2).mean() / ((theirs - theirs.mean(1, keepdims=True)) ** 2).mean()
    assert float(map_error(maps, wanted)) == pytest.approx(expected, rel=1e-5)
    # a constant answer misses all of it
    constant = wanted.mean((0, 2, 3), keepdim=True).expand_as(wanted)
    assert float(map_error(constant, wanted)) == pytest.approx(1, rel=1e-5)


def test_rounding_is_trained_on_maps_too_and_a_shift_is_none_of_their_error():
    scans, labels = numbers(5, 8, 1, 32, 32) / 9, torch.arange(8) % 4
    shown = Shown(scans, labels, None)
    trained = TrainedRun(copy.deepcopy(tiny()), copy.deepcopy(META))
    shift_prior(trained, 0.7, HERE)
    other = build(TINY).eval()
    settings = {"teacher": tiny(), "weight": 1.0, "half": False, "offset": 0.7 * log_shares(META, HERE)}
    plain, matched = QatObjective(**settings), QatObjective(**settings, match=3.0)
    with torch.no_grad():
        same, apart_, wanted = trained.net(scans), other(scans), tiny()(scans)
    assert float(matched.loss(same, shown)) == pytest.approx(0, abs=1e-6)
    shifted = apart_.cam + settings["offset"][:, None, None]
    expected = float(plain.loss(apart_, shown)) + 3 * float(map_error(shifted, wanted.cam))
    assert float(matched.loss(apart_, shown)) == pytest.approx(expected, rel=1e-5)
    headless = apart_._replace(cam=torch.empty(0))  # as of a network whose last layer alone is rounded
    assert float(matched.loss(headless, shown)) == float(plain.loss(headless, shown))


def test_no_shift_leaves_the_network_and_its_record_alone():
    trained = TrainedRun(copy.deepcopy(tiny()), {})
    shift_prior(trained, 0.0, HERE)
    assert torch.equal(trained.net.fc.bias, tiny().fc.bias)
    assert trained.meta == {}


def test_ranges_and_batch_norms_freeze_when_their_share_of_the_steps_is_done():
    spec = NetSpec("v1.5", 8, ((UnitSpec((8, 8), 1, False),),))
    twin = FakeQuantised(build(spec), QuantConfig(), 32)
    objective = QatObjective(freeze_observers=0.25, freeze_batch_norm=0.5)
    seen = []
    for done in (0.0, 0.2, 0.25, 0.4, 0.5, 0.9):
        objective.before_step(twin, done)
        seen.append((twin.activations()[0].watch, twin.frozen))
    follow, nothing = Watch.FOLLOW, Watch.NOTHING
    assert seen == [(follow, False)] * 2 + [(nothing, False)] * 2 + [(nothing, True)] * 2
    assert all(each.watch is nothing for each in twin.activations())
    objective.before_step(tiny(), 0.9)  # a float network has nothing to freeze


class Noting(Objective):
    def before_step(self, net, done):
        shares.append((net.training, done))


shares: list[tuple[bool, float]] = []


class Quiet:
    def step(self, done: int, total: int, loss: float) -> bool:
        return False

    def epoch(self, row: dict[str, object], *, best: bool) -> None:
        pass


def test_the_objective_is_told_before_each_step_how_much_is_done():
    config = TrainConfig(size=32, epochs=2, batch=4, lr=1e-4, amp="off")
    labels = np.arange(12) % 4
    fold = Fold(np.zeros((12, 32, 32), np.uint8), np.arange(12), labels)
    state = new_state(copy.deepcopy(tiny()), config, torch.device("cpu"))
    shares.clear()
    assert fit(state, fold, fold, config, torch.device("cpu"), Quiet(), Noting())
    assert [training for training, _ in shares] == [True] * 6
    assert [done for _, done in shares] == pytest.approx([k / 6 for k in range(6)])
