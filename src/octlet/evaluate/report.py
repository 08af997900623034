"""What an evaluation leaves behind: a folder of data, figures and one page to read."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from octlet.core.files import write_bytes, write_json, write_text
from octlet.core.labels import LABELS, URGENCY
from octlet.evaluate import figures, page
from octlet.evaluate.doubt import SHARES
from octlet.evaluate.figures import DARK, LIGHT, Theme, estimate_text
from octlet.evaluate.predictions import Predictions, write_predictions

# key in the summary -> (name, what it tells)
METRICS = {
    "accuracy": ("accuracy", "share of scans called by their label"),
    "balanced_accuracy": ("balanced accuracy", "mean of the sensitivities of the classes present"),
    "macro_auc": ("macro AUC", "mean over classes of the ranking of a class's scans above all others"),
    "urgent_auc": ("urgent AUC", "ranking of CNV and DME above DRUSEN and NORMAL by p(CNV) + p(DME)"),
    "macro_f1": ("macro F1", "mean over classes of the harmonic mean of sensitivity and precision"),
    "ece": ("calibration error", "mean distance of confidence from accuracy in 15 bins; 0 is best"),
    "log_loss": ("log loss", "mean -ln of the probability given to the actual class; 0 is best"),
    "urgent_called_normal_rate": ("urgent called NORMAL", "share of CNV and DME scans called NORMAL"),
}


_TITLES = {"confusion": "Confusion matrix", "roc": "ROC curves", "reliability": "Reliability diagram"}

# A figure's PNG in the light and in the dark theme.
Drawing = tuple[bytes, bytes]


def write_evaluation(
    folder: str | Path,
    predictions: Predictions,
    summary: dict[str, Any],
    *,
    model: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write predictions.csv, metrics.json, confusion.png, roc.png, reliability.png and report.html.

    `summary` comes from `summarise`, with whatever the caller added. `model` identifies what was evaluated;
    `notes` are sentences that a reader must know. Each file is whole or not there; OSError passes through.
    """
    out = Path(folder)
    drawings = {
        "confusion": drawn(lambda theme: figures.confusion_png(summary, theme)),
        "roc": drawn(lambda theme: figures.roc_png(predictions, summary, theme)),
        "reliability": drawn(lambda theme: figures.reliability_png(predictions, summary, theme)),
    }
    write_predictions(out / "predictions.csv", predictions)
    for name, (light, _) in drawings.items():
        write_bytes(out / f"{name}.png", light)
    write_text(out / "report.html", evaluation_page(predictions, summary, drawings, model=model, notes=notes))
    write_json(out / "metrics.json", summary)


def drawn(draw: Callable[[Theme], bytes]) -> Drawing:
    """Draw a figure in the light and in the dark theme."""
    return draw(LIGHT), draw(DARK)


