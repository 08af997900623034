"""The picture of `peers.py`: from the original path to the model that ships, step by step, and the others.

    python benchmarks/peers_figure.py docs/img/steps.png TABLE.csv [TABLE.csv ...]

Each table is of one run, all have the same reference; of rows of the same name the first table's is drawn.
"""

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octlet.core.errors import InputError
from octlet.core.files import write_bytes
from octlet.evaluate.figures import LIGHT, canvas, encoded, recolour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, str]

# the rows of the path, in its order, and what each step is called
STEPS = {
    "original path: torch eager fp32, ResNet-101 V1.5": "original path: ResNet-101\nfrom scratch, PyTorch",
    "torch eager fp32": "from ImageNet\nweights, V2",
    "ONNX Runtime fp32": "exported, float",
    "Octlet int8": "8-bit integers, trained",
    "Octlet, ships": "pruned to 11 %, taught twice,\n8-bit: the model that ships",
}
# where each name stands, in points from its mark: they must not cover each other
PLACES = {0: (24, 0), 1: (0, -52), 2: (8, -44), 3: (0, -62), 4: (-40, -46)}


def main(out: Path, *tables: Path) -> None:
    rows: dict[str, Row] = {}
    for table in tables:
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["name"], row)
    if missing := [name for name in STEPS if not rows.get(name, {}).get("bytes")]:
        remedy = "run `make peers release-peers` to its end"
        raise InputError(f"no times of '{missing[0]}'", path=tables[-1], remedy=remedy)
    write_bytes(out, draw(rows))


def draw(rows: Mapping[str, Row]) -> bytes:
    """Draw balanced accuracy with its interval over speed; a mark's area is the file's size."""
    figure = canvas(9.6, 5.4, LIGHT)
    axes = figure.subplots()
    path = [rows[name] for name in STEPS]
    axes.plot(*zip(*map(place, path), strict=True), color=LIGHT.bar, linewidth=1.2, alpha=0.5, zorder=1)
    others = [row for name, row in rows.items() if name not in STEPS and row["faster"]]
    for row in others:
        mark(axes, row, LIGHT.classes[0], hollow=True)
    for number, row in enumerate(path):
        mark(axes, row, LIGHT.bar, hollow=False)
        told = f"{STEPS[row['name']]}\n{megabytes(row):.3g} MB, {percent(row):.1f} %"
        axes.annotate(
            told,
            place(row),
            xytext=PLACES[number],
            textcoords="offset points",
            ha=("left", "right", "center", "center", "center")[number],
            va="center",
            fontsize=8.5,
            color=LIGHT.ink,
            weight="bold" if number == len(path) - 1 else "normal",
        )
    name(axes, others)
    finish(axes, path)
    return encoded(figure)


def place(row: Row) -> tuple[float, float]:
    return float(row["faster"] or 1.0), percent(row)


def percent(row: Row) -> float:
    return 100 * float(row["balanced_accuracy"])


def megabytes(row: Row) -> float:
    return int(row["bytes"]) / 1e6


def mark(axes: "Axes", row: Row, colour: str, *, hollow: bool) -> None:
    x, y = place(row)
    ends = [100 * float(row[f"balanced_accuracy_{end}"]) for end in ("low", "high")]
    axes.plot([x, x], ends, color=colour, linewidth=1.2, alpha=0.35 if hollow else 0.6, zorder=1)
    area = 12 * math.sqrt(megabytes(row)) ** 2 / 4 + 14
    face = LIGHT.paper if hollow else colour
    axes.scatter([x], [y], s=area, facecolor=face, edgecolor=colour, linewidth=1.2, alpha=0.9, zorder=2)


def name(axes: "Axes", others: Sequence[Row]) -> None:
    """Number the marks of other tools, and tell below what the numbers are."""
    for number, row in enumerate(others, start=1):
        axes.annotate(
            str(number), place(row), ha="center", va="center", fontsize=7.5, color=LIGHT.ink, zorder=3
        )
    told = "; ".join(f"{number} {row['name']}" for number, row in enumerate(others, start=1))
    axes.figure.supxlabel(  # type: ignore[union-attr]
        f"Hollow: {told}", fontsize=7.5, x=0.01, ha="left", color=LIGHT.ink, wrap=True
    )


def finish(axes: "Axes", path: Sequence[Row]) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("times faster than ResNet-101 V2 in PyTorch, one thread of an x86-64 CPU", fontsize=9)
    axes.set_ylabel("balanced accuracy on unseen patients, %", fontsize=9)
    n = {row["n"] for row in path}
    title = f"Bars: 95 %, patients resampled; a mark's area is the file's size; {max(n, key=int)} scans"
    axes.set_title(f"{title}, the original path {path[0]['n']}", loc="left", fontsize=9, color=LIGHT.ink)
    axes.margins(x=0.1, y=0.08)
    axes.tick_params(colors=LIGHT.ink, labelsize=8)
    axes.grid(color=LIGHT.faint, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    recolour([axes.xaxis.label, axes.yaxis.label], LIGHT)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
