"""Figures as PNG bytes: confusion, ROC and reliability, each with its n, its patients and its interval.

Colours are those of Okabe & Ito ("Color universal design", 2008), told apart by colour-blind readers, and no
figure speaks by colour alone. A figure is drawn without pyplot: no window, no state shared between calls.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.labels import LABELS
from octlet.evaluate import metrics
from octlet.evaluate.calibration import BINS, reliability
from octlet.evaluate.predictions import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160

# A bin of the reliability diagram with fewer scans says next to nothing and is drawn hollow.
_FEW = 10
OUTLINE = "outlined: urgent scans called NORMAL"


@dataclass(frozen=True)
class Theme:
    """The colours of one figure; `cells` are those of a share of 0 and of 1."""

    paper: str
    ink: str
    faint: str
    bar: str
    cells: tuple[str, str]
    classes: tuple[str, str, str, str]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2428",
    faint="#d5dadd",
    bar="#0072b2",
    cells=("#ffffff", "#0b5a8a"),
    classes=("#d55e00", "#cc79a7", "#0072b2", "#009e73"),
)
DARK = Theme(
    paper="#15191c",
    ink="#e4e8ea",
    faint="#3b4347",
    bar="#56b4e9",
    cells=("#15191c", "#56b4e9"),
    classes=("#f08a3c", "#dd9bc1", "#56b4e9", "#2cc495"),
)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def confusion_png(summary: dict[str, Any], theme: Theme = LIGHT) -> bytes:
    """Draw the confusion matrix of a summary: scans and share of the actual class in each cell."""
    figure = canvas(5.6, 5.4, theme)
    axes = figure.subplots()
    draw_confusion(axes, np.array(summary["confusion_matrix"]), theme)
    set_heading(
        axes, "Confusion matrix", [sample_text(summary), _told("balanced accuracy", summary), OUTLINE], theme
    )
    return encoded(figure)


def roc_png(predictions: Predictions, summary: dict[str, Any], theme: Theme = LIGHT) -> bytes:
    """Draw the four one-against-rest ROC curves and the one of urgent against not urgent."""
    figure = canvas(6.2, 6.0, theme)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1)
    labels, p = predictions.labels, predictions.probabilities
    for k, label in enumerate(LABELS):
        own = summary["per_class"][label]
        told = estimate_text({"value": own["auc"], **own["intervals"]["auc"]})
        style = {"color": theme.classes[k], "linestyle": _DASHES[k], "linewidth": 1.7}
        axes.plot(*metrics.roc_curve(p[:, k], labels == k), label=f"{label}  {told}", **style)
    urgent = metrics.roc_curve(metrics.urgent_score(p), metrics.URGENT[labels])
    told = estimate_text(summary["urgent_auc"])
    axes.plot(*urgent, label=f"urgent  {told}", color=theme.ink, linewidth=2.2)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(
        xlabel="1 \N{MINUS SIGN} specificity (false positive rate)", ylabel="sensitivity (true positive rate)"
    )
    legend = axes.legend(loc="lower right", title="AUC (95 % interval)", fontsize=8.5, frameon=False)
    recolour([*legend.get_texts(), legend.get_title()], theme)
    set_heading(
        axes, "ROC, each class against the rest", [sample_text(summary), _told("macro AUC", summary)], theme
    )
    return encoded(figure)


def reliability_png(predictions: Predictions, summary: dict[str, Any], theme: Theme = LIGHT) -> bytes:
    """Draw accuracy against confidence in 15 bins, with the number of scans of each bin below."""
    figure = canvas(6.0, 6.6, theme)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    count, confidence, accuracy = reliability(predictions.probabilities, predictions.labels)
    seen = count > 0
    upper.plot([0, 1], [0, 1], color=theme.ink, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
    upper.vlines(confidence[seen], confidence[seen], accuracy[seen], color=theme.classes[0], linewidth=2.2)
    for bins, told, fill in (
        (count >= _FEW, "scans of one bin", theme.bar),
        (seen & (count < _FEW), f"fewer than {_FEW} scans", theme.paper),
    ):
        upper.plot(confidence[bins], accuracy[bins], "o", color=theme.bar, markerfacecolor=fill, label=told)
    upper.set(ylabel="accuracy", ylim=(-0.03, 1.03), xlim=(0, 1))
    recolour(upper.legend(loc="upper left", fontsize=8.5, frameon=False).get_texts(), theme)
    centres = (np.arange(BINS) + 0.5) / BINS
    lower.bar(centres, count, width=0.92 / BINS, color=theme.bar)
    for centre, scans in zip(centres[seen], count[seen], strict=True):
        lower.text(centre, scans, f"{scans}", ha="center", va="bottom", fontsize=7.5, color=theme.ink)
    lower.set(ylabel="scans", xlabel="confidence (highest probability)", ylim=(0, 1.18 * count.max()))
    set_heading(
        upper, "Reliability", [sample_text(summary), _told("calibration error", summary, key="ece")], theme
    )
    for axes in (upper, lower):
        axes.grid(color=theme.faint, linewidth=0.5)
        axes.set_axisbelow(True)
    return encoded(figure)


def estimate_text(estimate: dict[str, float | None], *, signed: bool = False) -> str:
    """Return `0.912 (0.880-0.941)`; an interval that is not defined is left out, a missing value is `n/a`."""
    form = "+.3f" if signed else ".3f"
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "n/a"
    if low is None or high is None:
        return f"{value:{form}} (no interval)"
    between = " to " if signed else "\N{EN DASH}"
    return f"{value:{form}} ({low:{form}}{between}{high:{form}})".replace("-", "\N{MINUS SIGN}")


def shortened(name: str, most: int = 44) -> str:
    """Return a name of at most `most` characters; a longer one loses its beginning."""
    return name if len(name) <= most else f"\N{HORIZONTAL ELLIPSIS}{name[1 - most :]}"


def sample_text(summary: dict[str, Any]) -> str:
    """Return how many scans and patients a figure rests on."""
    return f"n = {summary['n']} scans of {summary['patients']} patients"


def _told(name: str, summary: dict[str, Any], key: str = "") -> str:
    return f"{name} {estimate_text(summary[key or name.lower().replace(' ', '_')])}"


def draw_confusion(axes: "Axes", counts: NDArray[np.int64], theme: Theme) -> None:
    """Draw a confusion matrix, (4, 4) scans, into axes, and outline the urgent scans called NORMAL."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    shares = np.nan_to_num(metrics.ratio(counts, counts.sum(axis=1, keepdims=True)))
    ramp = LinearSegmentedColormap.from_list("shares", theme.cells)
    axes.imshow(shares, cmap=ramp, vmin=0, vmax=1)
    for (row, column), scans in np.ndenumerate(counts):
        colour = theme.paper if shares[row, column] > 0.5 else theme.ink
        weight = "bold" if row == column else "normal"
        axes.text(column, row, f"{scans}", ha="center", va="bottom", color=colour, fontsize=14, weight=weight)
        axes.text(column, row + 0.1, f"{shares[row, column]:.1%}", ha="center", va="top", color=colour)
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_yticks(range(len(LABELS)), LABELS, rotation=90, va="center")
    axes.set_xticks(np.arange(len(LABELS) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(LABELS) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=theme.faint, linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="called", ylabel="actual")
    for row in np.flatnonzero(metrics.URGENT):
        corner = LABELS.index("NORMAL") - 0.46, row - 0.46
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=theme.classes[0], linewidth=1.6))


