"""The model that ships: trained on every scan by the settings that the folds have tested.

No scan is left to judge it. What is expected of it is what the folds' networks did on patients that they had
not seen; its doubt is fitted on their held-out scores, and its file states their pooled figures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from octlet.calibration import Plan, calibrate
from octlet.core.errors import UsageError
from octlet.core.settings import as_dict
from octlet.data.stages import split_index
from octlet.export.package import export_run
from octlet.recipe.branch import Branch, evaluation_of, model_of, train_stages
from octlet.recipe.compress import exported_as, last_of, step_stages
from octlet.recipe.runner import Stage
from octlet.recipe.settings import Recipe
from octlet.runtime.predictor import Predictor
from octlet.train.checkpoint import BEST
from octlet.train.config import TrainConfig

FINAL = "final"


def check_release(recipe: Recipe) -> None:
    """Raise UsageError for a recipe whose release no fold would speak for, or that needs validation scans."""
    fresh = as_dict(TrainConfig())  # a student that goes on from a network keeps the last epoch by itself
    steps = ((fresh if step.is_fresh else {}) | dict(step.training) for step in recipe.compress)
    dense = (recipe.train, *(each.training for each in recipe.teacher))
    trainings = [*map(as_dict, dense), *steps]
    picks = [each for each in trainings if each.get("keep", "last") != "last" or each.get("patience")]
    for wrong, rule, remedy in (
        (not recipe.split.folds, "there are no folds to tell what it is worth", "set split.folds"),
        (recipe.split.take, "some folds are not trained", "leave out split.take"),
        (not recipe.calibrate.coverage, "the model would not know doubt", "set calibrate.coverage = 0.95"),
        (picks, "without validation scans nothing picks an epoch", 'set train.keep = "last", no patience'),
    ):
        if wrong:
            raise UsageError(f"[release]: {rule}", remedy=remedy)


def release_stages(branch: Branch, folds: list[Branch], which: str, out: Path) -> list[Stage]:
    """Return the stages that make the model that ships.

    Args:
        branch: of all scans; its split file is made here.
        folds: the branches of the cross-validation.
        which: the model of each branch that it is to be: DENSE or COMPRESSED.
        out: the recipe's folder.
    """
    known = [_held_out(fold, which) for fold in folds]
    run = last_of(branch)
    model = branch.folder / "uncalibrated.octlet"
    return [
        *known,
        _split(branch, out),
        *train_stages(branch),
        *step_stages(branch, gated=False),
        _export(branch, run, model, which),
        _calibrate(branch, model, [path for stage in known for path in stage.outputs], which, out),
    ]


def release_of(recipe: Recipe, out: Path) -> Path:
    """Return where the model that ships stands."""
    return out / recipe.release.model


def _held_out(fold: Branch, which: str) -> Stage:
    model, scores = model_of(fold.folder, which), fold.folder / "held-out.csv"

    def action(_again: bool) -> None:
        plan, progress = Plan(fold.scans, fold.split, subset="test"), fold.voice.bar("scoring scans")
        calibrate(Predictor.open(model), plan, out=None, scores=scores, progress=progress)

    return Stage(f"{fold.prefix}held-out", {}, [model, fold.split], [scores], action)


def _split(branch: Branch, out: Path) -> Stage:
    index = out / "check" / "index.csv"

    def action(_again: bool) -> None:
        split_index(index, branch.split, shares={"val": 0.0, "test": 0.0})

    return Stage(f"{branch.prefix}split", {}, [index], [branch.split], action)


def _export(branch: Branch, run: Path, model: Path, which: str) -> Stage:
    named = exported_as(branch.recipe, which) | {"name": Path(branch.recipe.release.model).stem}

    def action(_again: bool) -> None:
        export_run(run, model, **named, progress=branch.voice.bar("comparing with integers"))

    return Stage(f"{branch.prefix}export", named, [run / BEST], [model], action)


def _calibrate(branch: Branch, model: Path, scores: list[Path], which: str, out: Path) -> Stage:
    recipe = branch.recipe
    release, performance = release_of(recipe, out), evaluation_of(out, which) / "metrics.json"
    settings: dict[str, Any] = as_dict(recipe.calibrate)
    notes = [Path(recipe.release.notes)] if recipe.release.notes else []

    def action(_again: bool) -> None:
        plan = Plan(branch.scans, branch.split, pooled=tuple(scores), expected=performance, **settings)
        if notes:
            plan = replace(plan, notes=notes[0])
        progress = branch.voice.bar("calibrating")
        calibrate(Predictor.open(model), plan, out=release, scores=None, progress=progress)

    inputs = [model, branch.split, performance, *scores, *notes]
    return Stage(f"{branch.prefix}calibrate", settings, inputs, [release], action)
