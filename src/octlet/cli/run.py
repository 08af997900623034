"""`octlet run`."""

import json
from pathlib import Path
from shlex import quote

import click

from octlet.cli import ui
from octlet.cli.train import bar_feedback
from octlet.core.labels import NOTICE
from octlet.evaluate.figures import estimate_text
from octlet.recipe.runner import run_stages
from octlet.recipe.settings import read_recipe
from octlet.recipe.stages import Voice, build_stages, results_of

SHOWN = ("accuracy", "balanced_accuracy", "macro_auc", "urgent_auc")


@click.command()
@click.argument("recipe_file", metavar="RECIPE.toml", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for everything; the recipe's name.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Change a setting.")
@click.option("--only", default="", metavar="FOLD", help="Run only the stages of one fold: fold-2.")
@ui.json_option
def command(
    recipe_file: Path, out: Path | None, overrides: tuple[str, ...], only: str, as_json: bool
) -> None:
    """Run a recipe from scans to report: check, split, train, export, evaluate.

    What is done is skipped. A changed setting runs again just what depends on it, and what it replaces is
    moved to OUT/previous. A stopped recipe goes on where it was.
    """
    recipe = read_recipe(recipe_file, overrides)
    folder = out or Path(recipe.name)
    with bar_feedback(as_json) as feedback:
        stages = build_stages(recipe, folder, Voice(ui.say, ui.bar, feedback))
        done = run_stages(stages, folder, ui.say, f"{only.rstrip('/')}/" if only else "")
    results = results_of(recipe, folder)
    metrics = Path(results["report"]).with_name("metrics.json")
    figures = json.loads(metrics.read_text()) if metrics.exists() else {}
    if as_json:
        ui.print_json(
            {"recipe": recipe.name, "stages": done, **results, "metrics": figures, "notice": NOTICE}
        )
    else:
        click.echo(ui.table(["stage", "status", "seconds"], [list(row.values()) for row in done]))
        if figures:
            rows = [[key.replace("_", " "), estimate_text(figures[key])] for key in SHOWN]
            title = f"test: {figures['n']} scans of {figures['patients']} patients"
            click.echo("\n" + ui.table([title, "value (95 % interval)"], rows))
            click.echo(f"\nreport: {results['report']}\n{NOTICE}")
    ui.next_step(f"octlet predict -m {quote(results['model'])} SCAN.jpeg")