def canvas(width: float, height: float, theme: Theme) -> "Figure":
    """Return an empty figure, its sides in inches, that no window belongs to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure((width, height), dpi=DPI, facecolor=theme.paper, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def set_heading(axes: "Axes", head: str, lines: Sequence[str], theme: Theme) -> None:
    """Set head and caption lines above the axes, and give the axes their theme."""
    # The layout makes room for a title and its padding only, so the caption stands in the padding.
    pad = 10 + 12 * len(lines)
    # A file's name may hold dollar signs, which are no formula.
    style: dict[str, Any] = {"fontsize": 12.5, "weight": "bold", "color": theme.ink, "parse_math": False}
    axes.set_title(head, loc="left", pad=pad, **style)
    axes.annotate(
        "\n".join(lines),
        (0, 1),
        xytext=(0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=theme.ink,
    )
    for each in axes.figure.axes:
        each.set_facecolor(theme.paper)
        each.tick_params(colors=theme.ink, labelsize=9)
        recolour([each.xaxis.label, each.yaxis.label], theme)
        for spine in each.spines.values():
            spine.set_color(theme.faint)


def recolour(texts: Sequence[Any], theme: Theme) -> None:
    """Give texts the ink of the theme."""
    for text in texts:
        text.set_color(theme.ink)


def encoded(figure: "Figure") -> bytes:
    """Return a figure as PNG bytes."""
    file = io.BytesIO()
    # Without matplotlib's version in the file, the same numbers give the same bytes for longer.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
