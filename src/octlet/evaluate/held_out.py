"""What a model file said of scans that it was not trained on, before any calibration, as a CSV file."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import InputError
from octlet.core.files import write_text
from octlet.core.labels import LABELS
from octlet.evaluate.predictions import check_names

COLUMNS = ("path", "label", "patient", *(f"z_{label}" for label in LABELS), "distance", "layout")


@dataclass(frozen=True)
class HeldOut:
    """Scans in a fixed order, each with its label, patient, logits and distances from the training scans.

    `labels` (n,) int64 are positions in LABELS, `logits` (n, 4) float64 are finite, `distances` (n,) float64,
    from the prototypes, and `layouts` (n,) float64, from the usual layout, are finite and not negative.
    InputError where a rule is broken or a path stands twice.
    """

    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    patients: tuple[str, ...]
    logits: NDArray[np.float64]
    distances: NDArray[np.float64]
    layouts: NDArray[np.float64]

    def __post_init__(self) -> None:
        n = len(self.paths)
        columns = (self.labels, self.distances, self.layouts)
        flat = all(each.shape == (n,) for each in columns)
        if not flat or len(self.patients) != n or self.logits.shape != (n, len(LABELS)):
            raise InputError(f"{n} paths need as many labels, patients, logits and distances of both kinds")
        check_names(self.paths, self.patients)
        finite = all(np.isfinite(each).all() for each in (self.logits, self.distances, self.layouts))
        if not finite or (self.distances < 0).any() or (self.layouts < 0).any():
            raise InputError("a logit or distance is not a finite number, or a distance is negative")


def pool(parts: Sequence[HeldOut]) -> HeldOut:
    """Put scores of different models, each of scans unseen by it, together; InputError for a scan in two."""
    return HeldOut(
        tuple(chain.from_iterable(part.paths for part in parts)),
        np.concatenate([part.labels for part in parts]),
        tuple(chain.from_iterable(part.patients for part in parts)),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.distances for part in parts]),
        np.concatenate([part.layouts for part in parts]),
    )


def write_held_out(path: Path, scores: HeldOut) -> None:
    """Write scores as CSV, numbers as the shortest decimals that read back the same."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    numbers = np.column_stack((scores.logits, scores.distances, scores.layouts)).tolist()
    for name, label, patient, row in zip(
        scores.paths, scores.labels.tolist(), scores.patients, numbers, strict=True
    ):
        writer.writerow((name, LABELS[label], patient, *map(repr, row)))
    write_text(path, text.getvalue())


def read_held_out(path: Path) -> HeldOut:
    """Read what `write_held_out` wrote; InputError, naming the file, where it is something else."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a CSV file in UTF-8"
        raise InputError(f"cannot read these scores: {reason}", path=path) from error
    if tuple(header) != COLUMNS:
        rule = f"a file of held-out scores has the columns {','.join(COLUMNS)}"
        raise InputError(rule, path=path, remedy="give one that 'octlet calibrate --scores' wrote")
    try:
        labels = np.array([LABELS.index(row[1]) for row in rows], np.int64)
        numbers = np.array([[float(word) for word in row[3:]] for row in rows]).reshape(len(rows), -1)
        columns = tuple(row[0] for row in rows), labels, tuple(row[2] for row in rows)
        return HeldOut(*columns, numbers[:, :-2], numbers[:, -2], numbers[:, -1])
    except (ValueError, IndexError) as error:
        rule = "a row needs a path, a label, a patient and six numbers"
        raise InputError(rule, path=path) from error
    except InputError as error:
        raise InputError(error.rule, path=path, remedy=error.remedy) from error
