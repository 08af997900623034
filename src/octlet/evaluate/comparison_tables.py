"""The tables of a comparison: two to read, where a line end sets an interval below its value, and a CSV."""

from collections.abc import Mapping
from typing import Any

from octlet.core.files import csv_of
from octlet.core.labels import LABELS
from octlet.evaluate.figures import estimate_text

Table = tuple[list[str], list[list[str]]]

MODELS_READ = (
    "Intervals: 95 %. CNV to NORMAL: sensitivity. missed: urgent scans called NORMAL. size: of the model "
    "file. smaller, faster: how many times, the reference being 1."
)
DIFFERENCES_READ = (
    "Model minus reference, 95 % intervals. CNV to NORMAL: sensitivity. gained, lost: scans that only the "
    "model, only the reference calls right; p: McNemar's exact test on them."
)

_ESTIMATES = ("accuracy", "balanced_accuracy", "macro_auc")
_DIFFERENCES = ("accuracy", "balanced_accuracy")


def models_table(comparison: dict[str, Any]) -> Table:
    """Return headers and a row for each model."""
    headers = ["model", "accuracy", "balanced", "macro AUC", *LABELS, "missed", "size", "smaller", "faster"]
    rows = []
    for model in comparison["models"]:
        mark = "\n(reference)" if model["name"] == comparison["reference"] else ""
        shares = ("n/a" if share is None else f"{share:.3f}" for share in model["sensitivity"].values())
        size = "n/a" if model["bytes"] is None else f"{model['bytes'] / 1e6:.1f} MB"
        rows.append(
            [
                model["name"] + mark,
                *(_stacked(model[key]) for key in _ESTIMATES),
                *shares,
                str(model["urgent_called_normal"]),
                size,
                _times(model["size_ratio"]),
                _times(model["latency_ratio"]),
            ]
        )
    return headers, rows


def differences_table(comparison: dict[str, Any]) -> Table:
    """Return headers and a row for each model but the reference."""
    headers = ["model", "accuracy", "balanced", *LABELS, "gained", "lost", "p", "not inferior"]
    rows = []
    for each in comparison["comparisons"]:
        difference, counts = each["difference"], each["discordant"]
        estimates = [*(difference[key] for key in _DIFFERENCES), *difference["sensitivity"].values()]
        rows.append(
            [
                each["name"],
                *(_stacked(estimate, signed=True) for estimate in estimates),
                str(counts["only_model_right"]),
                str(counts["only_reference_right"]),
                p_text(counts["mcnemar_p"]),
                "shown" if each["not_inferior"] else "not shown",
            ]
        )
    return headers, rows


def table_csv(comparison: dict[str, Any]) -> str:
    """Return a line for each model, the reference first, as CSV; what is not known or not defined is empty.

    Columns: figures with `_low` and `_high` where they have an interval, cost, and after them the differences
    from the reference, empty in its own line. Numbers read back as the same float64.
    """
    against = {each["name"]: each for each in comparison["comparisons"]}
    lines = []
    for model in comparison["models"]:
        line: dict[str, Any] = {"name": model["name"]}
        for key in _ESTIMATES:
            line |= estimate_columns(key, model[key])
        line |= {f"sensitivity_{label}": share for label, share in model["sensitivity"].items()}
        line |= {key: model[key] for key in ("urgent_called_normal", "bytes", "size_ratio", "latency_ratio")}
        lines.append(line | (_paired_columns(against[model["name"]]) if model["name"] in against else {}))
    return csv_of(lines, lines[-1])


def p_text(p: float) -> str:
    """Return a p-value to three places, `0.042`, or `< 0.001`."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _paired_columns(each: dict[str, Any]) -> dict[str, Any]:
    difference, counts = each["difference"], each["discordant"]
    columns: dict[str, Any] = {}
    for key in _DIFFERENCES:
        columns |= estimate_columns(f"{key}_difference", difference[key])
    for label, estimate in difference["sensitivity"].items():
        columns |= estimate_columns(f"sensitivity_{label}_difference", estimate)
    columns |= {key: counts[key] for key in ("only_reference_right", "only_model_right", "mcnemar_p")}
    return {**columns, "not_inferior": str(each["not_inferior"]).lower()}


def estimate_columns(name: str, estimate: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return an estimate and the ends of its interval under the names NAME, NAME_low and NAME_high."""
    return {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}


def _stacked(estimate: dict[str, float | None], *, signed: bool = False) -> str:
    value, _, between = estimate_text(estimate, signed=signed).partition(" (")
    return f"{value}\n{between.rstrip(')')}" if between else value


def _times(ratio: float | None) -> str:
    return "n/a" if ratio is None else f"{ratio:.2f}\N{MULTIPLICATION SIGN}"
