"""`octlet run`."""

import json
from pathlib import Path
from shlex import quote
from typing import Any

import click

from octlet.cli import ui
from octlet.cli.train import bar_feedback
from octlet.core.labels import NOTICE
from octlet.evaluate.figures import estimate_text
from octlet.recipe.branch import Voice
from octlet.recipe.runner import run_stages
from octlet.recipe.settings import read_recipe
from octlet.recipe.stages import build_stages, results_of

SHOWN = ("accuracy", "balanced_accuracy", "macro_auc", "urgent_auc")
COMPARED = ("bytes", "size_ratio", "latency_ratio", "urgent_called_normal")


@click.command()
@click.argument("recipe_file", metavar="RECIPE.toml", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for everything; the recipe's name.")
@click.option(
    "--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="train.lr=1e-3, compress=default"
)
@click.option(
    "--only", multiple=True, metavar="FOLD", help="Only the stages of a fold: fold-2, or fold-2/train."
)
@ui.json_option
def command(
    recipe_file: Path, out: Path | None, overrides: tuple[str, ...], only: tuple[str, ...], as_json: bool
) -> None:
    """Run a recipe from scans to report: check, split, train, export, evaluate, and compress if it says so.

    What is done is skipped. A changed setting runs again just what depends on it, and what it replaces is
    moved to OUT/previous. A stopped recipe goes on where it was.
    """
    recipe = read_recipe(recipe_file, overrides)
    folder = out or Path(recipe.name)
    with bar_feedback(as_json) as feedback:
        stages = build_stages(recipe, folder, Voice(ui.say, ui.bar, feedback))
        done = run_stages(stages, folder, ui.say, only)
    results = results_of(recipe, folder)
    found = _found(results)
    if as_json:
        ui.print_json({"recipe": recipe.name, "stages": done, **found, "notice": NOTICE})
    else:
        click.echo(ui.table(["stage", "status", "seconds"], [list(row.values()) for row in done]))
        _print(found)
    small = results["compressed"]["model"] if recipe.compress else results["model"]
    model = results.get("release", small)
    ui.next_step(f"octlet predict -m {quote(model)} SCAN.jpeg")


def _found(results: dict[str, Any]) -> dict[str, Any]:
    """Return the paths with the figures that stand beside them, as far as there are any yet."""
    found = {**results, "metrics": _read(results["report"], "metrics.json")}
    if "compressed" in results:
        small = results["compressed"]
        found["compressed"] = {**small, "metrics": _read(small["report"], "metrics.json")}
        told = _read(results["comparison"]["report"], "comparison.json")
        if told:
            model = {key: told["models"][1][key] for key in COMPARED}
            found["comparison"] = results["comparison"] | told["comparisons"][0] | model
    return found


def _read(report: str, name: str) -> dict[str, Any]:
    file = Path(report).with_name(name)
    figures: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return figures


def _print(found: dict[str, Any]) -> None:
    figures, compared = found["metrics"], found.get("comparison", {})
    if not figures:
        return
    title = f"test: {figures['n']} scans of {figures['patients']} patients"
    if "difference" in compared:
        rows = _both(figures, found["compressed"]["metrics"], compared["difference"])
        click.echo("\n" + ui.table([title, "dense (95 % interval)", "compressed", "difference"], rows))
        click.echo(
            f"\nthe compressed model file is {compared['size_ratio']:.1f} times smaller, "
            f"and on this machine {compared['latency_ratio']:.1f} times faster"
        )
        click.echo(f"comparison: {compared['report']}")
    else:
        rows = [[key.replace("_", " "), estimate_text(figures[key])] for key in SHOWN]
        click.echo("\n" + ui.table([title, "value (95 % interval)"], rows))
    click.echo(f"\nreport: {found['report']}\n{NOTICE}")


def _both(dense: dict[str, Any], small: dict[str, Any], difference: dict[str, Any]) -> list[list[str]]:
    rows = []
    for key in SHOWN:
        told = estimate_text(difference[key], signed=True) if key in difference else ""
        rows.append([key.replace("_", " "), estimate_text(dense[key]), estimate_text(small[key]), told])
    missed = (str(each["urgent_called_normal"]) for each in (dense, small))
    return [*rows, ["urgent called NORMAL", *missed, ""]]
