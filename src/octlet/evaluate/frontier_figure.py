"""The frontier as one picture: balanced accuracy over each of four costs."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from octlet.evaluate.figures import LIGHT, Theme, canvas, encoded, recolour, sample_text
from octlet.evaluate.frontier import AXES, cost_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# axis -> its label, and the unit that a cost is divided by
_LABELS = {
    "macs": ("multiply-accumulates, millions", 1e6),
    "bytes": ("model file, MB", 1e6),
    "latency_ratio": ("time measured here, one thread (dense float = 1)", 1.0),
    "pi5_modelled_ms": ("MODELLED Raspberry Pi 5 latency, ms", 1.0),
}

# by `not_inferior`: shape, size, what it tells; the reference is large, to be seen behind a point of its cost
_MARKS = {
    None: ("s", 10, "dense float, the reference"),
    True: ("o", 7, "not inferior to it"),
    False: ("v", 7, "not shown to be not inferior"),
}
_READ = (
    "Numbers: share of the MACs. Vertical bars: each model's own 95 % interval; what is not inferior is told "
    "by paired differences. Horizontal bars: the model of the Pi with the most and least efficient of the "
    "published runs."
)


def frontier_png(frontier: Mapping[str, Any]) -> bytes:
    """Draw what `octlet.recipe.frontier_table.write_frontier` returns.

    A point's shape and colour tell whether it is not inferior, a filled one is a Pareto point of its panel,
    a ring marks the chosen one. Vertical bars are 95 % intervals, horizontal ones the band of the Pi's model.
    """
    theme = LIGHT
    figure = canvas(7.5, 8.2, theme)
    grid = figure.subplots(2, 2, sharey=True)
    for axes, axis in zip(grid.ravel(), AXES, strict=True):
        _panel(axes, axis, frontier, theme)
        _give_theme(axes, theme)
    for axes in grid[:, 0]:
        axes.set_ylabel("balanced accuracy", color=theme.ink, fontsize=9)
    _legend(figure, frontier, theme)
    paragraphs = (f"{sample_text(dict(frontier))}. {frontier['selection']}", _READ)
    told = "\n".join(textwrap.fill(each, 124) for each in paragraphs)
    figure.supxlabel(told, fontsize=8, x=0.01, ha="left", color=theme.ink)
    return encoded(figure)


def _panel(axes: "Axes", axis: str, frontier: Mapping[str, Any], theme: Theme) -> None:
    label, unit = _LABELS[axis]
    points = frontier["points"]
    costs = [cost_on(axis, point) / unit for point in points]
    axes.axhline(points[0]["balanced_accuracy"]["value"], color=theme.faint, linewidth=1.4, zorder=0)
    for cost, point in zip(costs, points, strict=True):
        estimate, colour = point["balanced_accuracy"], _colour(point, theme)
        shape, size, _ = _MARKS[point["not_inferior"]]
        bar: dict[str, Any] = {"color": colour, "linewidth": size / 5, "alpha": 0.6}
        if estimate["low"] is not None:
            axes.plot([cost, cost], [estimate["low"], estimate["high"]], **bar)
        if axis == "pi5_modelled_ms":
            axes.plot([point[axis]["low"], point[axis]["high"]], [estimate["value"]] * 2, **bar)
        fill = colour if point["pareto"][axis] else theme.paper
        axes.plot(cost, estimate["value"], shape, color=colour, markerfacecolor=fill, markersize=size)
        if point["name"] == frontier["chosen"]:
            axes.plot(cost, estimate["value"], "o", color=theme.ink, fillstyle="none", markersize=14)
    _scale(axes, label)
    _name(axes, costs, points, frontier["chosen"], theme)


def _scale(axes: "Axes", label: str) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlabel(label, fontsize=9)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.12)


def _colour(point: Mapping[str, Any], theme: Theme) -> str:
    return {None: theme.ink, True: theme.bar, False: theme.classes[0]}[point["not_inferior"]]


def _name(
    axes: "Axes", costs: Sequence[float], points: Sequence[Mapping[str, Any]], chosen: str, theme: Theme
) -> None:
    """Write the points' names at the ends of their intervals, above and below in turn."""
    for number, (cost, point) in enumerate(zip(costs, points, strict=True)):
        below, estimate = number % 2 == 1, point["balanced_accuracy"]
        end = estimate["low" if below else "high"]
        axes.annotate(
            point["name"] if point["target"] is None else f"{point['target']:g}",
            (cost, estimate["value"] if end is None else end),
            xytext=(0, -4 if below else 4),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            fontsize=8,
            color=theme.ink,
            weight="bold" if point["name"] == chosen else "normal",
        )


def _legend(figure: "Figure", frontier: Mapping[str, Any], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    def mark(shape: str, size: int, told: str, colour: str, fill: str) -> Line2D:
        style: dict[str, Any] = {
            "marker": shape,
            "markersize": size,
            "color": colour,
            "markerfacecolor": fill,
        }
        return Line2D([], [], label=told, linestyle="", **style)

    colours = {point["not_inferior"]: _colour(point, theme) for point in frontier["points"]}
    marks = [mark(*_MARKS[key], colours[key], colours[key]) for key in _MARKS if key in colours]
    marks.append(mark("D", 7, "hollow: another is no worse and costs no more", theme.ink, theme.paper))
    if frontier["chosen"]:
        marks.append(mark("o", 13, f"chosen: {frontier['chosen']}", theme.ink, "none"))
    legend = figure.legend(
        handles=marks,
        loc="outside upper left",
        ncols=2,
        fontsize=8.5,
        frameon=False,
        title="Accuracy against cost",
        title_fontproperties={"size": 12.5, "weight": "bold"},
        alignment="left",
    )
    recolour([*legend.get_texts(), legend.get_title()], theme)


def _give_theme(axes: "Axes", theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.tick_params(which="both", colors=theme.ink, labelsize=8)
    axes.grid(color=theme.faint, linewidth=0.5)
    axes.set_axisbelow(True)
    recolour([axes.xaxis.label], theme)
    for spine in axes.spines.values():
        spine.set_color(theme.faint)
