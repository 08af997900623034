"""`octlet compare`."""

import shlex
from pathlib import Path
from typing import Any

import click

from octlet.cli import ui
from octlet.cli.evaluate import print_named, tell_notes
from octlet.core.errors import GateError, InputError, UsageError
from octlet.core.labels import LABELS, NOTICE
from octlet.evaluate.figures import estimate_text
from octlet.evaluate.paired import MARGIN, compare
from octlet.evaluate.predictions import write_predictions
from octlet.evaluate.report import METRICS, p_text, write_comparison
from octlet.scoring import Request, is_predictions, load, notes_on, writing_to


@click.command()
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=MARGIN,
    show_default=True,
    help="Loss of balanced accuracy to rule out.",
)
@click.option("--gate", is_flag=True, help="Exit with 5 unless B is shown not to be inferior.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("octlet-comparison"),
    show_default=True,
    help="Folder to write to.",
)
@ui.scoring_options
@ui.json_option
def command(
    a: Path,
    b: Path,
    folder: Path | None,
    split: Path | None,
    subset: str,
    margin: float,
    gate: bool,
    out: Path,
    resamples: int,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> int:
    """Compare two models on the same scans, paired.

    A and B are each a model file, which needs the labelled scans in DIR, or a predictions.csv. Every
    difference is B minus A. B is not inferior when the 95 % interval of the difference in balanced accuracy
    lies above minus the margin.

    Writes comparison.json, confusion.png, report.html, and a.csv and b.csv with the predictions. Scans that
    cannot be read are listed, the others compared, and the exit code is 3.
    """
    if folder is None and split is not None:
        raise UsageError("--split chooses scans of a folder", remedy="give the folder as DIR")
    if folder is not None and is_predictions(a) and is_predictions(b):
        raise UsageError("DIR is for model files, and A and B are predictions", remedy="leave DIR out")
    request = Request(folder, split, subset, threads)
    left, right = (load(model, request, ui.bar(f"scoring scans with {model.name}")) for model in (a, b))
    unreadable = left.unreadable or right.unreadable
    notes = notes_on(left)
    result = {
        **compare(left.predictions, right.predictions, margin=margin, seed=seed, resamples=resamples),
        "models": {"a": left.identity, "b": right.identity},
        "unreadable": [error.as_dict() for error in unreadable],
        "notes": notes,
    }
    with writing_to(out):
        write_predictions(out / "a.csv", left.predictions)
        write_predictions(out / "b.csv", right.predictions)
        write_comparison(out, result, (str(a), str(b)), notes=notes)
    if as_json:
        ui.print_json(result)
    else:
        _print(result)
    tell_notes(notes, unreadable)
    ui.say(f"wrote {out / 'report.html'} and what it shows")
    return _end(result, b, gate)


def _print(result: dict[str, Any]) -> None:
    click.echo(f"{result['n']} scans of {result['patients']} patients, the same for both\n")
    one, other, difference = result["a"], result["b"], result["difference"]
    rows = [
        (METRICS[key][0], _share(one[key]), _share(other[key]), estimate_text(difference[key], signed=True))
        for key in ("accuracy", "balanced_accuracy")
    ]
    for label in LABELS:
        told = estimate_text(difference["sensitivity"][label], signed=True)
        shares = _share(one["sensitivity"][label]), _share(other["sensitivity"][label])
        rows.append((f"sensitivity, {label}", *shares, told))
    click.echo(ui.table(["", "A", "B", "B minus A (95 % interval)"], rows) + "\n")
    counts = result["discordant"]
    click.echo(
        f"right in A only: {counts['only_a_right']}, in B only: {counts['only_b_right']}; "
        f"McNemar's exact p {p_text(counts['mcnemar_p'])}\n{_verdict(result)}\n"
    )
    for key in ("a", "b"):
        print_named(f"urgent scans called NORMAL by {key.upper()}", result[key]["urgent_called_normal_paths"])
    click.echo(f"\n{NOTICE}")


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _verdict(result: dict[str, Any]) -> str:
    told = "B is not inferior" if result["not_inferior"] else "B is not shown to be not inferior"
    difference = estimate_text(result["difference"]["balanced_accuracy"], signed=True)
    return f"{told} by a margin of {result['margin']:g}: balanced accuracy {difference}"


def _end(result: dict[str, Any], b: Path, gate: bool) -> int:
    """Return the exit code. The gate speaks here and is not raised: --json has printed its one document."""
    if gate and not result["not_inferior"]:
        failure = GateError(_verdict(result), remedy="more test patients narrow the interval")
        ui.say(f"octlet: {failure}")
        return failure.exit_code
    if result["unreadable"]:
        return InputError.exit_code
    model = shlex.quote(str(b))
    ui.next_step(f"octlet evaluate {model}" if is_predictions(b) else f"octlet predict -m {model} SCAN...")
    return 0
