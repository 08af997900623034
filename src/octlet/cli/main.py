"""The `octlet` command: finds the verb, runs it, turns every fault into one clear line and an exit code."""

import importlib
import json
import sys

import click

from octlet import __version__
from octlet.core.errors import OctletError, UsageError
from octlet.core.labels import NOTICE

# verb -> one line of help. Each lives in octlet.cli.<verb> as `command`, imported only when it is called:
# `octlet predict` must not pay for torch, nor for the help texts of the other verbs.
VERBS = {
    "data": "Check, split or simulate scans.",
    "train": "Train a network on a checked, patient-safe split.",
    "distill": "Train a student on the answers of a trained run, or of several.",
    "prune": "Take channels, units or single weights out of a trained network, step by step.",
    "quantize": "Turn a trained run's weights and activations into 8-bit integers.",
    "frontier": "Sweep pruning targets; find the smallest model that is good enough.",
    "cost": "Count what a network takes: multiplications, parameters, bytes, memory.",
    "export": "Write a trained run as one model file.",
    "calibrate": "Teach a model file to doubt: probabilities, sets, refusals.",
    "verify": "Replay a model file's golden vectors on this machine.",
    "predict": "Classify scans with a model file.",
    "serve": "Answer predictions over HTTP, on this machine.",
    "watch": "Predict what a scanner exports into a folder, urgent ones first.",
    "report": "Write a page to hand on for each eye.",
    "benchmark": "Time each engine on this machine; keep the fastest.",
    "doctor": "Say what this machine is like, and what to do about each fault.",
    "pi": "Package for a Raspberry Pi, offline and whole; deploy over ssh.",
    "evaluate": "Measure a model on labelled scans.",
    "compare": "Compare models on the same scans, paired.",
    "run": "Run a recipe from scans to report.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"octlet.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_LazyGroup, epilog=NOTICE, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="octlet", message="%(prog)s %(version)s")
def cli() -> None:
    """Take retinal OCT B-scans to a small, verified model and use it."""


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code (see `octlet.core.errors`; 130 after Ctrl-C)."""
    words = sys.argv[1:] if args is None else args
    try:
        result = cli.main(args=words, prog_name="octlet", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except OctletError as error:
        return _fail(error, "--json" in words)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return UsageError.exit_code
    except click.UsageError as error:
        help_command = f"see '{error.ctx.command_path} --help'" if error.ctx else ""
        return _fail(UsageError(error.format_message(), remedy=help_command), "--json" in words)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("octlet: interrupted", err=True)
        return 130
    except ModuleNotFoundError as error:
        return _fail(_missing_extra(error), "--json" in words)
    except OSError as error:
        if error.filename is not None:
            raise  # no stream: a verb should have told of this file
        return _fail(OctletError(f"the result cannot be written: {error.strerror}"), as_json=False)


def _fail(error: OctletError, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"error": error.as_dict()}, ensure_ascii=False))
    click.echo(f"octlet: {error}", err=True)
    return error.exit_code


def _missing_extra(error: ModuleNotFoundError) -> OctletError:
    name = (error.name or "").partition(".")[0]
    if name in ("", "octlet"):
        raise error
    return UsageError(f"this verb needs the Python package '{name}'", remedy='pip install "octlet[train]"')
