"""The stages of a recipe: which files each takes and leaves, and the call that does its work."""

from pathlib import Path
from typing import Any

from octlet.core.settings import as_dict
from octlet.data.phantom import write_phantoms
from octlet.data.split import read_split
from octlet.data.stages import check_scans, split_index
from octlet.recipe.branch import (
    COMPRESSED,
    DENSE,
    Branch,
    Voice,
    evaluation_of,
    model_of,
    model_stages,
    run_folder,
)
from octlet.recipe.compress import comparison_of, comparison_stage, compress_stages
from octlet.recipe.runner import Stage
from octlet.recipe.settings import Recipe
from octlet.scoring import Request, evaluate_to, load, pool
from octlet.train.checkpoint import LAST
from octlet.train.run import train_run


def build_stages(recipe: Recipe, out: Path, voice: Voice) -> list[Stage]:
    """Return the recipe's stages in order; nothing is read or written yet.

    With folds, each fold has a folder of its own and last stages pool their test predictions.
    """
    stages = []
    scans = Path(recipe.data.path)
    if recipe.data.phantoms:
        scans = out / "scans"
        stages.append(_phantom(recipe, scans, voice))
    stages += [_check(scans, out, voice), _split(recipe, out)]
    folds = recipe.split.folds
    if not folds:
        return stages + _branch(Branch(recipe, scans, out / "split" / "split.csv", out, "", voice))
    folders = [out / f"fold-{k}" for k in range(recipe.split.take or folds)]
    for folder in folders:
        split = out / "split" / f"{folder.name}.csv"
        stages += _branch(Branch(recipe, scans, split, folder, f"{folder.name}/", voice))
    stages.append(_pool(recipe, out, folders, DENSE))
    if recipe.compress:
        stages.append(_pool(recipe, out, folders, COMPRESSED))
        stages.append(comparison_stage(recipe, out, folders[0], "", voice))
    return stages


def _phantom(recipe: Recipe, scans: Path, voice: Voice) -> Stage:
    n, seed = recipe.data.phantoms, recipe.data.seed
    settings = {"n": n, "seed": seed}

    def action(_again: bool) -> None:
        write_phantoms(scans, n=n, seed=seed, progress=voice.bar("simulating scans"))

    return Stage("phantom", settings, [], [scans], action)


def _check(scans: Path, out: Path, voice: Voice) -> Stage:
    folder = out / "check"

    def action(_again: bool) -> None:
        checked = check_scans(scans, folder, voice.bar("reading scans"))
        for finding in checked.findings:
            voice.say(f"  {'!' if finding.serious else '-'} {finding.title}")

    return Stage("check", {}, [scans], [folder / "index.csv", folder / "audit.html"], action)


def _split(recipe: Recipe, out: Path) -> Stage:
    wanted = recipe.split
    settings = as_dict(wanted) | {"take": 0}  # training fewer folds leaves the split as it is
    folder = out / "split"
    shares = {"val": wanted.val} | ({} if wanted.folds or wanted.keep_given else {"test": wanted.test})
    place = folder if wanted.folds else folder / "split.csv"

    def action(_again: bool) -> None:
        split_index(
            out / "check" / "index.csv",
            place,
            folds=wanted.folds or None,
            shares=shares,
            seed=wanted.seed,
            keep_given=wanted.keep_given,
        )

    return Stage("split", settings, [out / "check" / "index.csv"], [folder], action)


def _branch(branch: Branch) -> list[Stage]:
    """Return what is done on one split file: the dense network, and what the chain makes of it."""
    recipe = branch.recipe
    named = as_dict(recipe.export) | {"name": recipe.export.name or recipe.name}
    return [_train(branch), *model_stages(branch, DENSE, branch.dense, named), *compress_stages(branch)]


def _train(branch: Branch) -> Stage:
    config, run = branch.recipe.train, branch.dense
    settings = as_dict(config) | {"weights": "", "save_minutes": 0, "threads": 0}
    weights = [Path(config.weights)] if config.weights else []

    def action(again: bool) -> None:
        resume = again and (run / LAST).exists()
        with run_folder(run, resume):
            rows = read_split(branch.split)
            train_run(config, branch.root(), rows, run, resume=resume, feedback=branch.voice.train)

    return Stage(f"{branch.prefix}train", settings, [branch.split, *weights], [run], action)


def _pool(recipe: Recipe, out: Path, folders: list[Path], which: str) -> Stage:
    tables = [evaluation_of(folder, which) / "predictions.csv" for folder in folders]
    settings, place = as_dict(recipe.evaluate), evaluation_of(out, which)

    def action(_again: bool) -> None:
        request = Request(None, None, "", None)
        evaluate_to(place, pool([load(table, request) for table in tables]), **settings)

    return Stage(f"{which}pool", settings, tables, [place], action)


def results_of(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Return the paths that a reader wants next: the report, and a model file (of the first fold).

    With a chain also those of the compressed model, under "compressed", and the comparison's "report".
    """
    folder = out / "fold-0" if recipe.split.folds else out
    dense, small = (
        {"report": str(evaluation_of(out, which) / "report.html"), "model": str(model_of(folder, which))}
        for which in (DENSE, COMPRESSED)
    )
    if not recipe.compress:
        return dense
    return dense | {"compressed": small, "comparison": {"report": str(comparison_of(out) / "report.html")}}
