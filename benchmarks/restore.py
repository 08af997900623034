"""What `prune.restore` does to a network right after a cut, before any training: on folds' validation scans.

    OCTLET_DATA=... python benchmarks/restore.py OUT.csv 'real/finetune/fold-{k}/train'

One row for every share of the multiply-accumulates, all folds together; channels alone, cut at once.
`divergence` is the mean Kullback-Leibler divergence from the whole network's answers, nats.
"""

import os
import sys
from pathlib import Path

import numpy as np
from held_out import present_folds
from sklearn.metrics import balanced_accuracy_score

from octlet.compress.answers import answers, divergence
from octlet.compress.config import PruneConfig
from octlet.compress.prune.shrink import Shrinking
from octlet.core.files import csv_of, write_text
from octlet.models.resnet import ResNet
from octlet.train.checkpoint import load_run
from octlet.train.config import TrainConfig
from octlet.train.run import Feedback, folds_of, trained_split
from octlet.train.showing import Fold

SHARES = (0.75, 0.5, 0.25, 0.1)


def cut(run: Path, training: TrainConfig, fold: Fold, share: float, restore: bool) -> ResNet:
    net = load_run(run).net
    config = PruneConfig(to_macs=share, steps=1, restore=restore)
    return Shrinking(config, net.spec, training, fold, iter, lambda: net).step(net, 1)


def rows_of(run: Path, root: Path) -> dict[tuple[float, str], tuple[np.ndarray, np.ndarray, float]]:
    """Return labels (n,), calls (n,) and divergence for each share, whole, plain and restored."""
    trained = load_run(run)
    training = TrainConfig(size=trained.meta["size"], amp="off")
    train, val = folds_of(training, root, trained_split(run, trained.meta), Feedback())
    whole = answers(trained.net, val)
    found = {(1.0, "whole"): (val.labels, whole.argmax(1), 0.0)}
    for share in SHARES:
        for restore in (False, True):
            said = answers(cut(run, training, train, share, restore), val)
            print(run, share, restore, round(divergence(whole, said), 3), file=sys.stderr)
            found[share, "restored" if restore else "plain"] = (
                val.labels,
                said.argmax(1),
                divergence(whole, said),
            )
    return found


def main(out: Path, pattern: str) -> None:
    root = Path(os.environ["OCTLET_DATA"])
    folds = [rows_of(Path(pattern.format(k=k)), root) for k in present_folds(pattern)]
    rows = []
    for share, way in folds[0]:
        labels, calls, far = zip(*(fold[share, way] for fold in folds), strict=True)
        score = balanced_accuracy_score(np.concatenate(labels), np.concatenate(calls))
        rows.append(
            {
                "macs_share": share,
                "way": way,
                "scans": sum(map(len, labels)),
                "balanced_accuracy": f"{score:.3f}",
                "divergence": f"{np.average(far, weights=[len(each) for each in labels]):.3f}",
            }
        )
    write_text(out, csv_of(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
