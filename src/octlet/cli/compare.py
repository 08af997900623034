"""`octlet compare`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from octlet.cli import ui
from octlet.cli.evaluate import print_named, tell_notes
from octlet.core.bundle import Bundle, open_bundle
from octlet.core.errors import GateError, InputError, UsageError
from octlet.core.files import sha256_of, writing_to
from octlet.core.labels import NOTICE
from octlet.evaluate.comparison import Contender, compare_models, newly_called_normal
from octlet.evaluate.comparison_report import write_comparison
from octlet.evaluate.comparison_tables import (
    DIFFERENCES_READ,
    MODELS_READ,
    Table,
    differences_table,
    models_table,
)
from octlet.evaluate.curves import History, read_history
from octlet.evaluate.figures import estimate_text
from octlet.evaluate.naming import check_names, default_names
from octlet.evaluate.paired import MARGIN
from octlet.runtime import latency
from octlet.scoring import Request, is_predictions, load, notes_on

_HELP = "see 'octlet compare --help'"


@click.command()
@click.argument(
    "sources", metavar="SOURCE SOURCE... [DIR]", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--name", "names", multiple=True, help="What a source is called; one for each, in order.")
@click.option(
    "--cost",
    "costs",
    metavar="MODEL",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Model file whose size and speed stand for a source; one for each, in order.",
)
@click.option(
    "--curves", metavar="[NAME=]RUN", multiple=True, help="Run folder whose training to draw; repeatable."
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=MARGIN,
    show_default=True,
    help="Loss of balanced accuracy to rule out.",
)
@click.option("--gate", is_flag=True, help="Exit with 5 unless every model is shown not to be inferior.")
@ui.out_option("octlet-comparison")
@ui.scoring_options
@ui.json_option
def command(
    sources: tuple[Path, ...],
    names: tuple[str, ...],
    costs: tuple[Path, ...],
    curves: tuple[str, ...],
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
    """Compare models on the same scans, paired, with the first.

    Each SOURCE is a model file or a predictions.csv; with a model file among them, DIR is the labelled scans
    to run it on. The first is the reference, and every difference is a model minus the reference. A model is
    not inferior when the 95 % interval of its difference in balanced accuracy lies above minus the margin.
    Speed is that of model files taking turns on one thread, the reference's among them.

    Writes comparison.json, table.csv, confusion.png, difference.png, report.html, curves.png if asked, and
    each model's predictions. Scans that cannot be read are listed, the others compared; the exit code is 3.
    """
    sources, folder = _parted(sources, split)
    entries = _entries(sources, names, costs)
    histories = _histories(curves)
    contenders, unreadable, notes = _scored(entries, Request(folder, split, subset, threads))
    contenders, timing = _timed(entries, contenders)
    result = {
        **compare_models(contenders, margin=margin, seed=seed, resamples=resamples),
        "latency": timing,
        "notes": notes,
        "unreadable": [error.as_dict() for error in unreadable],
    }
    with writing_to(out):
        write_comparison(out, result, contenders, histories)
    if as_json:
        ui.print_json(result)
    else:
        _print(result)
    tell_notes(notes, unreadable)
    ui.say(f"wrote {out / 'report.html'} and what it shows")
    return _end(result, sources[-1], gate)


# What is asked for ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A source, its name, and the model file that its size and speed are those of, where there is one."""

    source: Path
    name: str
    cost: Bundle | None


def _parted(given: tuple[Path, ...], split: Path | None) -> tuple[tuple[Path, ...], Path | None]:
    """Part the sources from DIR, the last argument where a model file is among the sources."""
    sources: tuple[Path, ...] = given
    folder: Path | None = None
    if not all(map(is_predictions, given)):
        *rest, folder = given
        sources = tuple(rest)
        if folder.suffix.lower() == ".octlet" and not folder.is_dir():
            rule = "a model file needs labelled scans"
            raise UsageError(rule, path=folder, remedy="give their folder as DIR, the last argument")
        if sources and all(map(is_predictions, sources)):
            raise UsageError(
                "DIR is for model files, and every SOURCE is predictions",
                path=folder,
                remedy="leave DIR out",
            )
    if len(sources) < 2:
        raise UsageError("a comparison needs two sources or more, and model files their scans", remedy=_HELP)
    if folder is None and split is not None:
        raise UsageError("--split chooses scans of a folder", remedy="predictions.csv files hold theirs")
    return sources, folder


