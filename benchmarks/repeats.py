"""What a way of making a network is worth, and not one training of it: several trainings each, averaged.

    python benchmarks/repeats.py OUT.csv NAME=A.csv,B.csv,... NAME=C.csv,... ...

Each file holds what one training (of all folds) said of every scan. The first NAME is what the others are
held against. Intervals draw patients, the same for all (`octlet.evaluate.paired.compare_trainings`).
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from octlet.core.files import csv_of, write_text
from octlet.evaluate import metrics
from octlet.evaluate.paired import compare_trainings
from octlet.evaluate.predictions import Predictions, read_predictions


def main(out: Path, files: Mapping[str, Sequence[Path]]) -> None:
    known = {name: [read_predictions(file) for file in each] for name, each in files.items()}
    first, *_ = known
    write_text(out, csv_of([row_of(name, known[first], each) for name, each in known.items()]))


def row_of(name: str, references: Sequence[Predictions], models: Sequence[Predictions]) -> dict[str, object]:
    row: dict[str, object] = {"way": name, "trainings": len(models)}
    confusions = np.array([metrics.confusion_matrix(each.labels, each.predicted) for each in models])
    for key, of in (("accuracy", metrics.accuracy), ("balanced_accuracy", metrics.balanced_accuracy)):
        found = np.asarray(of(confusions))
        row |= {key: f"{found.mean():.4f}", f"{key}_least": f"{found.min():.4f}"}
        row[f"{key}_most"] = f"{found.max():.4f}"
    told = compare_trainings(references, models)
    for part, value in told["difference"]["balanced_accuracy"].items():
        row["difference" if part == "value" else f"difference_{part}"] = f"{value:.4f}"
    return row | {"not_inferior": told["not_inferior"]}


if __name__ == "__main__":
    pairs = dict(word.split("=", 1) for word in sys.argv[2:])
    main(Path(sys.argv[1]), {name: [Path(file) for file in text.split(",")] for name, text in pairs.items()})
