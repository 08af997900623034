"""`octlet prune`."""

from pathlib import Path
from shlex import quote
from typing import Any, get_args

import click

from octlet.cli.train import bar_feedback
from octlet.cli.ui import json_option, next_step, print_json, settings_tables, table
from octlet.compress.config import Importance, PruneConfig
from octlet.core.settings import from_mapping

ZEROS = "Zeros are kept in place: an engine for dense networks runs no faster, and needs no less memory."


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="The scans that the run was trained on."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the new run; RUN-pruned.")
@click.option("--to-macs", type=float, help="Share of the multiply-accumulates that is left; 0.5.")
@click.option("--steps", type=int, help="How often to rank, remove and train; 5.")
@click.option("--importance", type=click.Choice(get_args(Importance)), help="What ranks channels; magnitude.")
@click.option(
    "--scope", type=click.Choice(["global", "layer"]), help="Rank across the network or in a layer; layer."
)
@click.option("--round-to", type=int, help="Channels stay in multiples of this; 16.")
@click.option("--units", type=float, help="Share of the removable residual units to leave out whole; 0.")
@click.option("--unstructured", is_flag=True, help="Set single weights to zero instead.")
@click.option("--sparsity", type=float, help="With --unstructured: share of zeros at the end; 0.8.")
@click.option(
    "--rewind",
    type=click.Choice(["no", "rate", "weights"]),
    help="With --unstructured: train on gently, or again as RUN was, or that from its first weights; no.",
)
@click.option("--teacher", type=click.Path(path_type=Path), help="Run whose answers teach; RUN.")
@click.option("--distil", type=float, help="Weight of the teacher's answers in the loss; 1.")
@click.option("--epochs", type=int, help="Of the training after each step; 2.")
@click.option("--last-epochs", type=int, help="Of the training after the last step; as the others.")
@click.option("--lr", type=float, help="Peak learning rate of the trainings; 1e-4.")
@click.option("--weights", type=click.Path(), help="Pretrained weights that RUN began with, to rewind to.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="prune.floor=0.2, train.batch=16"
)
@click.option("--resume", is_flag=True, help="Continue a stopped pruning with the same settings.")
@json_option
def command(
    run: Path,
    data: Path,
    out: Path | None,
    unstructured: bool,
    teacher: Path | None,
    epochs: int | None,
    lr: float | None,
    weights: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    as_json: bool,
    **named: Any,
) -> None:
    """Prune the network of the folder RUN, on the scans of its own split.

    Every step ranks what may go, removes the least important, and trains the network on with the answers of
    the network before pruning. Whole channels go, and the network is smaller and faster for it; with
    --unstructured single weights become zero.

    Test scans are not read. The result is a run folder for 'octlet quantize' or 'octlet export', and so is
    every OUT/step-K in it.
    """
    from octlet.compress.prune.run import prune_run
    from octlet.data.source import open_source

    named["what"] = "weights" if unstructured else "channels"
    _check_kind(unstructured, named)
    training = {"epochs": epochs, "lr": lr, "weights": weights}
    own, training = settings_tables("prune", named, training, overrides)
    config = from_mapping(PruneConfig, own, "prune")
    place = out or run.resolve().with_name(f"{run.resolve().name}-pruned")
    with bar_feedback(as_json) as feedback:
        root = open_source(data).root
        result = prune_run(
            run, root, place, config, training, teacher=teacher, resume=resume, feedback=feedback
        )
    if as_json:
        print_json(result)
    else:
        _print(result)
    next_step(f"octlet quantize {quote(str(place))} --data {quote(str(data))}")


def _check_kind(unstructured: bool, named: dict[str, Any]) -> None:
    channels, weights = ("to_macs", "importance", "scope", "round_to", "units"), ("sparsity", "rewind")
    wrong = [name for name in (channels if unstructured else weights) if named[name] is not None]
    if wrong:
        flag = "--" + wrong[0].replace("_", "-")
        state = "with" if unstructured else "without"
        raise click.UsageError(f"{flag} means nothing {state} --unstructured")


def _print(result: dict[str, Any]) -> None:
    first = result["steps"][0]
    weights = result["what"] == "weights"
    rows = []
    for row in result["steps"]:
        left = 1 - row["sparsity"] if weights else row["macs"] / first["macs"]
        cut, trained = (row.get(f"{when}val_balanced_accuracy") for when in ("", "trained_"))
        rows.append(
            (
                row["step"],
                f"{left:.1%}",
                f"{row['parameters'] / first['parameters']:.1%}",
                row["units"],
                *("" if figure is None else f"{figure:.3f}" for figure in (cut, trained)),
            )
        )
    left = "not zero" if weights else "MACs"
    told = "balanced accuracy on the validation fold" if result["dense"] else "judged by no validation scan"
    click.echo(f"{result['run']}: {told}\n")
    click.echo(table(("step", left, "parameters", "units", "cut", "trained"), rows))
    if weights:
        share = result["zipped_share"]
        click.echo(f"\n{result['sparsity']:.1%} of the weights are zero. Zipped, the network takes")
        click.echo(f"{share:.1%} of the dense one's zip. {ZEROS}")
