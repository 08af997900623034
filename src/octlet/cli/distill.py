"""`octlet distill`."""

from pathlib import Path
from shlex import quote
from typing import Any

import click

from octlet.cli.train import bar_feedback
from octlet.cli.ui import json_option, next_step, print_json, settings_tables, table
from octlet.core.settings import from_mapping
from octlet.models.spec import MODELS

_OF_THE_LOSS = ("weight", "temperature", "match", "match_weight")


@click.command()
@click.argument("teachers", metavar="TEACHER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="The scans that the teacher learned from.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the new run; TEACHER-distilled.")
@click.option("--model", type=click.Choice(MODELS), help="The student: a fresh network.")
@click.option("--weights", type=click.Path(path_type=Path), help="Its pretrained weights, safetensors.")
@click.option("--student", type=click.Path(path_type=Path), help="Or the network of this run, to go on from.")
@click.option("--weight", type=float, help="Of the teacher's answers, 0 to 1; the labels have the rest.")
@click.option("--temperature", type=float, help="That softens the answers of both.")
@click.option(
    "--match",
    type=click.Choice(["none", "maps", "cam", "features"]),
    help="What else shall be like the teacher's.",
)
@click.option("--match-weight", type=float, help="What that likeness counts in the loss.")
@click.option("--size", type=int, help="Side of the student's input, pixels; the teacher's.")
@click.option("--epochs", type=int, help="Passes over the training scans.")
@click.option("--batch", type=int, help="Scans a step.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--seed", type=int, help="Of fresh weights, order and augmentation.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="distill.weight=0.5, train.ema=0.99"
)
@click.option("--resume", is_flag=True, help="Continue a stopped training with the same settings.")
@json_option
def command(
    teachers: tuple[Path, ...],
    data: Path,
    out: Path | None,
    student: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    as_json: bool,
    **named: Any,
) -> None:
    """Train a student on the answers of the run TEACHER, or on the mean of several.

    All are of one split, and the student keeps to it; test scans are not read. With --match cam the student
    shall also look where the teacher looks, with --match features find the same scans alike. The result is a
    run folder for 'octlet export'.
    """
    from octlet.compress.distil import DistilConfig, distil_run
    from octlet.data.source import open_source

    loss = {key: named.pop(key) for key in _OF_THE_LOSS}
    named["weights"] = None if named["weights"] is None else str(named["weights"])
    own, training = settings_tables("distill", loss, named, overrides)
    config = from_mapping(DistilConfig, own, "distill")
    if config.match == "none" and "match_weight" in own:
        raise click.UsageError("--match-weight needs --match")
    base = student or teachers[0]
    place = out or (base if base.name else base.resolve()).with_name(f"{base.resolve().name}-distilled")
    with bar_feedback(as_json) as feedback:
        result = distil_run(
            teachers,
            open_source(data).root,
            place,
            config,
            training,
            student=student,
            resume=resume,
            feedback=feedback,
        )
    if as_json:
        print_json(result)
    else:
        _print(result)
    next_step(f"octlet export {quote(str(place))}")


def _print(result: dict[str, Any]) -> None:
    kept, count = result["kept"], len(result["teachers"])
    click.echo(f"{result['run']}: {result['parameters']:,} parameters, epoch {kept['epoch']} of")
    judged = "on the validation fold, at the student's size:\n"
    click.echo(f"{result['epochs']}; {judged if result['teacher'] else 'judged by no validation scan'}")
    rows = [
        (key.removeprefix("val_").replace("_", " "), f"{value:.3f}", f"{result['student'][key]:.3f}")
        for key, value in result["teacher"].items()
    ]
    if rows:
        click.echo(table(("", "teacher" if count == 1 else f"{count} teachers", "student"), rows))