def evaluation_page(
    predictions: Predictions,
    summary: dict[str, Any],
    drawings: Mapping[str, Drawing],
    *,
    model: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the page of one evaluation; `drawings` are confusion, roc and reliability."""
    sample = _sample(summary)
    name = f"{model['name']}: " if model and model.get("name") else ""
    captions = {
        "confusion": "Scans and their share of the actual class. A scan is called by its top probability.",
        "roc": "Each class against the other three; urgent is CNV and DME by p(CNV) + p(DME).",
        "reliability": "Below the dashed line the model is surer than it is right; bars count scans per bin.",
    }
    shown = (
        page.figure(*drawings[key], f"{_TITLES[key]}, {sample}", caption) for key, caption in captions.items()
    )
    parts = [
        _tiles(summary),
        notes_section(notes),
        page.section("Metrics", _metrics(summary)),
        page.section("Classes", _classes(summary)),
        page.section("Doubt", _doubt(summary["doubt"])) if "doubt" in summary else "",
        page.pair(*shown),
        _urgent_called_normal(predictions, summary),
        page.section("Model", page.facts(model)) if model else "",
        page.section("Method", *map(page.paragraph, _method(summary))),
    ]
    return page.document("Evaluation", f"{name}{sample}", parts)


def _sample(summary: dict[str, Any]) -> str:
    return f"{summary['n']} scans of {summary['patients']} patients"


def notes_section(notes: Sequence[str]) -> str:
    """Return what a reader must know as a section, or nothing where there is nothing."""
    return page.section("Know before use", *map(page.paragraph, notes)) if notes else ""


def _tiles(summary: dict[str, Any]) -> str:
    entries = []
    for key in ("balanced_accuracy", "macro_auc", "urgent_auc"):
        value, _, between = estimate_text(summary[key]).partition(" ")
        entries.append((METRICS[key][0], value, f"95 % interval {between.strip('()')}", False))
    missed = summary["urgent_called_normal"]
    rate = estimate_text(summary["urgent_called_normal_rate"])
    entries.append(("urgent scans called NORMAL", str(missed), f"rate {rate}", missed > 0))
    return page.tiles(entries)


def _urgent_called_normal(predictions: Predictions, summary: dict[str, Any]) -> str:
    urgent = sum(summary["per_class"][label]["n"] for label in LABELS if URGENCY[label] == "urgent")
    title = f"Urgent scans called NORMAL: {summary['urgent_called_normal']} of {urgent}"
    row_of = {path: row for row, path in enumerate(predictions.paths)}
    rows = []
    for path in summary["urgent_called_normal_paths"]:
        row = row_of[path]
        label = int(predictions.labels[row])
        shares = (f"{predictions.probabilities[row, k]:.3f}" for k in (label, LABELS.index("NORMAL")))
        rows.append([path, LABELS[label], predictions.patients[row], *shares])
    if not rows:
        return page.section(title, page.paragraph("None in this sample."))
    headers = ["scan", "actual", "patient", "p(actual)", "p(NORMAL)"]
    return page.section(title, page.table(headers, rows))


def _metrics(summary: dict[str, Any]) -> str:
    heads, rows = metric_rows(summary)
    told = [told for _, told in METRICS.values()]
    return page.table([*heads, "what it tells"], [[*row, each] for row, each in zip(rows, told, strict=True)])


def metric_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of `METRICS` with intervals, and of several folds the means."""
    of_folds = summary.get("mean_of_folds")
    heads = ["", "value (95 % interval)", *(["mean of the folds"] if of_folds else [])]
    sources = [summary, of_folds] if of_folds else [summary]
    return heads, [
        [name, *(estimate_text(each[key]) if key in each else "" for each in sources)]
        for key, (name, _) in METRICS.items()
    ]


def _classes(summary: dict[str, Any]) -> str:
    rows = []
    for label, own in summary["per_class"].items():
        estimates = (
            estimate_text({"value": own[name], **own["intervals"][name]})
            for name in ("sensitivity", "specificity", "auc")
        )
        rows.append([label, URGENCY[label], own["n"], own["patients"], *estimates])
    headers = ["class", "referral", "scans", "patients", "sensitivity", "specificity", "AUC"]
    return page.table(headers, rows)


def _doubt(found: Mapping[str, Any]) -> str:
    rows = [(name, estimate_text(found[key]), told) for key, (name, told) in SHARES.items()]
    for label, own in found["per_class"].items():
        rows.append((f"set holds the class: {label}", estimate_text(own), f"of {own['n']} scans"))
    rows.append(("classes in a set", f"{found['set_size']:.2f}", "mean"))
    return page.table(["", "value (95 % interval)", "what it tells"], rows)


def _method(summary: dict[str, Any]) -> list[str]:
    return [
        f"Intervals are 95 % percentile intervals of a patient-cluster bootstrap: {summary['resamples']} "
        f"resamples with seed {summary['seed']}, each drawing whole patients with replacement (Field and "
        "Welsh 2007). A share of exactly 0 or 1 gets the exact binomial bound with patients as the trials.",
        "Percentile intervals are somewhat too narrow below about 20 patients. They tell how much the sample "
        "may mislead about patients like these, not how the model fares on another device or population.",
        "Averages over classes run over the classes present. Calibration error after Guo et al. 2017, with "
        "15 bins of equal width of the highest probability.",
    ]
