"""The table of `peers.py`: accuracy with intervals, what a row weighs and takes, and why a row is empty."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from peers_times import Found, Subject
from peers_ways import version

from octlet.compress.cost import cost_of
from octlet.core.bundle import open_bundle
from octlet.core.errors import InputError
from octlet.core.files import csv_of, write_text
from octlet.evaluate.paired import compare
from octlet.evaluate.predictions import Predictions
from octlet.evaluate.summary import summarise
from octlet.models.spec import NetSpec
from octlet.train.checkpoint import is_quantised

Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class Row:
    """A row; what was not measured is None.

    Attributes:
        name, way: of the peer.
        folds: whose test scans were answered.
        predictions: pooled.
        accuracy, balanced_accuracy: with 95 % patient-cluster intervals.
        difference: of balanced accuracy to the reference on the scans of both, paired.
        bytes, smaller: of the first fold's file, and how many times smaller than the reference's it is.
        faster, start_faster: how many times faster than the reference; quartiles of the rounds.
        peak_mb: most memory of a process that answers one scan, 10^6 bytes.
        minstructions: millions, of a prediction on an emulated Cortex-A76.
        note: why something is empty.
    """

    name: str
    way: str
    folds: tuple[int, ...] = ()
    predictions: Predictions | None = None
    patients: int | None = None
    accuracy: Interval | None = None
    balanced_accuracy: Interval | None = None
    difference: Interval | None = None
    bytes: int | None = None
    smaller: float | None = None
    faster: Interval | None = None
    start_faster: Interval | None = None
    peak_mb: float | None = None
    minstructions: float | None = None
    note: str = ""


def measured(row: Row, folds: Sequence[int], predictions: Predictions) -> Row:
    """Fill in what the answers are worth."""
    found = summarise(predictions)
    return replace(
        row,
        folds=tuple(folds),
        predictions=predictions,
        patients=found["patients"],
        accuracy=_interval(found["accuracy"]),
        balanced_accuracy=_interval(found["balanced_accuracy"]),
    )


def against(row: Row, rows: Sequence[Row], reference: str) -> Row:
    """Fill in the difference to the reference on the scans that both answered."""
    other = next((each.predictions for each in rows if each.name == reference), None)
    if row.predictions is None or other is None or row.name == reference:
        return row
    own = set(row.predictions.paths)
    shared = other.select([k for k, path in enumerate(other.paths) if path in own])
    found = compare(shared, row.predictions, names=(reference, row.name))["difference"]
    return replace(row, difference=_interval(found["balanced_accuracy"]))


def _interval(estimate: dict[str, Any]) -> Interval:
    return estimate["value"], estimate["low"], estimate["high"]


def with_times(
    row: Row, subjects: Sequence[Subject], found: Found, counts: Path | None, reference: str
) -> Row:
    """Fill in size, times, memory and instructions of a row that was answered."""
    of = {each.name: each for each in subjects}
    if row.name not in of:
        return row
    subject, took = of[row.name], found.get(of[row.name].label, {})
    smaller = of[reference].bytes / subject.bytes if reference in of else None
    row = replace(row, bytes=subject.bytes, smaller=smaller, peak_mb=took.get("peak_mb"))
    if took:
        row = replace(row, faster=tuple(took["faster"]), start_faster=tuple(took["start_faster"]))
    else:
        row = _noted(row, "not timed")
    if len(row.folds) == 1:
        row = _noted(row, f"fold {row.folds[0]} only; the difference is on its scans")
    millions, why = instructions(subject, counts)
    return _noted(replace(row, minstructions=millions), why)


def _noted(row: Row, note: str) -> Row:
    return replace(row, note="; ".join(filter(None, (row.note, note))))


def instructions(subject: Subject, counts: Path | None) -> tuple[float | None, str]:
    """Return the millions of instructions that were counted of this network in this engine, or why none."""
    if not subject.counted:
        return None, "instructions: this network is not one that is counted"
    manifest = open_bundle(subject.model).manifest
    macs = cost_of(NetSpec.from_dict(manifest.network), subject.size).macs
    wanted = (subject.way, str(subject.size), str(is_quantised(manifest.training)), f"{macs / 1e6:.4g}")
    if counts is not None and counts.exists():
        with counts.open(newline="") as file:
            for row in csv.DictReader(file):
                if (row["engine"], row["size"], row["integers"], row["mmacs"]) == wanted:
                    return float(row["total"]), ""
    return None, f"instructions: not counted with {wanted[3]} million multiply-accumulates in this engine"


def first_line(error: BaseException) -> str:
    """Return what an error says first, cut to 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


MARK = "<!-- made by benchmarks/peers.py -->"
WITH_ENDS = ("accuracy", "balanced_accuracy", "difference", "faster", "start_faster")


def write(out: Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV, whole or not at all."""
    lines = [_cells(row) for row in rows]
    write_text(out, csv_of(lines))


def _cells(row: Row) -> dict[str, object]:
    cells: dict[str, object] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name == "way":
            cells["engine"] = version(value)
        elif field.name == "folds":
            cells["folds"] = " ".join(map(str, value))
        elif field.name == "predictions":
            cells["n"] = None if value is None else len(value)
        elif field.name in WITH_ENDS:
            ends = value or (None, None, None)
            names = (field.name, f"{field.name}_low", f"{field.name}_high")
            cells |= dict(zip(names, map(_rounded, ends), strict=True))
        else:
            cells[field.name] = _rounded(value)
    return cells


def _rounded(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def markdown(rows: Sequence[Row]) -> str:
    """Return the table as the docs show it."""
    heads = ("", "n", "accuracy, %", "balanced accuracy, %", "difference, points", "MB", "times smaller")
    heads += (
        "times faster",
        "times faster from a start",
        "peak memory, MB",
        "aarch64 instructions, millions",
    )
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        n = None if row.predictions is None else len(row.predictions)
        cells = (
            row.name if n else f"{row.name}: {row.note or 'not run'}",
            n,
            _shown(row.accuracy, 100),
            _shown(row.balanced_accuracy, 100),
            _shown(row.difference, 100),
            None if row.bytes is None else f"{row.bytes / 1e6:.1f}",
            _number(row.smaller),
            _shown(row.faster),
            _shown(row.start_faster),
            None if row.peak_mb is None else f"{row.peak_mb:.0f}",
            _number(row.minstructions),
        )
        lines.append(f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |")
    return "\n".join(lines)


def into_page(page: Path, shown: str) -> None:
    """Put the table in the place of the one that a page shows, below the line `MARK` and up to an empty line.

    Raises InputError where there is no such line.
    """
    before, mark, after = page.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise InputError(f"no line '{MARK}'", path=page, remedy="put it where the table belongs")
    rest = after.partition("\n\n")[2] if after.startswith("\n|") else after.lstrip("\n")
    write_text(page, f"{before}{mark}\n{shown}\n\n{rest}")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def _shown(of: Interval | None, scale: float = 1) -> str | None:
    if of is None:
        return None
    if None in of:
        return _number(of[0])
    form = ".1f" if scale == 100 else ".3g"
    value, low, high = (f"{scale * each:{form}}" for each in of)
    return f"{value} ({low} to {high})"
