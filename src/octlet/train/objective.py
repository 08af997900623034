"""What a training minimises, and what it changes on its way."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octlet.models.resnet import Outputs


@dataclass(frozen=True)
class Objective:
    """Cross-entropy with label smoothing.

    Attributes:
        label_smoothing: in 0..1 (Szegedy et al. 2016, arXiv:1512.00567).
    """

    label_smoothing: float = 0.0

    def before_step(self, net: nn.Module, done: float) -> None:
        """Change the network before a step; `done` is the share of all steps behind it, in 0..1."""

    def loss(self, outputs: Outputs, scans: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch, float32, in nats.

        Args:
            outputs: what the network said of the scans, in any arithmetic.
            scans: (N, 1, S, S), augmented.
            labels: int64 (N,).
        """
        return self.of_logits(outputs.logits.float(), scans, labels)

    def of_logits(self, logits: Tensor, scans: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of float32 logits (N, K); see `loss`."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


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

    def of_logits(self, logits: Tensor, scans: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of float32 logits (N, K); see `Objective.loss`."""
        if self.teacher is None or not self.weight:
            return super().of_logits(logits, scans, labels)
        with torch.no_grad(), torch.autocast(scans.device.type, torch.bfloat16, enabled=self.half):
            answers = self.teacher(scans).logits.float()
        soft = distillation(logits, answers, self.temperature)
        if self.weight == 1:
            return soft
        return self.weight * soft + (1 - self.weight) * super().of_logits(logits, scans, labels)
