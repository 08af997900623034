"""What each step of a pruning took, and what the training gave back, as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from octlet.core.files import replacing

CUT, TRAINED, DENSE = "#d55e00", "#0072b2", "#666666"


def draw_pruning(rows: Sequence[Mapping[str, Any]], what: str, path: Path) -> None:
    """Draw balanced accuracy on the validation scans over what is left, from the rows of pruning.csv."""
    from matplotlib.figure import Figure

    first, steps = rows[0], rows[1:]
    key = "macs" if what == "channels" else "sparsity"
    left = [100 * (row["macs"] / first["macs"] if key == "macs" else 1 - row["sparsity"]) for row in steps]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    name = "val_balanced_accuracy"
    axes.axhline(first[name], color=DENSE, linewidth=1, linestyle=":", label="dense")
    axes.plot(left, [row[name] for row in steps], "v--", color=CUT, label="cut", linewidth=1)
    axes.plot(left, [row[f"trained_{name}"] for row in steps], "o-", color=TRAINED, label="cut, then trained")
    axes.set_xscale("log")
    axes.set_xticks(left, [f"{share:.3g}" for share in left])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("multiply-accumulates left, %" if key == "macs" else "weights that are not zero, %")
    axes.set_ylabel("balanced accuracy, validation scans")
    axes.set_title("From step to step", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
