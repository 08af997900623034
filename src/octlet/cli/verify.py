"""`octlet verify`."""

from pathlib import Path
from shlex import quote

import click

from octlet.cli.options import model_argument
from octlet.cli.ui import json_option, next_step, print_json, say, table
from octlet.core.errors import GateError
from octlet.runtime.verify import verify


@click.command()
@model_argument
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all if not given.")
@json_option
def command(model: Path, threads: int | None, as_json: bool) -> int:
    """Replay a model file's golden vectors on this machine; without MODEL, of the one that comes with Octlet.

    Exit code 4: the file is damaged. 5: it is whole, but this machine computes something else from it than
    the machine that exported it.
    """
    report = verify(model, threads=threads)
    if as_json:
        print_json(report.as_dict())
    else:
        rows = [(c.name, c.measured, c.limit, "ok" if c.passed else "FAILED") for c in report.checks]
        click.echo(table(("check", "measured", "allowed", "result"), rows))
    failed = sum(not check.passed for check in report.checks)
    if failed:  # said, not raised: the report on stdout is the one JSON document
        rule = f"{failed} of {len(report.checks)} checks failed on this machine"
        say(f"octlet: {GateError(rule, path=model, remedy='do not use the model here')}")
        return GateError.exit_code
    next_step(f"octlet predict -m {quote(str(model))} SCAN_OR_FOLDER")
    return 0
