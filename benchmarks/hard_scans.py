"""Which scans does every network get wrong? Of networks that had not seen these scans' patients.

    python benchmarks/hard_scans.py OUT NAME=PREDICTIONS.csv NAME=PREDICTIONS.csv ...

Each file holds the same scans. OUT.csv has a row for each scan that any network calls otherwise than its
label says; OUT.png counts scans by how many do. Prints what all agree on, and what the mean of their
probabilities gives.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ensembles import mean
from numpy.typing import NDArray

from octlet.core.files import csv_of, write_bytes, write_text
from octlet.core.labels import LABELS, index_of
from octlet.evaluate import metrics
from octlet.evaluate.figures import LIGHT, canvas, encoded, recolour
from octlet.evaluate.paired import matched
from octlet.evaluate.predictions import Predictions, read_predictions
from octlet.evaluate.summary import summarise

NORMAL = index_of("NORMAL")


def main(out: Path, files: Mapping[str, Path]) -> None:
    first, *_ = files
    one = read_predictions(files[first])
    known = {name: matched(one, read_predictions(file), (first, name)) for name, file in files.items()}
    said, together = list(known.values()), mean(known, tuple(known))
    write_text(out.with_suffix(".csv"), csv_of(rows_of(said, together)))
    wrong = np.sum([each.predicted != one.labels for each in said], axis=0)
    write_bytes(out.with_suffix(".png"), drawn(one.labels, wrong, len(said)))
    print("\n".join(told(said, together, wrong)))


def rows_of(said: Sequence[Predictions], together: Predictions) -> list[dict[str, object]]:
    """Return the scans that some network gets wrong, those that most do first.

    Each has how many do, how many call it NORMAL, the class that most say and the mean probabilities.
    """
    calls = np.array([each.predicted for each in said])
    rows: list[dict[str, object]] = []
    for k, (path, label) in enumerate(zip(together.paths, together.labels, strict=True)):
        counts = np.bincount(calls[:, k], minlength=len(LABELS))
        wrong = len(said) - counts[label]
        if wrong:
            row = {"path": path, "label": LABELS[label], "networks": len(said), "wrong": wrong}
            row |= {"called_normal": counts[NORMAL], "most_called": LABELS[counts.argmax()]}
            rows.append(
                row
                | {f"p_{name}": f"{p:.3f}" for name, p in zip(LABELS, together.probabilities[k], strict=True)}
            )
    return sorted(rows, key=lambda row: (-int(str(row["wrong"])), str(row["path"])))


def told(said: Sequence[Predictions], together: Predictions, wrong: NDArray[np.int64]) -> list[str]:
    n, figures = len(said), summarise(together)
    missed = np.array([each.predicted == NORMAL for each in said]) & metrics.URGENT[together.labels]
    accuracy, balanced, auc = (
        figures[key]["value"] for key in ("accuracy", "balanced_accuracy", "macro_auc")
    )
    best = max(float((each.predicted == each.labels).mean()) for each in said)
    fewest = missed.sum(1).min()
    most, every = (wrong >= 0.9 * n).sum(), (wrong == n).sum()
    return [
        f"{n} networks, {len(together)} scans; called wrong by none: {(wrong == 0).sum()}",
        f"by at least nine of ten: {most}; by all: {every}",
        f"urgent called NORMAL by all: {missed.all(0).sum()}; by the network with the fewest: {fewest}",
        f"best accuracy of one: {best:.1%}",
        f"probabilities averaged: accuracy {accuracy:.1%}, balanced {balanced:.1%}, macro AUC {auc:.3f}, "
        f"urgent called NORMAL {figures['urgent_called_normal']}",
    ]


def drawn(labels: NDArray[np.int64], wrong: NDArray[np.int64], n: int) -> bytes:
    """Draw how many scans are called wrong by 1, 2, ... all n networks, by label."""
    figure = canvas(7.2, 3.8, LIGHT)
    axes = figure.subplots()
    below = np.zeros(n + 1, np.int64)
    for k, (label, colour) in enumerate(zip(LABELS, LIGHT.classes, strict=True)):
        counts = np.bincount(wrong[labels == k], minlength=n + 1)
        axes.bar(range(1, n + 1), counts[1:], bottom=below[1:], color=colour, width=0.8, label=label)
        below += counts
    axes.set_xlabel(f"networks of {n} that call the scan otherwise than its label ({below[0]} scans: none)")
    axes.set_ylabel("scans")
    axes.set_xticks(range(1, n + 1, max(1, n // 7)))
    axes.set_xlim(0.3, n + 0.7)
    recolour(axes.legend(frameon=False, fontsize=9).get_texts(), LIGHT)
    return encoded(figure)


if __name__ == "__main__":
    pairs = dict(word.split("=", 1) for word in sys.argv[2:])
    main(Path(sys.argv[1]), {name: Path(file) for name, file in pairs.items()})
