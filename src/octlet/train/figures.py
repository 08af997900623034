"""Training curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from octlet.core.files import replacing

TRAIN, VAL = "#7a7a7a", "#0072b2"  # Okabe & Ito's blue beside a gray: apart for every eye and in print


def draw_curves(history: Sequence[dict[str, Any]], kept: int, path: Path) -> None:
    """Draw loss and accuracy of training, and of validation if there is one, over the epochs, as a PNG.

    Args:
        history: rows of `metrics.jsonl`, at least one.
        kept: number of the epoch, from 1, whose weights were kept; it is marked.
        path: where the PNG goes, whole or not at all.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["train_loss"] for row in history], color=TRAIN, marker=".", label="training")
    left.set(ylabel="loss", ylim=(0, None))  # cross-entropy in nats; a lesson's training has another
    right.plot(epochs, [row["train_accuracy"] for row in history], color=TRAIN, marker=".", label="training")
    if "val_loss" in history[0]:
        loss, plain, balanced = (
            [row[f"val_{name}"] for row in history] for name in ("loss", "accuracy", "balanced_accuracy")
        )
        left.plot(epochs, loss, color=VAL, marker=".", label="validation")
        right.plot(epochs, plain, color=VAL, marker=".", label="validation")
        right.plot(epochs, balanced, color=VAL, ls="--", marker=".", label="validation, balanced")
    right.set(ylabel="accuracy", ylim=(0, 1))
    for axes in (left, right):
        axes.axvline(kept, color="#cccccc", zorder=0)
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    left.set_title(f"kept: epoch {kept}", fontsize=9, loc="left")
    right.set_title("training: augmented scans; validation: as they are", fontsize=9, loc="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
