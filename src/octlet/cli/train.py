"""`octlet train`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from octlet.cli.ui import bar, json_option, next_step, print_json, say
from octlet.core.settings import from_mapping, parse_override
from octlet.models.spec import MODELS
from octlet.train.config import PRESETS, TrainConfig
from octlet.train.run import Feedback, train_run


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder, .npz or .csv of scans.")
@click.option("--split", "split_file", type=click.Path(path_type=Path), help="split.csv; made if not given.")
@click.option("--out", default="run", type=click.Path(path_type=Path), show_default=True, help="Run folder.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings to start from.")
@click.option("--model", type=click.Choice(MODELS), help="Network.")
@click.option("--weights", type=click.Path(path_type=Path), help="Pretrained weights, safetensors.")
@click.option("--size", type=int, help="Side of the network's input, pixels.")
@click.option("--epochs", type=int, help="Passes over the training scans.")
@click.option("--batch", type=int, help="Scans a step.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--seed", type=int, help="Of weights, order and augmentation; and of a split made here.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Another setting: ema=0.99")
@click.option("--resume", is_flag=True, help="Continue a stopped run with the same settings.")
@json_option
def command(
    data: Path,
    split_file: Path | None,
    out: Path,
    preset: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    as_json: bool,
    **named: Any,
) -> None:
    """Train a network; the validation fold judges each epoch, the test fold is never read.

    Without --split the scans are checked and split by patient first, into OUT-data: 15 % for validation, 25 %
    for the test. Ctrl-C
    saves and stops; --resume goes on where it stopped.
    """
    values = dict(PRESETS[preset]) if preset else {}
    values |= {key: str(v) if key == "weights" else v for key, v in named.items() if v is not None}
    for text in overrides:
        key, value = parse_override(text)
        values[key.removeprefix("train.")] = value
    config = from_mapping(TrainConfig, values, "train")
    root, rows = _rows(data, split_file, out, config.seed, resume)
    with bar_feedback(as_json) as feedback:
        result = train_run(config, root, rows, out, resume=resume, feedback=feedback)
    if as_json:
        print_json(result)
    else:
        _print(result)
    next_step(f"octlet export {out}")


def _print(result: dict[str, Any]) -> None:
    kept = result["kept"]
    head = f"{result['run']}: epoch {kept['epoch']} of {result['epochs']}, "
    if "val_loss" not in kept:
        click.echo(head + "judged by no validation scan")
        return
    click.echo(head + "on the validation fold:")
    click.echo(f"accuracy {kept['val_accuracy']:.3f}, balanced {kept['val_balanced_accuracy']:.3f}")


def _rows(data: Path, split_file: Path | None, out: Path, seed: int, resume: bool) -> tuple[Path, list[Any]]:
    from octlet.data.source import open_source
    from octlet.data.split import read_split
    from octlet.data.stages import check_scans, split_index

    if split_file is None and resume:
        split_file = out / "split.csv"  # the run's own: the same scans whatever was added to the folder since
    if split_file is not None:
        return open_source(data).root, read_split(split_file)
    folder = out.with_name(out.name + "-data")
    say(f"no --split given: checking the scans and splitting them by patient, into {folder}")
    checked = check_scans(data, folder, bar("reading scans"))
    if checked.audit.unreadable:
        say(f"{len(checked.audit.unreadable)} scans cannot be read and are left out: see {folder}/audit.html")
    made = split_index(folder / "index.csv", seed=seed)
    return checked.root, read_split(made.files[0])


@contextmanager
def bar_feedback(quiet: bool = False) -> Iterator[Feedback]:
    """Yield feedback on stderr: lines, and bars with the time left where stderr is a terminal."""
    live: list[Any] = []
    shown = sys.stderr.isatty() and not quiet

    def close() -> None:
        while live:
            live.pop().__exit__(None, None, None)

    def step(done: int, total: int, loss: float) -> None:
        if not shown:
            return
        if not live:
            live.append(click.progressbar(length=total, label="train", file=sys.stderr).__enter__())
        live[0].label = f"train, loss {loss:.3f}"
        live[0].update(done - live[0].pos)

    def line(text: str) -> None:
        close()
        say(text)

    try:
        yield Feedback(line, bar("preparing scans"), step)
    finally:
        close()
