"""What a comparison leaves behind: a folder of data, figures and one page to read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from octlet.core.files import write_bytes, write_json, write_text
from octlet.evaluate import comparison_figures, page
from octlet.evaluate.comparison import Contender, newly_called_normal
from octlet.evaluate.comparison_tables import (
    DIFFERENCES_READ,
    MODELS_READ,
    differences_table,
    models_table,
    table_csv,
)
from octlet.evaluate.curves import History, curves_png
from octlet.evaluate.figures import estimate_text, sample_text
from octlet.evaluate.naming import file_names
from octlet.evaluate.predictions import write_predictions
from octlet.evaluate.report import Drawing, drawn, notes_section

TABLE = "table"

# A row of a dozen columns is wider than a line of text should be.
_STYLE = """
body { max-width: 78rem; }
th, td { padding-right: .8rem; }
section > figure { margin-top: 1.4rem; }
@media print {
  table { font-size: .74rem; } .under { font-size: .66rem; } th, td { padding-right: .5rem; }
}
"""


def write_comparison(
    folder: str | Path,
    comparison: dict[str, Any],
    contenders: Sequence[Contender],
    histories: Sequence[History] = (),
) -> None:
    """Write a comparison's data, figures and page.

    They are comparison.json, table.csv, confusion.png, difference.png, report.html, with `histories`
    curves.png, and each contender's predictions under its name. `comparison` comes from `compare_models`,
    with what the caller added; its `notes` are sentences that a reader must know. Each file is whole or not
    there; OSError passes through.
    """
    out = Path(folder)
    drawings = {
        "confusion": drawn(lambda theme: comparison_figures.confusions_png(comparison, theme)),
        "difference": drawn(lambda theme: comparison_figures.difference_png(comparison, theme)),
    }
    if histories:
        drawings["curves"] = drawn(lambda theme: curves_png(histories, theme))
    files = file_names([each.name for each in contenders], taken=[TABLE])
    for file, each in zip(files, contenders, strict=True):
        write_predictions(out / f"{file}.csv", each.predictions)
    for name, (light, _) in drawings.items():
        write_bytes(out / f"{name}.png", light)
    write_text(out / f"{TABLE}.csv", table_csv(comparison))
    write_text(out / "report.html", comparison_page(comparison, drawings))
    write_json(out / "comparison.json", comparison)


def comparison_page(comparison: dict[str, Any], drawings: Mapping[str, Drawing]) -> str:
    """Return the page of a comparison; `drawings` are confusion, difference and, where there are, curves."""
    sample, reference = sample_text(comparison), comparison["reference"]
    shown = {
        name: page.figure(*drawings[name], f"{name}, {sample}", caption)
        for name, caption in {
            "confusion": "Scans, and their share of the actual class.",
            "difference": "Right of zero a model is better than the reference. Sensitivities have no margin.",
            "curves": "Each run over its own epochs: training on augmented scans, validation on scans as "
            "they are. Losses under different settings, as of label smoothing, do not compare.",
        }.items()
        if name in drawings
    }
    others = ", ".join(each["name"] for each in comparison["comparisons"])
    parts = [
        page.tiles(map(_tile, comparison["comparisons"])),
        notes_section(comparison.get("notes", ())),
        page.section("Models", page.table(*models_table(comparison)), page.paragraph(MODELS_READ)),
        page.section(
            f"Differences from {reference}",
            page.table(*differences_table(comparison)),
            page.paragraph(DIFFERENCES_READ),
            shown["difference"],
        ),
        page.section("Confusion matrices", shown["confusion"]),
        page.section("Training", shown["curves"]) if "curves" in shown else "",
        _called_normal(comparison),
        page.section("What was compared", _identities(comparison["models"])),
        page.section("Method", *map(page.paragraph, _method(comparison))),
    ]
    lead = f"{reference}, the reference, against {others}. {sample[4:]}, the same for all."
    return page.document("Comparison", lead, parts, _STYLE)


def _tile(each: dict[str, Any]) -> tuple[str, str, str, bool]:
    told = estimate_text(each["difference"]["balanced_accuracy"], signed=True)
    value, _, between = told.partition(" ")
    verdict = "not inferior" if each["not_inferior"] else "not shown to be not inferior"
    note = f"95 % interval {between.strip('()')}; {verdict}"
    return f"{each['name']}: balanced accuracy", value, note, not each["not_inferior"]


def _called_normal(comparison: dict[str, Any]) -> str:
    models = comparison["models"]
    missed = [set(model["urgent_called_normal_paths"]) for model in models]
    rows = [[path, *("yes" * (path in own) for own in missed)] for path in sorted(set().union(*missed))]
    counts = ", ".join(f"{model['name']} {model['urgent_called_normal']}" for model in models)
    title = f"Urgent scans called NORMAL: {counts}"
    if not rows:
        return page.section(title, page.paragraph("None in this sample."))
    newly = [
        f"{each['name']} {len(newly_called_normal(comparison, each['name']))}"
        for each in comparison["comparisons"]
    ]
    told = page.paragraph(
        f"Called NORMAL by the model and not by {comparison['reference']}: {', '.join(newly)}."
    )
    return page.section(title, told, page.table(["scan", *(f"by {model['name']}" for model in models)], rows))


def _identities(models: Sequence[dict[str, Any]]) -> str:
    headers = ["model", "from", "SHA-256"]
    rows = [[model["name"], *(model["identity"][key] for key in ("name", "sha256"))] for model in models]
    costs = [model["identity"].get("cost", {}).get("file", "") for model in models]
    if not any(costs):
        return page.table(headers, rows)
    rows = [[*row, cost] for row, cost in zip(rows, costs, strict=True)]
    return page.table([*headers, "size and speed of"], rows)


def _method(comparison: dict[str, Any]) -> list[str]:
    lines = [
        f"Intervals are 95 % percentile intervals of a patient-cluster bootstrap: {comparison['resamples']} "
        f"resamples with seed {comparison['seed']}, each drawing the same patients for all models. A share "
        "of exactly 0 or 1 gets the exact binomial bound with patients as the trials.",
        "A model is not inferior when the low end of its difference in balanced accuracy lies above "
        f"{-comparison['margin']:g}. Each model is held against the reference by itself; the intervals are "
        "not widened for the number of models.",
        "McNemar's test counts scans as independent; the intervals do not, so where patients have many scans "
        "the intervals decide. Models that call every scan alike have the interval 0 to 0: they agree on "
        "these scans, which proves nothing of others.",
    ]
    if latency := comparison.get("latency"):
        lines.append(
            f"Faster: the reference's median time over the model's, of {latency['rounds']} rounds after "
            f"{latency['warm_up']} of warm-up, each round one scan through every network in turn, on "
            f"{latency['threads']} CPU thread. The network alone is timed, without reading the scan. The "
            "ratio holds for this machine; another processor has another."
        )
    return lines
