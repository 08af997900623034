"""Figures of several models as PNG bytes: confusion matrices, and a forest plot of their differences."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from octlet.core.labels import LABELS, URGENCY
from octlet.evaluate import figures
from octlet.evaluate.figures import LIGHT, Theme, estimate_text, sample_text, shortened
from octlet.evaluate.summary import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS = 3


def confusions_png(comparison: dict[str, Any], theme: Theme = LIGHT) -> bytes:
    """Draw the confusion matrix of every model of a comparison, at most `ACROSS` in a row."""
    models = comparison["models"]
    down = math.ceil(len(models) / ACROSS)
    across = math.ceil(len(models) / down)
    figure = figures.canvas(4.9 * across, 5.3 * down + 0.3, theme)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, model in zip(grid, models, strict=False):
        figures.draw_confusion(axes, np.array(model["confusion_matrix"]), theme)
        told = [f"balanced accuracy {estimate_text(model['balanced_accuracy'])}"]
        if model["name"] == comparison["reference"]:
            told[0] += ", the reference"
        figures.set_heading(axes, shortened(model["name"], 34), told, theme)
    for axes in grid[len(models) :]:
        axes.set_visible(False)
    figure.suptitle(f"{sample_text(comparison)}; {figures.OUTLINE}", color=theme.ink, fontsize=9.5)
    return figures.encoded(figure)


def difference_png(comparison: dict[str, Any], theme: Theme = LIGHT) -> bytes:
    """Draw each model's differences from the reference with their intervals, and the margin.

    Balanced accuracy first, then the sensitivity of each urgent class.
    """
    models, margin = comparison["comparisons"], comparison["margin"]
    panels = dict(_panels(models))
    figure = figures.canvas(8.6, 1.6 + len(panels) * (0.45 + 0.34 * len(models)), theme)
    rows = figure.subplots(len(panels), 1, sharex=True)
    for axes, (name, estimates) in zip(rows, panels.items(), strict=True):
        judged = axes is rows[0]
        solid = [not judged or model["not_inferior"] for model in models]
        _forest(axes, estimates, solid, theme.bar if judged else theme.ink, theme)
        names = [shortened(model["name"], 30) for model in models]
        axes.set_yticks(range(len(models)), names, parse_math=False)
        axes.set_title(name, loc="left", fontsize=9.5, color=theme.ink)
    rows[0].axvline(-margin, color=theme.classes[0], linewidth=1.4, linestyle=(0, (4, 2)))
    rows[0].set_xlim(*_reach(panels.values(), margin))
    rows[-1].set(xlabel="model minus reference, 95 % interval")
    _give_theme(rows, theme)
    head = f"Differences from {shortened(comparison['reference'])}"
    style = {"x": 0.01, "ha": "left", "color": theme.ink}
    figure.suptitle(head, fontsize=12.5, weight="bold", parse_math=False, **style)
    told = (
        f"{sample_text(comparison)}; dashed: the margin of {margin:g}; "
        "filled: shown to be not inferior, hollow: not shown"
    )
    figure.supxlabel(told, fontsize=8.5, **style)
    return figures.encoded(figure)


def _panels(models: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[Estimate]]]:
    differences = [model["difference"] for model in models]
    yield "balanced accuracy", [each["balanced_accuracy"] for each in differences]
    for label in LABELS:
        if URGENCY[label] == "urgent":
            yield f"sensitivity, {label}", [each["sensitivity"][label] for each in differences]


def _forest(
    axes: "Axes", estimates: Sequence[Estimate], solid: Sequence[bool], colour: str, theme: Theme
) -> None:
    for row, (estimate, filled) in enumerate(zip(estimates, solid, strict=True)):
        told = estimate_text(estimate, signed=True)
        beside = axes.get_yaxis_transform()
        axes.text(1.015, row, told, transform=beside, va="center", fontsize=9, color=theme.ink)
        if estimate["low"] is not None and estimate["high"] is not None:
            axes.plot([estimate["low"], estimate["high"]], [row, row], color=colour, linewidth=2)
        if estimate["value"] is not None:
            fill = colour if filled else theme.paper
            axes.plot(estimate["value"], row, "o", color=colour, markerfacecolor=fill, markersize=7)
    axes.axvline(0, color=theme.ink, linewidth=0.9, zorder=0)
    axes.set_ylim(len(estimates) - 0.4, -0.6)


def _reach(panels: Iterable[Sequence[Estimate]], margin: float) -> tuple[float, float]:
    ends = [each[key] for estimates in panels for each in estimates for key in ("value", "low", "high")]
    known = [0.0, -2 * margin, *(end for end in ends if end is not None)]
    low, high = min(known), max(known)
    room = 0.06 * (high - low)
    return low - room, high + room


def _give_theme(rows: Any, theme: Theme) -> None:
    for axes in rows:
        axes.set_facecolor(theme.paper)
        axes.tick_params(colors=theme.ink, labelsize=9)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=theme.faint, linewidth=0.5)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(theme.faint)
        figures.recolour([axes.xaxis.label], theme)
