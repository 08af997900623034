"""How every verb speaks: results on stdout, everything else on stderr."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from octlet.core.errors import UsageError
from octlet.core.files import dump_json
from octlet.core.settings import parse_override

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """Add `--json`, passed to the verb as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")(
        function
    )


def out_option(default: str) -> Callable[[F], F]:
    """Return the option of the folder that a verb writes."""
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(default),
        show_default=True,
        help="Folder to write to.",
    )


def scoring_options(function: F) -> F:
    """Add the options of the verbs that score scans and resample patients."""
    options = (
        click.option(
            "--split", type=click.Path(path_type=Path), help="Take only scans of a set in this split.csv."
        ),
        click.option("--subset", default="test", show_default=True, help="Which set of the split."),
        click.option(
            "--resamples",
            type=click.IntRange(min=100),
            default=2000,
            show_default=True,
            help="Of the bootstrap.",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap."
        ),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all if not given."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def settings_tables(
    own: str, named: Mapping[str, Any], training: Mapping[str, Any], overrides: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a verb's own table and those of its training, as the command line gave them.

    Args:
        own: name of the verb's table: "quantize" in `--set quantize.percentile=99.9`; it may be left out.
        named: what options gave the verb's table; None and () were not given.
        training: the same of "train".
        overrides: texts of `--set`, which win.
    """
    tables = {
        table: {key: value for key, value in given.items() if value not in (None, ())}
        for table, given in ((own, named), ("train", training))
    }
    for text in overrides:
        key, value = parse_override(text)
        table, _, name = key.rpartition(".")
        if (table or own) not in tables:
            raise UsageError(f"--set {text}: no table '{table}'", remedy=f"the tables are {own} and train")
        tables[table or own][name] = value
    return tables[own], tables["train"]


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(dump_json(value), nl=False)


def say(text: str) -> None:
    """Print a line of progress on stderr."""
    click.echo(text, err=True)


def next_step(command: str) -> None:
    """Name the command that follows, on stderr."""
    click.echo(click.style("next: ", dim=True) + command, err=True)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a plain text table; numbers stand to the right, words to the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(headers))]

    def line(words: Sequence[str]) -> str:
        padded = (w.rjust(n) if r else w.ljust(n) for w, n, r in zip(words, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), line(["-" * n for n in widths]), *map(line, cells)])


def bar(label: str) -> Callable[[Iterable[int]], Iterator[int]]:
    """Return a wrapper of a counting iterable that shows a bar and the time left, on a terminal's stderr."""

    def shown(items: Iterable[int]) -> Iterator[int]:
        with click.progressbar(items, label=label, file=sys.stderr) as counted:
            yield from counted

    return shown
