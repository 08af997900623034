"""`octlet frontier`."""

import json
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Any, get_args

import click

from octlet.cli import ui
from octlet.cli.train import bar_feedback
from octlet.compress.config import Importance
from octlet.core.errors import UsageError
from octlet.core.settings import parse_override
from octlet.evaluate.comparison_tables import Table
from octlet.evaluate.figures import sample_text
from octlet.evaluate.frontier import COSTS_READ, QUALITY_READ, costs_table, quality_table

_PRUNE = ("steps", "last_epochs", "importance", "scope", "round_to")
_TRAIN = ("epochs", "lr")


def _shares(_context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is no list of shares, as 0.5,0.25", param=option) from error


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="The scans that the runs were trained on."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("octlet-frontier"),
    show_default=True,
    help="Folder for everything.",
)
@click.option(
    "--to-macs",
    callback=_shares,
    metavar="SHARES",
    help="Shares of the dense network's multiply-accumulates; 0.5,0.25,0.1,0.05,0.02.",
)
@click.option(
    "--int8",
    type=click.Choice(["qat", "ptq", "no"]),
    help="How every point becomes integers: trained, calibrated, not at all; qat.",
)
@click.option("--steps", type=int, help="Of the pruning to each target; 5.")
@click.option("--epochs", type=int, help="Of the training after each step; 2.")
@click.option("--last-epochs", type=int, help="Of the training after a target's last step; as the others.")
@click.option("--lr", type=float, help="Peak learning rate of these trainings; 1e-4.")
@click.option("--importance", type=click.Choice(get_args(Importance)), help="What ranks channels; magnitude.")
@click.option(
    "--scope", type=click.Choice(["global", "layer"]), help="Rank across the network or in a layer; layer."
)
@click.option("--round-to", type=int, help="Channels stay in multiples of this; 16.")
@click.option("--prior-shift", type=click.FloatRange(0, 2), help="As of 'octlet export', for every point; 0.")
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Loss of balanced accuracy to rule out, a share; 0.01.",
)
@click.option("--licence", help="Licence and attribution of the weights, for the model files.")
@click.option("--images", type=click.IntRange(min=200), help="Simulated scans to check integers on; 512.")
@click.option("--resamples", type=click.IntRange(min=100), help="Of the bootstrap; 2000.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the bootstrap; 0.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="prune.floor=0.2, train.batch=16 (pruning), quantize.percentile=99.9, qat.epochs=3",
)
@click.option(
    "--only", default="", metavar="FOLD", help="Run only the stages of one RUN: fold-2 is the third."
)
@ui.json_option
def command(
    runs: tuple[Path, ...],
    data: Path,
    out: Path,
    overrides: tuple[str, ...],
    only: str,
    as_json: bool,
    **named: Any,
) -> None:
    """Prune to one target after the other, and find the smallest model that is good enough.

    Every RUN is pruned on from target to target with its own answers as the teacher; every point is rounded
    to integers, exported, and tested on the test scans of RUN's own split. Give the runs of all folds of a
    cross-validation to pool their test scans. A point is not inferior when the 95 % interval of its balanced
    accuracy minus the dense network's lies above minus the margin.

    What is done is skipped, and a stopped sweep goes on when the same command is given again; another,
    smaller target only adds to it. --only lets several processes share the folds of one sweep. The latency of
    a Raspberry Pi 5 is MODELLED, never measured.
    """
    from octlet.recipe.branch import Voice
    from octlet.recipe.frontier import frontier_stages
    from octlet.recipe.frontier_plan import check_runs, plan_of
    from octlet.recipe.frontier_table import FRONTIER
    from octlet.recipe.runner import run_stages

    given = {key: value for key, value in named.items() if value is not None}
    plan = plan_of(*_tables(given, overrides))
    check_runs(runs, plan)
    with bar_feedback(as_json) as feedback:
        stages = frontier_stages(runs, data, out, plan, Voice(ui.say, ui.bar, feedback))
        if only:  # not the timing either: others are at work beside it
            stages = [stage for stage in stages if stage.name.startswith(f"{only.rstrip('/')}/")]
        done = run_stages(stages, out, ui.say)
    if only:
        _print_stages(done, out, as_json)
        return
    result = json.loads((out / FRONTIER).read_text(encoding="utf-8"))
    if as_json:
        ui.print_json({"out": str(out), "stages": done, **result})
    else:
        _print(result, out)
    ui.next_step(f"octlet predict -m {quote(_model(result))} SCAN...")


def _print_stages(done: list[dict[str, Any]], out: Path, as_json: bool) -> None:
    if as_json:
        ui.print_json({"out": str(out), "stages": done})
    else:
        click.echo(ui.table(["stage", "status", "seconds"], [list(row.values()) for row in done]))
    ui.next_step("the same command without --only, when every fold is done")


def _tables(
    given: dict[str, Any], overrides: Iterable[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the settings of the sweep itself, and those of its four tables; `--set` wins."""
    tables: dict[str, dict[str, Any]] = {"prune": {}, "train": {}, "quantize": {}, "qat": {}}
    own: dict[str, Any] = {}
    for key, value in given.items():
        table = tables["prune"] if key in _PRUNE else tables["train"] if key in _TRAIN else own
        table[key] = value
    for text in overrides:
        key, value = parse_override(text)
        name, _, setting = key.rpartition(".")
        if name not in tables:
            raise UsageError(f"--set {text}: no table '{name}'", remedy=f"one of {', '.join(tables)}")
        tables[name][setting] = value
    return own, tables


def _model(result: dict[str, Any]) -> str:
    """Return the file of the chosen point, or of the dense network where none is good enough."""
    wanted = result["chosen"] or result["reference"]
    return next(str(point["model"]) for point in result["points"] if point["name"] == wanted)


def _print(result: dict[str, Any], out: Path) -> None:
    folds = result["folds"]
    pooled = f", pooled from {folds} runs; the costs are the first one's" if folds > 1 else ""
    click.echo(f"{sample_text(result)}{pooled}\n")
    for table, read in ((costs_table(result), COSTS_READ), (quality_table(result), QUALITY_READ)):
        click.echo(f"{_text(table)}\n{read}\n")
    click.echo(f"{result['selection']}\n")
    for note in result["notes"]:
        click.echo(note)
    click.echo(f"model: {_model(result)}\nfigure: {out / 'frontier.png'}\n{result['notice']}")


def _text(table: Table) -> str:
    headers, rows = table
    return ui.table(headers, rows)
