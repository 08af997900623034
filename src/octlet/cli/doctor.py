"""`octlet doctor`."""

import os
from pathlib import Path
from shlex import quote

import click

from octlet.cli.ui import json_option, next_step, print_json, say, table
from octlet.runtime.choice import config_path
from octlet.runtime.doctor import FAULT, OK, Diagnosis, Finding, examine
from octlet.runtime.shipped import SHIPPED


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path), metavar="[MODEL]...")
@json_option
def command(models: tuple[Path, ...], as_json: bool) -> int:
    """Say what this machine is like, and what to do about each fault.

    Looks at the CPU, its temperature and its power, at the engines that are installed, at the engine that you
    have chosen, and at each MODEL file: is it whole, and does every engine compute from it here what the
    exporting machine did? Without a MODEL the file of the environment variable OCTLET_MODEL is taken, or the
    one that comes with Octlet.

    The exit code is 0 if nothing is wrong, else that of the worst fault: 1 the machine or an engine, 2 a
    setting, 4 an invalid model file, 5 a model file that computes something else here.
    """
    named = os.environ.get("OCTLET_MODEL", SHIPPED if SHIPPED.is_file() else "")
    if not models and named:
        models = (Path(named),)
    diagnosis = examine(models, config_path(), progress=say)
    if as_json:
        print_json(diagnosis.as_dict())
    else:
        _print(diagnosis)
    faults = sum(finding.state == FAULT for finding in diagnosis.findings)
    if faults:
        say(f"octlet: {faults} of {len(diagnosis.findings)} findings are faults")
    else:
        next_step(f"octlet benchmark {quote(str(models[0])) if models else 'MODEL'}")
    return diagnosis.exit_code


def _print(diagnosis: Diagnosis) -> None:
    click.echo(table(("", "what", "found"), [(f.state, f.subject, f.found) for f in diagnosis.findings]))
    advised = [finding for finding in diagnosis.findings if finding.state != OK and finding.remedy]
    if advised:
        click.echo("\nwhat to do")
        click.echo("\n".join(map(_advice, sorted(advised, key=lambda each: -each.exit_code))))


def _advice(finding: Finding) -> str:
    return f"  {finding.subject}: {finding.remedy}"
