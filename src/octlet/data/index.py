"""The index: one row a scan with its size and two fingerprints, from which every later stage starts."""

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from octlet.core.errors import InputError
from octlet.core.files import write_text
from octlet.core.labels import LABELS
from octlet.core.quality import measure
from octlet.data.source import SPLITS, Item, Source, read_scan, read_table

HASH_SIDE = 16

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Record:
    """One readable scan. `path` is relative to the source's root; `split` is the given one or empty."""

    path: str
    label: str
    patient: str
    split: str
    width: int
    height: int
    sha256: str  # 64 hex digits, of the file's bytes
    dhash: str  # 64 hex digits, see `dhash`


@dataclass(frozen=True)
class Unreadable:
    """One scan that could not be read, and why."""

    path: str
    label: str
    patient: str
    split: str
    reason: str


@dataclass(frozen=True)
class Unfit:
    """One scan that can be read and not be judged, and why: see `octlet.core.quality`."""

    path: str
    label: str
    reason: str


class Indexed(NamedTuple):
    """What was read, what could not be, and what of the read ones is unfit; each sorted by path."""

    records: list[Record]
    unreadable: list[Unreadable]
    unfit: list[Unfit]


COLUMNS = tuple(field.name for field in fields(Record))


def build_index(source: Source, progress: Progress = iter) -> Indexed:
    """Read every scan once; `progress` wraps the counting iterator."""
    records: list[Record] = []
    unreadable: list[Unreadable] = []
    unfit: list[Unfit] = []
    with reading() as pool:
        measured = pool.map(lambda item: _measure(source.root, item), source)
        for _, (entry, fault) in zip(progress(range(len(source))), measured, strict=True):
            if isinstance(entry, Unreadable):
                unreadable.append(entry)
                continue
            records.append(entry)
            if fault:
                unfit.append(Unfit(entry.path, entry.label, fault))
    return Indexed(sorted(records, key=by_path), sorted(unreadable, key=by_path), sorted(unfit, key=by_path))


@contextmanager
def reading() -> Iterator[ThreadPoolExecutor]:
    """Give a thread for every core; an error, or Ctrl-C, drops what is queued, which may be 100,000 scans."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def by_path(entry: Record | Unreadable | Unfit) -> str:
    """Return the path of an entry: the order of every table."""
    return entry.path


def _measure(root: Path, item: Item) -> tuple[Record | Unreadable, str | None]:
    """Return what stands of a scan in the index, and what keeps one from judging it."""
    about = (item.label, item.patient, item.split)
    try:
        item.path.encode()
        data, pixels = read_scan(root, item.path)
    except UnicodeEncodeError:
        shown = item.path.encode(errors="backslashreplace").decode()
        return Unreadable(shown, *about, "the file name is not valid UTF-8"), None
    except InputError as error:
        return Unreadable(item.path, *about, error.rule), None
    height, width = pixels.shape
    prints = hashlib.sha256(data).hexdigest(), dhash(pixels)
    return Record(item.path, *about, width, height, *prints), measure(pixels).fault


def dhash(pixels: NDArray[np.uint8]) -> str:
    """Return the 256-bit difference hash of gray uint8 (H, W) as 64 hex digits.

    The image is reduced to 16 rows of 17; each bit tells whether a pixel is brighter than its left
    neighbour, row by row, so brightness, contrast, compression and scaling change few bits. After N. Krawetz,
    "Kind of Like That" (hackerfactor.com, 2013), with 16 x 16 bits for his 8 x 8.
    """
    small = Image.fromarray(pixels).resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BILINEAR)
    grid = np.asarray(small)
    return np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes().hex()


def write_index(path: str | Path, records: Iterable[Record]) -> None:
    """Write records to a CSV file, sorted by path: the same records give the same bytes."""
    write_rows(path, COLUMNS, records)


def read_index(path: str | Path) -> list[Record]:
    """Read what `write_index` wrote; raises InputError naming the row and the rule."""
    file = Path(path)
    rows = read_table(file, COLUMNS)
    records = [Record(**record_fields(row, file, number, SPLITS)) for number, row in enumerate(rows, start=1)]
    check_paths(records, file)
    return records


def write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Record]) -> None:
    """Write the named attributes of each row, sorted by path, as CSV: UTF-8, lines end with a line feed."""
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(columns)
    for row in sorted(rows, key=by_path):
        values = [str(getattr(row, name)) for name in columns]
        # Python before 3.13 leaves a lone carriage return bare, and no reader would take that back.
        (quoted if any("\r" in value for value in values) else plain).writerow(values)
    write_text(path, text.getvalue())


def record_fields(row: dict[str, str], file: Path, number: int, splits: Sequence[str]) -> dict[str, Any]:
    """Return a row's `Record` fields, typed and checked; raises InputError naming the row and the rule."""

    def check(valid: bool, name: str, rule: str) -> None:
        if not valid:
            remedy = "write the index again with 'octlet data check'"
            raise InputError(f"row {number}: {name} '{row[name]}' is not {rule}", path=file, remedy=remedy)

    check(bool(row["path"]), "path", "a path")
    check(bool(row["patient"]), "patient", "a patient")
    check(row["label"] in LABELS, "label", f"one of {', '.join(LABELS)}")
    check(row["split"] in ("", *splits), "split", f"one of {', '.join(splits)} or empty")
    for name in ("width", "height"):
        digits = row[name].isascii() and row[name].isdecimal()
        check(digits and int(row[name]) > 0, name, "a number of pixels")
    for name in ("sha256", "dhash"):
        check(len(row[name]) == 64 and set(row[name]) <= set("0123456789abcdef"), name, "64 hex digits")
    numbers = {"width": int(row["width"]), "height": int(row["height"])}
    return {name: row[name] for name in COLUMNS} | numbers


def check_paths(records: Sequence[Record], file: Path) -> None:
    """Raise InputError if a table is empty or a path stands in it twice."""
    if not records:
        raise InputError("the table holds no scan", path=file, remedy="run 'octlet data check' on the scans")
    seen: set[str] = set()
    for record in records:
        if record.path in seen:
            rule = f"'{record.path}' stands twice"
            raise InputError(rule, path=file, remedy="give each scan one row")
        seen.add(record.path)
