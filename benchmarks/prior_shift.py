"""What the prior shift of `octlet export` does on the VALIDATION scans of a cross-validation, pooled.

Each scan is scored by the network of the fold whose validation set it stands in; test scans are not read.

    OCTLET_DATA=... python benchmarks/prior_shift.py real/finetune docs/results/prior-shift.csv
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from octlet.core.files import csv_of, write_text
from octlet.core.labels import LABELS, index_of
from octlet.data.cache import prepared_scans
from octlet.data.split import read_split
from octlet.train.checkpoint import load_run
from octlet.train.config import TrainConfig
from octlet.train.loop import probabilities_of
from octlet.train.showing import Fold

SHIFTS = np.arange(0, 1.51, 0.25)


def validation(run: Path, root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels (n,), logits up to a constant (n, 4), and log shares of the training scans (4,)."""
    trained = load_run(run)
    usable = sorted(
        (r for r in read_split(run / "split.csv") if r.split != "quarantine"), key=lambda r: r.path
    )
    scans = prepared_scans(root, [(r.path, r.sha256) for r in usable], trained.meta["size"])
    rows = np.array([i for i, record in enumerate(usable) if record.split == "val"])
    fold = Fold(scans, rows, np.array([index_of(usable[i].label) for i in rows]))
    found = probabilities_of(trained.net, fold, TrainConfig(amp="off"), torch.device("cpu"))
    counts = np.array([trained.meta["data"]["per_class"][label] for label in LABELS])
    return fold.labels, np.log(found), np.log(counts / counts.sum())


def main(folds: Path, out: Path) -> None:
    root = Path(os.environ["OCTLET_DATA"])
    parts = [validation(run, root) for run in sorted(folds.glob("fold-*/train"))]
    labels = np.concatenate([part[0] for part in parts])
    weights = 1 / np.bincount(labels)[labels]
    rows = []
    for tau in SHIFTS:
        logits = np.concatenate([scores - tau * prior for _, scores, prior in parts])
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        rows.append(
            {
                "prior_shift": float(tau),
                "n": len(labels),
                "accuracy": round(accuracy_score(labels, logits.argmax(1)), 3),
                "balanced_accuracy": round(balanced_accuracy_score(labels, logits.argmax(1)), 3),
                "balanced_log_loss": round(log_loss(labels, shares, sample_weight=weights), 3),
            }
        )
        print(rows[-1])
    write_text(out, csv_of(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
