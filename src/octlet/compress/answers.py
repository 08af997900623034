"""What a network says of scans, and how far another is from saying the same."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from octlet.models.resnet import Outputs
from octlet.train.config import TrainConfig
from octlet.train.loop import validate
from octlet.train.run import device_of
from octlet.train.showing import Fold

BATCH = 16


def answers(net: nn.Module, fold: Fold) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities, float64 (N, K), that a network on the CPU gives a fold."""
    rows = []
    net.eval()
    with torch.inference_mode():
        for first in range(0, len(fold), BATCH):
            scans, _ = fold.batch(np.arange(first, min(first + BATCH, len(fold))), torch.device("cpu"))
            rows.append(log_probabilities(net(scans)))
    return np.concatenate(rows)


def log_probabilities(outputs: Outputs) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities, float64 (N, K), of what a network gave."""
    return outputs.logits.double().log_softmax(1).cpu().numpy()


def divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Return the mean KL divergence of `answers` (N, K) from others, nats."""
    return float((np.exp(expected) * (expected - found)).sum(1).mean())


def figures_of(net: nn.Module, fold: Fold, settings: TrainConfig) -> dict[str, float]:
    """Return the figures of `octlet.train.loop.validate` as val_NAME, computed in float32.

    Where `settings` train on a GPU, the network is measured there; it is left on the CPU.
    """
    device = device_of(settings)
    found = validate(net.to(device), fold, replace(settings, amp="off"), device)
    net.cpu()
    return {f"val_{key}": value for key, value in found.items()}
