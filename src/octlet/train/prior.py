"""Calling classes with few training scans as readily as the others."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octlet.core.errors import ModelFileError, UsageError
from octlet.core.labels import LABELS
from octlet.train.checkpoint import TrainedRun


def shift_prior(trained: TrainedRun, tau: float, run: Path) -> None:
    """Subtract tau * log(share of the class among the training scans) from the head's bias, in place.

    A class with few training scans is learned by heart and called too rarely on new ones; this lowers the
    threshold for it (post-hoc logit adjustment, Menon et al. 2021, arXiv:2007.07314, section 4.1). As a bias
    it moves logits and maps alike, so the maps' means stay the logits, and costs nothing.

    Raises ModelFileError if the run does not state scans of every class, UsageError if it is shifted already.
    """
    if not tau:
        return
    if trained.meta.get("prior_shift"):
        rule = f"its prior is already shifted, by {trained.meta['prior_shift']}"
        raise UsageError(rule, path=run, remedy="a run is shifted once")
    with torch.no_grad():
        trained.net.fc.bias.sub_(tau * log_shares(trained.meta, run))
    trained.meta["prior_shift"] = tau


def log_shares(meta: dict[str, Any], run: Path) -> Tensor:
    """Return the logarithms of the classes' shares of a run's training scans, float32 (K,).

    Raises ModelFileError if the run does not state scans of every class.
    """
    counts = [meta.get("data", {}).get("per_class", {}).get(label, 0) for label in LABELS]
    if min(counts) < 1:
        raise ModelFileError(
            "the run does not state its scans of every class", path=run, remedy="train again"
        )
    shares: Tensor = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    return shares.log().float()
