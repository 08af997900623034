"""Which of several models are worth having: none is better and cheaper, and the smallest is good enough."""

from collections.abc import Mapping, Sequence
from typing import Any

from octlet.core.files import csv_of
from octlet.evaluate.comparison_tables import Table, estimate_columns, p_text
from octlet.evaluate.figures import estimate_text

# key of a cost in a point -> what it is; a Pareto point is one for each by itself
AXES = {
    "macs": "MACs",
    "bytes": "file size",
    "latency_ratio": "measured latency",
    "pi5_modelled_ms": "modelled Pi 5 latency",
}

COSTS_READ = (
    "share: of the dense network's MACs. faster: than the first, measured here side by side, one thread. "
    "Pi 5: MODELLED from the MACs and published runs of other networks, never measured. Pareto: no other "
    "model is at least as accurate for at most as many MACs."
)
QUALITY_READ = (
    "Intervals: 95 %, each model's own. difference: balanced accuracy minus the first's, the same patients "
    "drawn for both; p: McNemar's exact test."
)
_ESTIMATES = ("balanced_accuracy", "accuracy", "macro_auc")


def pareto(values: Sequence[float], costs: Sequence[float]) -> list[bool]:
    """Tell of each point that no other has at least its value for at most its cost, one of both being better.

    Points that are equal in both stand or fall together.
    """
    points = list(zip(values, costs, strict=True))
    return [
        not any(v >= value and c <= cost and (v, c) != (value, cost) for v, c in points)
        for value, cost in points
    ]