def _entries(sources: Sequence[Path], names: Sequence[str], costs: Sequence[Path]) -> list[_Entry]:
    for option, values in {"--name": names, "--cost": costs}.items():
        if values and len(values) != len(sources):
            rule = f"{len(values)} times {option} for {len(sources)} sources"
            raise UsageError(rule, remedy="give it once for each source, in order")
    files: Sequence[Path | None] = costs or [None if is_predictions(source) else source for source in sources]
    bundles = [open_bundle(file) if file else None for file in files]
    if names:
        check_names(names)
    else:
        told = [
            bundle.manifest.name if bundle and bundle.path == source else None
            for source, bundle in zip(sources, bundles, strict=True)
        ]
        names = default_names(sources, told)
    return [_Entry(*each) for each in zip(sources, names, bundles, strict=True)]


def _histories(curves: Sequence[str]) -> list[History]:
    told: list[str | None] = []
    runs: list[Path] = []
    for text in curves:
        name, equals, run = text.partition("=")
        named = bool(equals) and not Path(text).exists()
        told.append(name if named else None)
        runs.append(Path(run if named else text))
    names = default_names(runs, told) if runs else []
    return [read_history(*each) for each in zip(runs, names, strict=True)]


# The work -------------------------------------------------------------------------------------------------


def _scored(
    entries: Sequence[_Entry], request: Request
) -> tuple[list[Contender], tuple[InputError, ...], list[str]]:
    scored = [load(entry.source, request, ui.bar(f"scoring scans with {entry.name}")) for entry in entries]
    unreadable = next((each.unreadable for each in scored if each.unreadable), ())
    contenders = []
    for entry, each in zip(entries, scored, strict=True):
        identity, cost = each.identity, entry.cost
        if cost and cost.path != entry.source:
            file = {"name": cost.manifest.name, "file": str(cost.path), "sha256": sha256_of(cost.path)}
            identity = {**identity, "cost": file}
        size = cost.path.stat().st_size if cost else None
        contenders.append(Contender(entry.name, each.predictions, identity, size))
    return contenders, unreadable, notes_on(replace(scored[0], unreadable=unreadable))


def _timed(
    entries: Sequence[_Entry], contenders: list[Contender]
) -> tuple[list[Contender], dict[str, int] | None]:
    """Measure the networks of the model files, where the reference has one and another has."""
    known = [k for k, entry in enumerate(entries) if entry.cost]
    bundles = [entry.cost for entry in entries if entry.cost]
    if entries[0].cost is None or len(bundles) < 2:
        return contenders, None
    found = latency.measure_files(bundles, ui.bar("measuring speed"))
    ratios = dict(zip(known, found.ratios, strict=True))
    timed = [replace(each, latency_ratio=ratios.get(k)) for k, each in enumerate(contenders)]
    return timed, latency.HOW


# What is said ---------------------------------------------------------------------------------------------


def _print(result: dict[str, Any]) -> None:
    click.echo(f"{result['n']} scans of {result['patients']} patients, the same for all\n")
    click.echo(f"{_text(models_table(result))}\n{MODELS_READ}\n")
    click.echo(f"{_text(differences_table(result))}\n{DIFFERENCES_READ}\n")
    for each in result["comparisons"]:
        click.echo(_verdict(each, result))
    click.echo()
    reference = result["reference"]
    print_named(
        f"urgent scans called NORMAL by {reference}", result["models"][0]["urgent_called_normal_paths"]
    )
    for each in result["comparisons"]:
        what = f"urgent scans called NORMAL by {each['name']} and not by {reference}"
        print_named(what, newly_called_normal(result, each["name"]))
    click.echo(f"\n{NOTICE}")


def _text(table: Table) -> str:
    headers, rows = table
    lines: list[list[str]] = []
    for row in rows:
        upper, lower = zip(*((cell.partition("\n")[::2]) for cell in row), strict=True)
        lines += [list(upper), list(lower)]
    return ui.table(headers, lines)


def _verdict(each: dict[str, Any], result: dict[str, Any]) -> str:
    told = "is not inferior" if each["not_inferior"] else "is not shown to be not inferior"
    difference = estimate_text(each["difference"]["balanced_accuracy"], signed=True)
    return (
        f"{each['name']} {told} to {result['reference']} by a margin of {result['margin']:g}: "
        f"balanced accuracy {difference}"
    )


def _end(result: dict[str, Any], last: Path, gate: bool) -> int:
    """Return the exit code. The gate speaks here and is not raised: --json has printed its one document."""
    failed = [each for each in result["comparisons"] if not each["not_inferior"]]
    if gate and failed:
        for each in failed:
            failure = GateError(_verdict(each, result), remedy="more test patients narrow the interval")
            ui.say(f"octlet: {failure}")
        return GateError.exit_code
    if result["unreadable"]:
        return InputError.exit_code
    model = shlex.quote(str(last))
    ui.next_step(f"octlet evaluate {model}" if is_predictions(last) else f"octlet predict -m {model} SCAN...")
    return 0
