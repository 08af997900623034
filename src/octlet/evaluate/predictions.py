"""What a model said about labelled scans, as one CSV file: the only thing that evaluation reads."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import InputError
from octlet.core.files import write_text
from octlet.core.labels import LABELS

COLUMNS = ("path", "label", "patient", *(f"p_{label}" for label in LABELS))

# Wide enough for probabilities rounded to five decimals, far too narrow for logits.
SUM_TOLERANCE = 1e-4

# Line ends, NUL and lone surrogates: what a line of UTF-8 CSV cannot carry and give back unchanged.
_NOT_ONE_LINE = re.compile("[\r\n\0\ud800-\udfff]")


@dataclass(frozen=True)
class Predictions:
    """The scans of one evaluation in a fixed order, each with its label, its patient and four probabilities.

    `paths` are n unique names as the data folder or the split gives them; `labels` (n,) int64 are positions
    in `octlet.core.labels.LABELS`; `patients` are the clusters of every interval; `probabilities` (n, 4)
    float64 are in the order of LABELS and each row sums to 1 within `SUM_TOLERANCE`.

    Raises InputError where the columns differ in length or a row breaks one of these rules.
    """

    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    patients: tuple[str, ...]
    probabilities: NDArray[np.float64]

    def __post_init__(self) -> None:
        n = len(self.paths)
        if (self.labels.shape, len(self.patients), self.probabilities.shape) != ((n,), n, (n, len(LABELS))):
            raise InputError(f"{n} paths need {n} labels, {n} patients and {n} x {len(LABELS)} probabilities")
        check_names(self.paths, self.patients)
        _check_values(self.paths, self.labels, self.probabilities)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each scan, (n,) int64; a tie goes to the first in label order."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> "Predictions":
        """Return the scans at these positions, in this order."""
        return Predictions(
            tuple(self.paths[row] for row in rows),
            self.labels[rows],
            tuple(self.patients[row] for row in rows),
            self.probabilities[rows],
        )


def check_names(paths: Sequence[str], patients: Sequence[str]) -> None:
    """Raise InputError unless there are paths, none twice, and every name is one line of UTF-8."""
    if not paths:
        raise InputError("there is no scan to evaluate")
    for name in chain(paths, patients):
        if not name or _NOT_ONE_LINE.search(name):
            raise InputError(f"a path and a patient are one line of text each, not {name!r}")
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise InputError(f"{path} stands here {times} times", remedy="each scan may be counted once")


def _check_values(
    paths: tuple[str, ...], labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> None:
    sums = probabilities.sum(axis=1)
    # `not (a <= x <= b)` also catches NaN, which no comparison finds otherwise.
    rules = {
        "a label number is 0 to 3": (labels >= 0) & (labels < len(LABELS)),
        "a probability is between 0 and 1": ((probabilities >= 0) & (probabilities <= 1)).all(axis=1),
        f"the probabilities of a scan sum to 1 within {SUM_TOLERANCE}": np.abs(sums - 1) <= SUM_TOLERANCE,
    }
    for rule, kept in rules.items():
        if not kept.all():
            row = int(kept.argmin())
            values = ", ".join(map(str, probabilities[row]))
            raise InputError(f"{rule}; {paths[row]} has label {labels[row]} and {values}")


def read_predictions(path: str | Path) -> Predictions:
    """Read a file that `write_predictions` wrote, bit-equal.

    Raises InputError, naming the file, where it cannot be read or breaks a rule of `Predictions`.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a CSV file in UTF-8"
        raise InputError(f"cannot read these predictions: {reason}", path=path) from error
    if tuple(header) != COLUMNS:
        raise InputError(f"a predictions file has the columns {','.join(COLUMNS)}", path=path)
    try:
        return _from_rows(rows)
    except InputError as error:
        raise InputError(error.rule, path=path, remedy=error.remedy) from error


def _from_rows(rows: list[list[str]]) -> Predictions:
    labels = np.empty(len(rows), np.int64)
    probabilities = np.empty((len(rows), len(LABELS)))
    for number, row in enumerate(rows):
        if len(row) != len(COLUMNS):
            raise InputError(f"row {number + 1} has {len(row)} fields instead of {len(COLUMNS)}")
        try:
            labels[number] = LABELS.index(row[1])
            probabilities[number] = [float(word) for word in row[3:]]
        except ValueError as error:
            raise InputError(
                f"row {number + 1} ({row[0]}) needs one of the labels {', '.join(LABELS)} and four numbers"
            ) from error
    return Predictions(tuple(row[0] for row in rows), labels, tuple(row[2] for row in rows), probabilities)


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write the CSV `path,label,patient,p_CNV,p_DME,p_DRUSEN,p_NORMAL`, whole or not at all.

    A number is written as the shortest decimal that reads back as the same float64.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    columns = zip(
        predictions.paths,
        (LABELS[label] for label in predictions.labels),
        predictions.patients,
        predictions.probabilities.tolist(),
        strict=True,
    )
    writer.writerows((name, label, patient, *map(repr, row)) for name, label, patient, row in columns)
    write_text(path, text.getvalue())


def merge(parts: Sequence[Predictions]) -> Predictions:
    """Pool the test folds of a cross-validation in the order given.

    Raises InputError where two parts hold the same path (a scan would count twice) or there is no part.
    """
    if not parts:
        raise InputError("there are no predictions to merge")
    return Predictions(
        tuple(chain.from_iterable(part.paths for part in parts)),
        np.concatenate([part.labels for part in parts]),
        tuple(chain.from_iterable(part.patients for part in parts)),
        np.concatenate([part.probabilities for part in parts]),
    )