def frontier_of(comparison: Mapping[str, Any], costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the points of a comparison with what they cost, the Pareto points, and the one to choose.

    Args:
        comparison: of `compare_models`; its reference is the dense network.
        costs: for each model in its order `macs` and `pi5_modelled_ms` ({"value", "low", "high"}); other keys
            pass through. File size and latency are those of the comparison.

    Returns:
        {"points": the models with their cost, paired figures (None for the reference) and `pareto`, a truth
        value for each of `AXES`; "chosen": the name of the point with the fewest MACs, and of those the
        smallest file, that is not inferior, or None; "in_order": whether every larger point is not inferior
        either; "selection": what that choice means, in words}.
    """
    against = {each["name"]: each for each in comparison["comparisons"]}
    unpaired = dict.fromkeys(("difference", "discordant", "not_inferior"))
    points = [
        {**model, **(against.get(model["name"]) or unpaired), **cost}
        for model, cost in zip(comparison["models"], costs, strict=True)
    ]
    values = [point["balanced_accuracy"]["value"] for point in points]
    marks = {axis: pareto(values, [cost_on(axis, point) for point in points]) for axis in AXES}
    for number, point in enumerate(points):
        point["pareto"] = {axis: marked[number] for axis, marked in marks.items()}
    chosen, in_order = choice(points)
    found = {"points": points, "chosen": chosen, "in_order": in_order}
    return found | {"selection": _selection(found, comparison)}


def cost_on(axis: str, point: Mapping[str, Any]) -> float:
    """Return what a point costs on one of `AXES`; the latency is its share of the reference's."""
    if axis == "latency_ratio":
        return float(1 / point[axis])
    return float(point[axis]["value"] if axis == "pi5_modelled_ms" else point[axis])


def choice(points: Sequence[Mapping[str, Any]]) -> tuple[str | None, bool]:
    """Return the name of the smallest point that is not inferior, and whether every larger one is so too.

    Non-inferiority is claimed from large to small: as long as every test passes, the tests in that order keep
    the error of a single one (fixed sequence; Maurer, Hothorn and Lehmacher 1995; Westfall and Krishen 2001,
    J. Statist. Plan. Inference 99:25), provided that the order was fixed before the scans were looked at.
    """
    from_large = sorted(
        (point for point in points if point["not_inferior"] is not None), key=_size, reverse=True
    )
    passed = [bool(point["not_inferior"]) for point in from_large]
    if not any(passed):
        return None, False
    last = len(passed) - 1 - passed[::-1].index(True)
    return str(from_large[last]["name"]), all(passed[: last + 1])


def _size(point: Mapping[str, Any]) -> tuple[float, float]:
    return point["macs"], point["bytes"]


def _selection(found: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    looks, by = len(found["points"]) - 1, f"by a margin of {comparison['margin']:g} of balanced accuracy"
    if found["chosen"] is None:
        return f"None of {looks} compressed models is shown to be not inferior to the dense one {by}."
    order = (
        "Every larger model passed as well: tested from large to small, with targets that were set before, "
        "the claim needs no correction for the number of tests."
        if found["in_order"]
        else f"A larger model did not pass, so this is the best of {looks} looks, and may be chance."
    )
    return (
        f"{found['chosen']} is the smallest of {looks} compressed models that is not inferior to the dense "
        f"one {by}. It was picked on these very test scans, which flatters its own figures. {order} Confirm "
        "it on patients that had no part in the choice."
    )


# Tables -----------------------------------------------------------------------------------------------


def costs_table(frontier: Mapping[str, Any]) -> Table:
    """Return headers and a row for each point: what it costs."""
    headers = ["model", "MACs", "share", "parameters", "file", "faster", "Pi 5 ms, MODELLED", "Pareto"]
    rows = []
    for point in frontier["points"]:
        pi5 = point["pi5_modelled_ms"]
        rows.append(
            [
                point["name"] + (" *" if point["name"] == frontier["chosen"] else ""),
                f"{point['macs'] / 1e6:,.1f} M",
                f"{point['macs_share']:.1%}",
                f"{point['parameters']:,}",
                f"{point['bytes'] / 1e6:.2f} MB",
                f"{point['latency_ratio']:.2f}\N{MULTIPLICATION SIGN}",
                f"{pi5['value']:.3g} ({pi5['low']:.3g}\N{EN DASH}{pi5['high']:.3g})",
                "yes" if point["pareto"]["macs"] else "",
            ]
        )
    return headers, rows


def quality_table(frontier: Mapping[str, Any]) -> Table:
    """Return headers and a row for each point: what it keeps of the accuracy."""
    headers = ["model", "balanced accuracy", "accuracy", "macro AUC", "difference", "p", "not inferior"]
    rows = []
    for point in frontier["points"]:
        paired = ["", "", ""]
        if point["difference"]:
            difference = estimate_text(point["difference"]["balanced_accuracy"], signed=True)
            verdict = "shown" if point["not_inferior"] else "not shown"
            paired = [difference, p_text(point["discordant"]["mcnemar_p"]), verdict]
        rows.append([point["name"], *(estimate_text(point[key]) for key in _ESTIMATES), *paired])
    return headers, rows


def frontier_csv(frontier: Mapping[str, Any]) -> str:
    """Return a line for each point as CSV, the dense network first; what is not defined is empty."""
    lines = [
        {key: str(value).lower() if isinstance(value, bool) else value for key, value in line.items()}
        for line in (
            _line(point) | {"chosen": point["name"] == frontier["chosen"]} for point in frontier["points"]
        )
    ]
    return csv_of(lines)


def _line(point: Mapping[str, Any]) -> dict[str, Any]:
    plain = ("name", "model", "macs", "macs_share", "parameters", "bytes", "latency_ratio")
    line = {key: point[key] for key in plain} | estimate_columns("pi5_modelled_ms", point["pi5_modelled_ms"])
    for key in _ESTIMATES:
        line |= estimate_columns(key, point[key])
    undefined = dict.fromkeys(("value", "low", "high"))
    difference = point["difference"]["balanced_accuracy"] if point["difference"] else undefined
    line |= estimate_columns("balanced_accuracy_difference", difference)
    line["mcnemar_p"] = point["discordant"]["mcnemar_p"] if point["discordant"] else None
    line["not_inferior"] = point["not_inferior"]
    line["urgent_called_normal"] = point["urgent_called_normal"]
    return line | {f"pareto_{axis}": mark for axis, mark in point["pareto"].items()}
