"""The training curves of several runs in one figure, read from what a run leaves behind."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octlet.core.errors import InputError
from octlet.evaluate import figures
from octlet.evaluate.figures import LIGHT, Theme, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HISTORY = "metrics.jsonl"
NEEDED = ("epoch", "train_loss", "val_loss", "val_balanced_accuracy")

_MARKS = "osD^vPX"


@dataclass(frozen=True)
class History:
    """A run's name and its epochs in order, at least one, each with the numbers `NEEDED`.

    Losses are cross-entropies in nats, accuracies lie in 0..1, epochs count from 1.
    """

    name: str
    rows: tuple[dict[str, float], ...]

    def column(self, key: str) -> list[float]:
        """Return one number of every epoch."""
        return [row[key] for row in self.rows]


def read_history(run: str | Path, name: str) -> History:
    """Read the epochs of a run folder, or of its metrics.jsonl.

    Raises InputError, naming the file, where it cannot be read, holds no epoch, or where a line is no JSON
    object or lacks a finite number of `NEEDED`.
    """
    place = Path(run)
    file = place / HISTORY if place.is_dir() else place
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        remedy = f"give the folder of a run, which holds {HISTORY}"
        raise InputError(f"cannot read a run's epochs: {reason}", path=file, remedy=remedy) from error
    if not lines:
        raise InputError("holds no epoch", path=file, remedy="let the run finish its first")
    return History(name, tuple(_epoch(line, number, file) for number, line in enumerate(lines, 1)))


def _epoch(line: str, number: int, file: Path) -> dict[str, float]:
    remedy = f"give the {HISTORY} that a run wrote"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"line {number} is not JSON", path=file, remedy=remedy) from error
    if not isinstance(row, dict):
        raise InputError(f"line {number} is not a JSON object", path=file, remedy=remedy)
    for key in NEEDED:
        if type(row.get(key)) not in (int, float) or not math.isfinite(row[key]):
            raise InputError(f"line {number} has no number '{key}'", path=file, remedy=remedy)
    return {key: row[key] for key in NEEDED}


def curves_png(histories: Sequence[History], theme: Theme = LIGHT) -> bytes:
    """Draw training loss, validation loss and validation balanced accuracy of several runs over their epochs.

    Runs share the axes and the two losses a scale; a run that goes on from another starts at its own epoch 1.
    """
    from matplotlib.ticker import MaxNLocator

    figure = figures.canvas(11.6, 4.5, theme)
    training, validation, accuracy = figure.subplots(1, 3, sharex=True)
    validation.sharey(training)
    panels: dict[Axes, tuple[str, str, str]] = {
        training: ("train_loss", "Training loss", "loss"),
        validation: ("val_loss", "Validation loss", "cross-entropy, nats"),
        accuracy: ("val_balanced_accuracy", "Validation", "balanced accuracy"),
    }
    for axes, (key, head, ylabel) in panels.items():
        for number, history in enumerate(histories):
            axes.plot(history.column("epoch"), history.column(key), **_look(number, theme, history.name))
        axes.set(xlabel="epoch of the run", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=theme.faint, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        figures.set_heading(axes, head, [], theme)
    training.set_ylim(0, None)
    accuracy.set_ylim(None, 1)
    legend = figure.legend(
        *training.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(4, len(histories)),
        frameon=False,
    )
    figures.recolour(legend.get_texts(), theme)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figures.encoded(figure)


def _look(number: int, theme: Theme, name: str) -> dict[str, Any]:
    # A colour comes back with another mark only, so that no two of 35 runs look alike.
    colours = (theme.classes[2], theme.classes[0], theme.classes[3], theme.classes[1], theme.ink)
    mark = _MARKS[number % len(_MARKS)]
    return {
        "color": colours[number % len(colours)],
        "marker": mark,
        "markersize": 4.5,
        "linewidth": 1.6,
        "label": shortened(name),
    }
