"""`octlet evaluate`."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from octlet.cli import ui
from octlet.core.errors import InputError, UsageError
from octlet.core.labels import NOTICE
from octlet.evaluate.doubt import SHARES
from octlet.evaluate.figures import estimate_text
from octlet.evaluate.report import metric_rows
from octlet.scoring import Request, Scored, evaluate_to, is_predictions, load, pool

LISTED = 20


@click.command()
@click.argument(
    "sources", metavar="SOURCE... [DIR]", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@ui.out_option("octlet-evaluation")
@ui.scoring_options
@ui.json_option
def command(
    sources: tuple[Path, ...],
    split: Path | None,
    subset: str,
    out: Path,
    resamples: int,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> int:
    """Measure a model on labelled scans.

    SOURCE is a model file, and DIR its labelled scans (a folder of class folders, a MedMNIST .npz file or a
    CSV file): all of them, or those of one set with --split. Or SOURCE is one or more predictions.csv files,
    without DIR: several are pooled, as the test folds of a cross-validation are, and their mean is given too.

    Writes predictions.csv, metrics.json, confusion.png, roc.png, reliability.png and report.html. Scans that
    cannot be read are listed, the others evaluated, and the exit code is 3.
    """
    scored = _scored(sources, Request(None, split, subset, threads))
    summary = evaluate_to(out, scored, resamples=resamples, seed=seed)
    if as_json:
        ui.print_json(summary)
    else:
        _print(summary)
    tell_notes(summary["notes"], scored.unreadable)
    ui.say(f"wrote {out / 'report.html'} and what it shows")
    ui.next_step(f"octlet compare {shlex.quote(str(out / 'predictions.csv'))} OTHER.csv")
    return InputError.exit_code if scored.unreadable else 0


def _scored(sources: Sequence[Path], request: Request) -> Scored:
    if all(map(is_predictions, sources)):
        if request.split is not None:
            raise UsageError("--split chooses scans of a folder", remedy="predictions.csv files hold theirs")
        return pool([load(source, request) for source in sources])
    if len(sources) != 2 or is_predictions(sources[0]):
        rule = "give one model file and one folder, or predictions.csv files only"
        raise UsageError(rule, remedy="see 'octlet evaluate --help'")
    return load(sources[0], replace(request, folder=sources[1]), ui.bar("scoring scans"))


def _print(summary: dict[str, Any]) -> None:
    click.echo(f"{summary['n']} scans of {summary['patients']} patients\n")
    click.echo(ui.table(*metric_rows(summary)) + "\n")
    classes = []
    for row, (label, own) in zip(summary["confusion_matrix"], summary["per_class"].items(), strict=True):
        told = (
            estimate_text({"value": own[name], **own["intervals"][name]})
            for name in ("sensitivity", "specificity")
        )
        classes.append([label, *row, own["n"], own["patients"], *told])
    called = [f"called {label}" for label in summary["labels"]]
    click.echo(
        ui.table(["actual", *called, "scans", "patients", "sensitivity", "specificity"], classes) + "\n"
    )
    if "doubt" in summary:
        rows = [(name, estimate_text(summary["doubt"][key])) for key, (name, _) in SHARES.items()]
        click.echo(ui.table(["doubt", "share of scans (95 % interval)"], rows) + "\n")
    print_named("urgent scans called NORMAL", summary["urgent_called_normal_paths"])
    click.echo(f"\n{NOTICE}")


def tell_notes(notes: Sequence[str], unreadable: Sequence[InputError]) -> None:
    """Say on stderr which scans were left out, and what a reader must know."""
    for error in unreadable:
        ui.say(f"octlet: {error}")
    for note in notes:
        ui.say(f"note: {note}")


def print_named(what: str, paths: Sequence[str]) -> None:
    """Print how many there are and their names, the first `LISTED` of them."""
    click.echo(f"{what}: {len(paths)}")
    for path in paths[:LISTED]:
        click.echo(f"  {path}")
    if len(paths) > LISTED:
        click.echo(f"  and {len(paths) - LISTED} more, in the report")
