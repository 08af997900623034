"""The stages of a recipe: which files each takes and leaves, and the call that does its work."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octlet.core.errors import InputError
from octlet.core.settings import as_dict
from octlet.data.index import Progress
from octlet.data.phantom import write_phantoms
from octlet.data.source import open_source
from octlet.data.split import read_split
from octlet.data.stages import check_scans, split_index
from octlet.export.package import export_run
from octlet.recipe.runner import Stage
from octlet.recipe.settings import Recipe
from octlet.scoring import Request, evaluate_to, load, pool
from octlet.train.checkpoint import BEST, LAST
from octlet.train.run import Feedback, StoppedError, train_run


@dataclass(frozen=True)
class Voice:
    """How the stages speak while they work: lines, a named bar over a count, training's feedback."""

    say: Callable[[str], None]
    bar: Callable[[str], Progress]
    train: Feedback


def build_stages(recipe: Recipe, out: Path, voice: Voice) -> list[Stage]:
    """Return the recipe's stages in order; nothing is read or written yet.

    With folds, each fold has a folder of its own and a last stage pools their test predictions.
    """
    stages = []
    scans = Path(recipe.data.path)
    if recipe.data.phantoms:
        scans = out / "scans"
        stages.append(_phantom(recipe, scans, voice))
    stages += [_check(scans, out, voice), _split(recipe, out)]
    folds = recipe.split.folds
    if not folds:
        return stages + _branch(recipe, scans, out / "split" / "split.csv", out, "", voice)
    taken = recipe.split.take or folds
    for k in range(taken):
        stages += _branch(
            recipe, scans, out / "split" / f"fold-{k}.csv", out / f"fold-{k}", f"fold-{k}/", voice
        )
    return [*stages, _pool(recipe, out, taken)]


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


def _branch(recipe: Recipe, scans: Path, split: Path, folder: Path, prefix: str, voice: Voice) -> list[Stage]:
    """Return train, export and evaluate on one split file."""
    named = as_dict(recipe.export) | {"name": recipe.export.name or recipe.name}
    run, model, evaluation = folder / "train", folder / "model.octlet", folder / "evaluation"

    def train(again: bool) -> None:
        resume = again and (run / LAST).exists()
        if run.exists() and not resume:
            shutil.rmtree(run)  # stopped before its first save: nothing was trained in it
        try:
            train_run(
                recipe.train,
                open_source(scans).root,
                read_split(split),
                run,
                resume=resume,
                feedback=voice.train,
            )
        except StoppedError as error:
            raise StoppedError(error.rule, path=run, remedy="run the same recipe again to go on") from error

    def export(_again: bool) -> None:
        export_run(run, model, **named)

    def evaluate(_again: bool) -> None:
        scored = load(model, Request(scans, split, "test", None), voice.bar("scoring scans"))
        if scored.unreadable:
            raise InputError("a scan of the split cannot be read any more", path=scored.unreadable[0].path)
        evaluate_to(evaluation, scored, **as_dict(recipe.evaluate))

    settings = as_dict(recipe.train) | {"weights": "", "save_minutes": 0, "threads": 0}
    weights = [Path(recipe.train.weights)] if recipe.train.weights else []
    return [
        Stage(prefix + "train", settings, [split, *weights], [run], train),
        Stage(prefix + "export", named, [run / BEST], [model], export),
        Stage(prefix + "evaluate", as_dict(recipe.evaluate), [model, split], [evaluation], evaluate),
    ]


def _pool(recipe: Recipe, out: Path, taken: int) -> Stage:
    tables = [out / f"fold-{k}" / "evaluation" / "predictions.csv" for k in range(taken)]
    settings = as_dict(recipe.evaluate)

    def action(_again: bool) -> None:
        request = Request(None, None, "", None)
        evaluate_to(out / "evaluation", pool([load(table, request) for table in tables]), **settings)

    return Stage("pool", settings, tables, [out / "evaluation"], action)


def results_of(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Return the paths that a reader wants next: the report, and a model file (of the first fold)."""
    model = out / "fold-0" / "model.octlet" if recipe.split.folds else out / "model.octlet"
    return {"report": str(out / "evaluation" / "report.html"), "model": str(model)}
