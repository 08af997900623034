"""`python -m arm check`, `count` and `haswell`, behind `make arm`, `make arm-count` and `make haswell`."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from arm import count as counter
from arm import haswell as older
from arm import phantom
from arm.agreement import Agreement, as_csv, choose
from arm.check import Check, Findings
from arm.userland import PROJECT, RELEASES, Userland, install_octlet
from octlet.cli.ui import say, table
from octlet.core.errors import GateError, OctletError
from octlet.core.files import write_text
from octlet.runtime.engine import ENGINES
from octlet.runtime.shipped import SHIPPED

FOLDER = PROJECT / ".arm"
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def main() -> None:
    """Octlet on an emulated Cortex-A76."""


def told(function: Callable[..., int]) -> Callable[..., None]:
    """End with the command's code, or with an error's, said in one line."""

    @functools.wraps(function)
    def run(**options: Any) -> None:
        try:
            sys.exit(function(**options))
        except OctletError as error:
            say(f"arm: {error}")
            sys.exit(error.exit_code)

    return run


@contextmanager
def _ending_well(if_possible: bool) -> Iterator[None]:
    """Where this machine cannot do it: say so and end with 0 if `if_possible`, else with the error."""
    try:
        yield
    except OctletError as error:
        if not if_possible:
            raise
        say(f"arm: NOT CHECKED on this machine: {error}")
        sys.exit(0)


def _prepared(pythons: tuple[str, ...]) -> list[Userland]:
    userlands = [Userland(FOLDER, python) for python in pythons]
    for userland in userlands:
        say(f"Python {userland.python}: preparing {userland.root}")
        userland.prepare()
    return userlands


_MODELS = click.option("--model", "models", multiple=True, type=_FILE, help="A model file beside the others.")
_DATA = click.option(
    "--data", envvar="OCTLET_DATA", type=click.Path(path_type=Path, exists=True), help="Real scans."
)
_PER_KIND = click.option(
    "--per-kind", type=click.IntRange(min=1), default=12, help="Of each class and shape of them."
)
_IF_POSSIBLE = click.option(
    "--if-possible", is_flag=True, help="Where this machine cannot emulate, say so and end well."
)


@main.command()
@click.option("--python", "pythons", multiple=True, type=click.Choice(list(RELEASES)), default=list(RELEASES))
@_MODELS
@_DATA
@_PER_KIND
@click.option("--tests/--no-tests", default=True, help="Also run the runtime's tests there.")
@_IF_POSSIBLE
@click.option("--out", type=_FILE, default=FOLDER / "agreement.csv", help="Where the table goes.")
@told
def check(
    pythons: tuple[str, ...],
    models: tuple[Path, ...],
    data: Path | None,
    per_kind: int,
    tests: bool,
    if_possible: bool,
    out: Path,
) -> int:
    """Compare the answers of emulated Pythons with those of this machine."""
    with _ending_well(if_possible):
        userlands = _prepared(pythons)
    install_octlet(FOLDER)
    # Real scans say something of a network that was trained on such; the small ones were not.
    found = Check(FOLDER, models, data if models else None, per_kind, tests).run(userlands)
    write_text(out, as_csv(found.agreements))
    _print(found)
    if not found.passed:
        say(f"arm: {GateError('the emulated Arm does not give the same answers', path=out)}")
        return GateError.exit_code
    return 0


def _print_agreements(rows: Iterable[Agreement]) -> None:
    shown = [
        (a.python, a.model, a.engine, a.scans, a.n, f"{a.same_label} of {a.n}", f"{a.largest_difference:.1e}")
        for a in rows
    ]
    headers = ("Python", "model", "engine", "scans", "n", "same label", "largest difference of a probability")
    click.echo(table(headers, shown))


def _print(found: Findings) -> None:
    _print_agreements(found.agreements)
    click.echo()
    for python, model, passed in found.verified:
        click.echo(f"Python {python}: octlet verify, {model}: {'passed' if passed else 'FAILED'}")
    for run in found.tests:
        result = f"{run.passed} passed, {run.skipped} skipped, {run.failed} failed"
        click.echo(f"Python {run.python}: tests of {run.files}: {result}")


@main.command()
@_MODELS
@_DATA
@_PER_KIND
@_IF_POSSIBLE
@click.option("--out", type=_FILE, default=FOLDER / "haswell.csv", help="Where the table goes.")
@told
def haswell(models: tuple[Path, ...], data: Path | None, per_kind: int, if_possible: bool, out: Path) -> int:
    """Compare the answers of an older x86 CPU with those of this machine."""
    with _ending_well(if_possible):
        older.prepare(FOLDER)
    sets = {"simulated": phantom.scans(FOLDER)} | ({"real": choose(data, per_kind)} if data else {})
    rows = older.check(FOLDER, (*phantom.models(FOLDER), SHIPPED, *models), sets)
    write_text(out, as_csv(rows))
    _print_agreements(rows)
    if not older.passed(rows):
        say(f"haswell: {GateError('the emulated CPU does not give the same answers', path=out)}")
        return GateError.exit_code
    return 0


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="NAME=FILE...")
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), default=list(ENGINES))
@click.option("--python", type=click.Choice(list(RELEASES)), default="3.11")
@click.option("--out", type=_FILE, default=FOLDER / "count.csv", help="Where the table goes.")
@told
def count(models: tuple[str, ...], engines: tuple[str, ...], python: str, out: Path) -> int:
    """Count the instructions of a prediction; the first model is what the others are compared with."""
    (userland,) = _prepared((python,))
    install_octlet(FOLDER)
    subjects = counter.subjects(models)
    counted = list(counter.count(subjects, engines, userland))
    rows, rate = counter.rows(counted)
    write_text(out, as_csv(rows))
    headers = ("model", "engine", "network M", "total M", "times fewer", "Pi 5 ms, MODELLED")
    shown = [
        (
            *(row.model, row.engine, f"{row.network:.1f}", f"{row.total:.1f}", f"{row.times_fewer:.2f}"),
            f"{row.pi5_ms_modelled:.1f} ({row.pi5_ms_modelled_low:.1f} to {row.pi5_ms_modelled_high:.1f})",
        )
        for row in rows
    ]
    click.echo(table(headers, shown))
    click.echo(
        f"\nmodelled with {rate.value:.2f} instructions a cycle and core ({rate.low:.2f} to {rate.high:.2f})"
    )
    return 0


if __name__ == "__main__":
    main(prog_name="arm")
