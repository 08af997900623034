"""What several verbs ask for in the same words: which model file, and what computes it."""

from pathlib import Path

import click

from octlet.runtime.choice import Choice, config_path, read_choice
from octlet.runtime.engine import ENGINES
from octlet.runtime.shipped import shipped

_MODEL = click.Path(path_type=Path)

# OCTLET_MODEL wins over the model file that comes with Octlet, and the command line over both.
model_option = click.option(
    "-m",
    "--model",
    envvar="OCTLET_MODEL",
    type=_MODEL,
    default=shipped,
    show_default="the one that comes with Octlet",
    help="Model file.",
)
model_argument = click.argument("model", envvar="OCTLET_MODEL", type=_MODEL, default=shipped)
engine_option = click.option(
    "--engine", type=click.Choice(list(ENGINES)), help="What computes; your choice if not given."
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads; your choice if not given."
)


def chosen(engine: str | None, threads: int | None) -> Choice:
    """Return what the command line says, and for the rest what the user has chosen."""
    kept = read_choice(config_path())
    return Choice(engine or kept.engine, threads or kept.threads)
