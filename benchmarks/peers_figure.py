"""The picture of `peers.py`: from the original path to the model that ships, step by step, and the others.

python benchmarks/peers_figure.py docs/img/steps.png TABLE.csv
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

# the rows of the path in its order, and what each step is
STEPS = {
    "original path: torch eager fp32, ResNet-101 V1.5": "original path: ResNet-101 from scratch, 224 px",
    "torch eager fp32": "ResNet-101 V2 from ImageNet weights, 256 px",
    "torch eager fp32, trained on at 320 px": "trained on at 320 px: the teacher",
    "cut to 11 %, fp32": "cut to 11 %, 256 px, in ONNX Runtime from here",
    "taught at 256 px, fp32": "taught by the dense network at 256 px",
    "taught at 320 px, fp32": "taught by the teacher at 320 px",
    "in 8-bit integers, one look": "8-bit integers, trained in them",
    "Octlet, ships": "a second look where in doubt: ships",
}
LETTERS = "abcdefghijklmnop"
# where names of close marks stand, in points from the mark; the others' are above, and below if hollow
PLACES = {
    "7": (0, -13),
    "b": (2, 15),
    "d": (6, -15),
    "f": (-4, -15),
    "e": (4, 12),
    "h": (-3, -13),
    "j": (-9, 5),
}
TICKS = (50, 60, 70, 80, 85, 90, 92, 94, 96)


def main(out: Path, table: Path) -> None:
    with table.open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    if missing := [name for name in STEPS if not rows.get(name, {}).get("bytes")]:
        raise InputError(f"no times of '{missing[0]}'", path=table, remedy="run `make peers` to its end")
    write_bytes(out, draw(rows))


def draw(rows: Mapping[str, Row]) -> bytes:
    """Draw balanced accuracy with its interval over speed; a mark's area is the file's size."""
    figure = canvas(11.6, 5.4, LIGHT)
    axes, key = figure.subplots(1, 2, width_ratios=(4, 3))
    path = [rows[name] for name in STEPS]
    others = [row for name, row in rows.items() if name not in STEPS and row["faster"]]
    axes.plot(*zip(*map(place, path), strict=True), color=LIGHT.bar, linewidth=1.2, alpha=0.5, zorder=1)
    for letter, row in zip(LETTERS, others, strict=False):
        mark(axes, row, letter, hollow=True)
    for number, row in enumerate(path, start=1):
        mark(axes, row, str(number), hollow=False)
    told = [(str(k), STEPS[row["name"]], row) for k, row in enumerate(path, start=1)]
    told += [(letter, row["name"], row) for letter, row in zip(LETTERS, others, strict=False)]
    legend(key, told, len(path))
    finish(axes, path)
    return encoded(figure)


def place(row: Row) -> tuple[float, float]:
    """Return where a row stands: its speed, and its balanced accuracy as the share that it misses."""
    return float(row["faster"] or 1.0), missed(row["balanced_accuracy"])


def missed(accuracy: str) -> float:
    return 100 * (1 - float(accuracy))


def megabytes(row: Row) -> float:
    return int(row["bytes"]) / 1e6


def mark(axes: "Axes", row: Row, name: str, *, hollow: bool) -> None:
    x, y = place(row)
    colour = LIGHT.classes[0] if hollow else LIGHT.bar
    ends = [missed(row[f"balanced_accuracy_{end}"]) for end in ("low", "high")]
    axes.plot([x, x], ends, color=colour, linewidth=1.2, alpha=0.3 if hollow else 0.6, zorder=1)
    area = 12 * math.sqrt(megabytes(row)) ** 2 / 4 + 14
    face = "none" if hollow else colour
    axes.scatter([x], [y], s=area, facecolor=face, edgecolor=colour, linewidth=1.2, alpha=0.9, zorder=2)
    offset = PLACES.get(name, (0, -13) if hollow else (0, 13))
    axes.annotate(
        name,
        (x, y),
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=8 if hollow else 9,
        weight="normal" if hollow else "bold",
        color=LIGHT.ink,
        zorder=4,
    )


def legend(key: "Axes", told: Sequence[tuple[str, str, Row]], steps: int) -> None:
    """List what is marked: name, size and balanced accuracy."""
    key.axis("off")
    height = 1 / (len(told) + 2)
    for line, (name, what, row) in enumerate(told):
        y = 1 - (line + 0.5 + (line >= steps)) * height
        weight = "bold" if line == steps - 1 else "normal"
        size = {"fontsize": 8, "color": LIGHT.ink, "va": "center", "transform": key.transAxes}
        key.text(0.0, y, name, ha="center", weight="bold" if line < steps else "normal", **size)
        key.text(0.04, y, what, weight=weight, **size)
        for x, shown in ((0.88, f"{megabytes(row):.3g} MB"), (1.0, f"{100 - place(row)[1]:.1f} %")):
            key.text(x, y, shown, ha="right", weight=weight, **size)


def finish(axes: "Axes", path: Sequence[Row]) -> None:
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("log")  # of what is missed, so that 90 and 92 % lie apart
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(FixedLocator([100 - tick for tick in TICKS]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 - value:.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("times faster than 2, which is in PyTorch as 1 and 3 are; one thread, x86-64", fontsize=9)
    axes.set_ylabel("balanced accuracy on unseen patients, %", fontsize=9)
    n = {row["n"] for row in path}
    title = f"Bars: 95 %, patients resampled; a mark's area is the file's size; {max(n, key=int)} scans"
    axes.set_title(f"{title}, the original path {path[0]['n']}", loc="left", fontsize=8, color=LIGHT.ink)
    axes.margins(x=0.08, y=0.08)
    axes.tick_params(colors=LIGHT.ink, labelsize=8)
    axes.grid(color=LIGHT.faint, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    recolour([axes.xaxis.label, axes.yaxis.label], LIGHT)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
