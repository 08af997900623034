"""Predictions of two machines from the same files, compared scan by scan."""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from octlet.core.errors import InputError


@dataclass(frozen=True)
class Agreement:
    """How one Python on the emulated Arm agrees with this machine about one set of scans.

    Attributes:
        machine: what computed, beside this machine.
        python, engine, model: that did.
        scans: which set they are of.
        n: their number.
        same_label: how many of them got the same label on both machines.
        largest_difference: of any class's probability, absolute, 0 to 1.
        largest_at: the name of the scan that it is found on.
    """

    machine: str
    python: str
    engine: str
    model: str
    scans: str
    n: int
    same_label: int
    largest_difference: float
    largest_at: str

    @property
    def passed(self) -> bool:
        """Whether every label is the same, of one scan at least."""
        return 0 < self.n == self.same_label


def compare(here: Mapping[str, Any], there: Mapping[str, Any]) -> tuple[int, int, float, str]:
    """Compare two documents of `octlet predict --json`.

    Returns:
        The number of scans, of those with the same label, the largest absolute difference of a probability,
        and the scan that it is found on; ("", 0 scans) where there are none.

    Raises InputError where a scan could not be read, or the two are not of the same scans in one order.
    """
    for document in (here, there):
        if document["errors"]:
            fault = document["errors"][0]
            raise InputError(fault["message"], path=fault["file"], remedy="choose readable scans")
    pairs = list(zip(here["predictions"], there["predictions"], strict=False))
    names = [[each["file"] for each in document["predictions"]] for document in (here, there)]
    if names[0] != names[1]:
        raise InputError("the two machines predicted different scans", remedy="give both the same files")
    same = sum(a["label"] == b["label"] for a, b in pairs)
    largest, at = max(((difference(a, b), a["file"]) for a, b in pairs), default=(0.0, ""))
    return len(pairs), same, largest, Path(at).name


def difference(here: Mapping[str, Any], there: Mapping[str, Any]) -> float:
    """Return the largest absolute difference of one scan's probabilities; InputError on other classes."""
    a, b = here["probabilities"], there["probabilities"]
    if a.keys() != b.keys():
        raise InputError("the two machines know different classes", path=here["file"])
    return max(abs(float(a[label]) - float(b[label])) for label in a)


def choose(folder: Path, per_kind: int) -> list[Path]:
    """Choose `per_kind` scans of each class and shape, the same ones every time.

    Of each kind those whose names have the smallest SHA-256: no order in which they were numbered shows
    through. The class is the name of the folder that a scan lies in.

    Raises InputError where the folder has no image.
    """
    kinds: defaultdict[tuple[str, tuple[int, int]], list[Path]] = defaultdict(list)
    for path in folder.rglob("*"):
        if path.suffix.lower() in (".jpeg", ".jpg", ".png"):
            with Image.open(path) as image:
                kinds[path.parent.name, image.size].append(path)
    if not kinds:
        raise InputError("no .jpeg or .png image in this folder", path=folder, remedy="check OCTLET_DATA")
    chosen = (sorted(paths, key=_digest)[:per_kind] for _, paths in sorted(kinds.items()))
    return [path for paths in chosen for path in sorted(paths)]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.name.encode()).hexdigest()


def as_csv(rows: Iterable[Any]) -> str:
    """Return dataclasses of one kind as CSV with a header, floats to four significant digits."""
    kept = list(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(kept[0]))
    writer.writerows(_cells(astuple(row)) for row in kept)
    return text.getvalue()


def _cells(values: Sequence[Any]) -> list[Any]:
    return [f"{value:.4g}" if isinstance(value, float) else value for value in values]
