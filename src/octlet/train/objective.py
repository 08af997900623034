"""What a training minimises, and what it changes on its way."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octlet.models.resnet import Outputs
from octlet.train.showing import Showing, Shown


@dataclass(frozen=True)
class Objective:
    """Cross-entropy with label smoothing.

    Attributes:
        label_smoothing: in 0..1 (Szegedy et al. 2016, arXiv:1512.00567).
    """

    label_smoothing: float = 0.0

    def meet(self, showing: Showing) -> Iterable[None]:
        """Do what an epoch needs before its first step, in parts between which it may be stopped."""
        return ()

    def before_step(self, net: nn.Module, done: float) -> None:
        """Change the network before a step; `done` is the share of all steps behind it, in 0..1."""

    def loss(self, outputs: Outputs, shown: Shown) -> Tensor:
        """Return the mean loss of a batch, float32, in nats.

        Args:
            outputs: what the network said of the scans, in any arithmetic.
            shown: the scans, augmented, and their labels.
        """
        return self.of_logits(outputs.logits.float(), shown)

    def of_logits(self, logits: Tensor, shown: Shown) -> Tensor:
        """Return the loss of float32 logits (N, K); see `loss`."""
        return F.cross_entropy(logits, shown.labels, label_smoothing=self.label_smoothing)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean KL divergence of a student's softened answers from a teacher's, in nats.

    Both are divided by the temperature before the softmax, and the loss is multiplied by its square, so that
    its gradients keep their size (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2).

    Args:
        logits: the student's, float32 (N, K).
        teacher: the teacher's, float32 (N, K).
        temperature: above 0.
    """
    student = F.log_softmax(logits / temperature, 1)
    target = F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(student, target, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Distillation(Objective):
    """Cross-entropy and the answers of a teacher, weighted.

    Attributes:
        teacher: maps the same scans to `Outputs`; in eval mode, on the device of the training.
        weight: of the teacher's answers, in 0..1; the labels have the rest.
        temperature: see `distillation`.
        half: let the teacher compute in bfloat16.
    """

    teacher: nn.Module | None = None
    weight: float = 0.5
    temperature: float = 2.0
    half: bool = True

    def meet(self, showing: Showing) -> Iterator[None]:
        """Ask a teacher that remembers for what it does not know yet, in full batches."""
        if not isinstance(self.teacher, Remembered) or showing.keys is None:
            return
        for shown in showing.batches(self.teacher.unknown(showing.keys.tolist())):
            self.ask(self.teacher, shown)
            yield

    def of_logits(self, logits: Tensor, shown: Shown) -> Tensor:
        """Return the loss of float32 logits (N, K); see `Objective.loss`."""
        if self.teacher is None or not self.weight:
            return super().of_logits(logits, shown)
        return self.blend(logits, self.ask(self.teacher, shown).logits, shown)

    def ask(self, teacher: nn.Module, shown: Shown) -> Outputs:
        """Return what a teacher says of scans: float32, without a gradient."""
        scans = shown.scans.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast(scans.device.type, torch.bfloat16, enabled=self.half):
            answers = teacher(scans, shown.keys) if isinstance(teacher, Remembered) else teacher(scans)
        return Outputs(*(each.float() for each in answers))

    def blend(self, logits: Tensor, answers: Tensor, shown: Shown) -> Tensor:
        """Return the weighted loss of float32 logits (N, K) against a teacher's (N, K) and the labels."""
        if not self.weight:
            return super().of_logits(logits, shown)
        soft = distillation(logits, answers, self.temperature)
        if self.weight == 1:
            return soft
        return self.weight * soft + (1 - self.weight) * super().of_logits(logits, shown)


class Remembered(nn.Module):
    """A teacher whose answers are kept for each version of a scan, told apart by `Shown.keys`.

    It pays where the same augmented versions come again, see `TrainConfig.views` (Shen and Xing 2022,
    arXiv:2112.01528: answers that are kept instead of computed again for each epoch). Embeddings, thousands
    of numbers a scan, are left empty unless they are asked for.
    """

    def __init__(self, teacher: nn.Module, *, embeddings: bool = False) -> None:
        super().__init__()
        self.teacher, self.embeddings = teacher, embeddings
        self._known: dict[int, tuple[Tensor, ...]] = {}

    def unknown(self, keys: Iterable[int]) -> list[int]:
        """Return those of some keys that it was not asked for yet, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self._known]

    def forward(self, scans: Tensor, keys: tuple[int, ...] | None = None) -> Outputs:
        """Map scans (N, 1, S, S) to `Outputs`; scans that are never shown again have no keys.

        Where any of them is new the teacher is asked for all: batches of one size are planned only once.
        """
        if keys is None:
            return Outputs(*self.teacher(scans))
        if self.unknown(keys):
            answers = self.teacher(scans)
            if not self.embeddings:
                answers = answers._replace(embedding=answers.embedding[:, :0])
            self._known |= zip(keys, zip(*answers, strict=True), strict=True)
        return Outputs(*(torch.stack(rows) for rows in zip(*(self._known[key] for key in keys), strict=True)))


def on_one_grid(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return maps (N, K, h, w) of several sizes at the smallest h and w among them, each cell a mean.

    Averages keep the mean of a map, which is its logit, exactly where sides are multiples of each other.
    """
    side = (min(each.shape[2] for each in maps), min(each.shape[3] for each in maps))
    return [each if each.shape[2:] == side else F.adaptive_avg_pool2d(each, side) for each in maps]


def cam_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared distance of class activation maps of length one, in 0..4.

    Each class's map is divided by its Euclidean length, so that where a network looks counts and how sure it
    is does not: class attention transfer (Guo et al. 2023, arXiv:2304.12777). Its maps are those
    before pooling, as ours are. They are averaged to one grid only where theirs differ.

    Args:
        student: float32 (N, K, h, w).
        teacher: float32 (N, K, h', w').
    """
    ours, theirs = (F.normalize(each.flatten(2), dim=2, eps=1e-6) for each in on_one_grid((student, teacher)))
    return (ours - theirs).square().sum(2).mean()


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared distance between rows of two batches' similarities, in 0..4.

    A batch's similarities are the products of every two of its embeddings (N, N), each row divided by its
    length: scans that are alike to the teacher shall be alike to the student. No projection is needed between
    networks of different widths (Tung and Mori 2019, arXiv:1907.09682, equations 2 to 4; they divide by N
    once more, which would make a small last batch count for more).

    Args:
        student: float32 (N, C).
        teacher: float32 (N, C').
    """
    ours, theirs = (F.normalize(each @ each.T, dim=1, eps=1e-6) for each in (student, teacher))
    return (ours - theirs).square().sum(1).mean()


def map_error(maps: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared error of class activation maps (N, K, h, w) as a share of the variance of `wanted`.

    A map tells at every place what its mean, the logit, tells once: with few scans, of which most are far
    from any border between classes, it is much the richer target.
    """
    return (maps - wanted).square().mean() / wanted.var(dim=(0, 2, 3), correction=0).mean()


@dataclass(frozen=True)
class MatchedDistillation(Distillation):
    """Distillation that also draws the student's maps or embeddings to the teacher's.

    Attributes:
        match: "maps" adds `map_error`, "cam" `cam_distance`, "features" `similarity_distance`.
        match_weight: what it is multiplied by, from 0.
    """

    match: Literal["maps", "cam", "features"] = "cam"
    match_weight: float = 1.0

    def loss(self, outputs: Outputs, shown: Shown) -> Tensor:
        """Return the mean loss of a batch, float32; see `Objective.loss`."""
        if self.teacher is None:
            return super().loss(outputs, shown)
        answers = self.ask(self.teacher, shown)
        answered = self.blend(outputs.logits.float(), answers.logits, shown)
        return answered + self.match_weight * self._apart(outputs, answers)

    def _apart(self, outputs: Outputs, answers: Outputs) -> Tensor:
        if self.match == "maps":
            return map_error(*on_one_grid((outputs.cam.float(), answers.cam)))
        if self.match == "cam":
            return cam_distance(outputs.cam.float(), answers.cam)
        return similarity_distance(outputs.embedding.float(), answers.embedding)
