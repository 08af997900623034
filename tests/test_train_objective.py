"""What is minimised, against formulas in numpy; and what a quantisation-aware training changes on its way."""

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from octlet.compress.config import QuantConfig
from octlet.compress.fakequant import Watch
from octlet.compress.graph import FakeQuantised
from octlet.compress.run import QatObjective
from octlet.core.errors import ModelFileError
from octlet.core.labels import LABELS
from octlet.models.resnet import Outputs, ResNet, build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.train.checkpoint import TrainedRun
from octlet.train.config import TrainConfig
from octlet.train.loop import Fold, fit
from octlet.train.objective import Distillation, Objective, distillation
from octlet.train.prior import log_shares, shift_prior
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
SCANS = torch.zeros(7, 1, 8, 8)


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
    found = Objective(smoothing).loss(Outputs(STUDENT, STUDENT, STUDENT), SCANS, TRUTH)
    assert float(found) == pytest.approx(cross_entropy(STUDENT, TRUTH, smoothing), rel=1e-5)
    assert float(Distillation(smoothing).of_logits(STUDENT, SCANS, TRUTH)) == float(found)


def test_the_loss_is_computed_in_float32_whatever_the_networks_arithmetic():
    halves = STUDENT.bfloat16()
    found = Objective().loss(Outputs(halves, halves, halves), SCANS, TRUTH)
    assert found.dtype is torch.float32
    assert float(found) == pytest.approx(cross_entropy(halves.float(), TRUTH, 0.0), rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_teacher_has_its_weight_and_the_labels_the_rest(weight):
    teacher = Answers(TEACHER) if weight else Silence()
    found = Distillation(0.1, teacher, weight, 2.0, half=False).of_logits(STUDENT, SCANS, TRUTH)
    soft, hard = divergence(STUDENT, TEACHER, 2.0), cross_entropy(STUDENT, TRUTH, 0.1)
    assert float(found) == pytest.approx(weight * soft + (1 - weight) * hard, rel=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_the_teacher_computes_in_half_precision_only_where_that_was_asked_for(half):
    teacher = Answers(TEACHER)
    Distillation(0.0, teacher, 0.5, 2.0, half=half).of_logits(STUDENT, SCANS, TRUTH)
    assert teacher.half is half


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
    wanted = Distillation(**settings).loss(plain, scans, labels)
    found = QatObjective(**settings, offset=offset).loss(shifted, scans, labels)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    assert float(QatObjective(**settings).loss(shifted, scans, labels)) > 1.02 * float(wanted)


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
    config = TrainConfig(epochs=2, batch=4, lr=1e-4, amp="off")
    labels = np.arange(12) % 4
    fold = Fold(np.zeros((12, 32, 32), np.uint8), np.arange(12), labels)
    state = new_state(copy.deepcopy(tiny()), config, torch.device("cpu"))
    shares.clear()
    assert fit(state, fold, fold, config, torch.device("cpu"), Quiet(), Noting())
    assert [training for training, _ in shares] == [True] * 6
    assert [done for _, done in shares] == pytest.approx([k / 6 for k in range(6)])
