"""What the card of the model that ships says besides: by the shape of the scans, doubt, corruptions, cost.

    python benchmarks/release_notes.py docs/results INDEX.csv MODEL.octlet NOTES.md

Reads of the folder release/predictions.csv, release/trust.csv, shape-shortcut.csv and, where it is there,
robustness.csv; the scans' shapes from an index.csv, what the network takes from a model file of the folds.
Writes release/by-shape.csv into the folder, and the notes.
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from octlet.compress.cost import cost_of
from octlet.core.bundle import open_bundle
from octlet.core.files import csv_of, write_text
from octlet.core.labels import LABELS
from octlet.evaluate.predictions import Predictions, read_predictions
from octlet.evaluate.summary import summarise
from octlet.models.spec import NetSpec

FEW = 20  # scans of a shape, under which shapes are put together

Row = dict[str, str]


def main(folder: Path, index: Path, model: Path, notes: Path) -> None:
    shapes = list(by_shape(read_predictions(folder / "release" / "predictions.csv"), index))
    write_text(folder / "release" / "by-shape.csv", csv_of(shapes))
    parts = [
        cost(model),
        table_of(shapes),
        doubt(rows(folder / "release" / "trust.csv")),
        shortcut(rows(folder / "shape-shortcut.csv")),
    ]
    if (folder / "robustness.csv").is_file():
        parts.append(corrupted(rows(folder / "robustness.csv")))
    head = "Measured on the networks of the five folds, on patients that they had not seen; 95 % intervals."
    notes.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")
    print(notes.read_text(encoding="utf-8"))


def rows(file: Path) -> list[Row]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def by_shape(predictions: Predictions, index: Path) -> Iterator[Row]:
    """Yield the accuracy on the scans of each shape, the most frequent first."""
    sizes = {row["path"]: f"{row['width']} x {row['height']}" for row in rows(index)}
    groups: dict[str, list[int]] = defaultdict(list)
    for k, path in enumerate(predictions.paths):
        groups[sizes[path]].append(k)
    rare = [shape for shape in groups if len(groups[shape]) < FEW]
    groups["others"] = [k for shape in rare for k in groups.pop(shape)]
    for shape, members in sorted(groups.items(), key=lambda item: (item[0] == "others", -len(item[1]))):
        if not members:
            continue
        part = predictions.select(members)
        summary = summarise(part)
        counts = np.bincount(part.labels, minlength=len(LABELS))
        held = {label: str(count) for label, count in zip(LABELS, counts, strict=True)}
        values = (f"{summary['accuracy'][key]:.4f}" for key in ("value", "low", "high"))
        figures = dict(zip(ACCURACY, values, strict=True))
        yield {
            "shape": shape,
            "scans": str(len(members)),
            "patients": str(summary["patients"]),
            **held,
            **figures,
        }


ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")


def share(row: Row, keys: tuple[str, str, str] = ("value", "low", "high")) -> str:
    """Return a share of a row with its interval: "94.7 % (93.0 to 96.3)"."""
    value, low, high = (format(100 * float(row[key]), ".1f") for key in keys)
    return f"{value} % ({low} to {high})"


def table_of(shapes: list[Row]) -> str:
    lines = [
        "By the scans' shape, width x height in pixels:",
        "",
        f"| shape | scans | {' | '.join(LABELS)} | accuracy |",
    ]
    lines.append("| --- | --- |" + " --- |" * (len(LABELS) + 1))
    for row in shapes:
        held = " | ".join(row[label] for label in LABELS)
        lines.append(f"| {row['shape']} | {row['scans']} | {held} | {share(row, ACCURACY)} |")
    return "\n".join(lines)


def cost(model: Path) -> str:
    manifest = open_bundle(model).manifest
    found = cost_of(NetSpec.from_dict(manifest.network), manifest.preprocessing.size)
    macs = f"{found.macs / 1e9:.2f} G multiply-accumulates, in {len(found.layers)} operations"
    told = f"A look at a scan takes the first fold's network {macs}."
    if manifest.second_look is None:
        return told
    return f"{told}\nA scan with no class of {100 * manifest.second_look:.0f} % is looked at a second time."


def doubt(told: list[Row]) -> str:
    known = {(row["what"], row["group"]): row for row in told}
    others = known["not OCT: refused", "all"]
    ece = [float(known["calibration error (ECE)", when]["value"]) for when in ("before", "after")]
    lines = [
        f"- calibration error {ece[0]:.3f} before, {ece[1]:.3f} after, each fold calibrated on the others",
        f"- the prediction set holds the class of {share(known['set holds the class', 'all'])} of the scans",
        f"- refused: {share(known['refused: not an OCT scan', 'all'])} of real scans,",
        f"  {share(others)} of {others['n']} answers to images that are none",
        f"- uncertain: {share(known['uncertain', 'all'])}",
        f"- wrong, of the other labels: {share(known['wrong', 'not uncertain'])}",
        f"- urgent scans surely called NORMAL: {share(known['urgent scan called NORMAL', 'not uncertain'])}",
    ]
    return "Doubt:\n\n" + "\n".join(lines)


def shortcut(told: list[Row]) -> str:
    known = {(row["scans"], row["figure"]): row for row in told if row["model"] == "int8"}
    lines = [
        "In this sample a scan's shape tells its label. Every test scan was given one shape, or a wrong one:",
        "",
    ]
    for way in ("one shape", "swapped"):
        row = known[way, "balanced accuracy"]
        moved = [f"{100 * float(row[f'difference{end}']):+z.1f}" for end in ("", "_low", "_high")]
        lines.append(f"- {way}: balanced accuracy {moved[0]} points ({moved[1]} to {moved[2]})")
    return "\n".join(lines)


def corrupted(told: list[Row]) -> str:
    known = {(row["corruption"], row["model"]): row for row in told if row["severity"] == "mean"}
    lines = [
        "Accuracy under the corruptions of MedMNIST-C, every fourth scan, mean of five strengths, beside "
        "its float\nteacher:",
        "",
    ]
    lines += ["| corruption | teacher | this network | difference |", "| --- | --- | --- | --- |"]
    for name in dict.fromkeys(corruption for corruption, _ in known):
        cells = (points(known[name, model], form) for model, form in COLUMNS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


COLUMNS = (("dense", ".1f"), ("small", ".1f"), ("small minus dense", "+z.1f"))


def points(row: Row, form: str) -> str:
    value, low, high = (format(100 * float(row[key]), form) for key in ("accuracy", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
