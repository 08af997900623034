"""The stages of a recipe: which files each takes and leaves, and the call that does its work."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from octlet.core.settings import as_dict
from octlet.data.phantom import write_phantoms
from octlet.data.source import open_source
from octlet.data.stages import check_scans, split_index
from octlet.recipe.branch import (
    COMPRESSED,
    DENSE,
    Branch,
    Voice,
    evaluation_of,
    model_of,
    model_stages,
    train_stages,
)
from octlet.recipe.compress import comparison_of, comparison_stage, compress_stages, exported_as
from octlet.recipe.release import FINAL, check_release, release_of, release_stages
from octlet.recipe.runner import Stage, stamps
from octlet.recipe.settings import Recipe
from octlet.scoring import Request, evaluate_to, load, pool


def build_stages(recipe: Recipe, out: Path, voice: Voice) -> list[Stage]:
    """Return the recipe's stages in order; nothing is read or written yet.

    With folds, each fold has a folder of its own and last stages pool their test predictions; a release is
    made after them. Raises UsageError for a release that the folds could not speak for.
    """
    if recipe.release.model:
        check_release(recipe)
    stages = []
    scans = Path(recipe.data.path)
    if recipe.data.phantoms:
        scans = out / "scans"
        stages.append(_phantom(recipe, scans, voice))
    stages += [_check(scans, out, voice), _split(recipe, out, voice)]
    folds = recipe.split.folds
    if not folds:
        return stages + _branch(Branch(recipe, scans, out / "split" / "split.csv", out, "", voice))
    names = [f"fold-{k}" for k in range(recipe.split.take or folds)]
    splits = [out / "split" / f"{name}.csv" for name in names]
    branches = [
        Branch(recipe, scans, split, out / name, f"{name}/", voice)
        for name, split in zip(names, splits, strict=True)
    ]
    for branch in branches:
        stages += _branch(branch)
    folders = [branch.folder for branch in branches]
    stages.append(_pool(recipe, out, folders, DENSE))
    if recipe.compress:
        stages.append(_pool(recipe, out, folders, COMPRESSED))
        stages.append(comparison_stage(recipe, out, folders[0], "", voice))
    if recipe.release.model:
        final = Branch(recipe, scans, out / FINAL / "split.csv", out / FINAL, f"{FINAL}/", voice)
        stages += release_stages(final, branches, COMPRESSED if recipe.compress else DENSE, out)
    return stages


def _phantom(recipe: Recipe, scans: Path, voice: Voice) -> Stage:
    n, seed = recipe.data.phantoms, recipe.data.seed
    settings = {"n": n, "seed": seed}

    def action(again: bool) -> None:
        if again and scans.exists():  # the folder comes whole, so only the note of it is missing
            return
        write_phantoms(scans, n=n, seed=seed, progress=voice.bar("simulating scans"))

    return Stage("phantom", settings, [], [scans], action)


def _check(scans: Path, out: Path, voice: Voice) -> Stage:
    folder = out / "check"

    def action(_again: bool) -> None:
        checked = check_scans(scans, folder, voice.bar("reading scans"))
        for finding in checked.findings:
            voice.say(f"  {'!' if finding.serious else '-'} {finding.title}")

    settings = {}
    if scans.suffix.lower() == ".csv":  # its text alone does not tell whether a scan was edited
        source = open_source(scans)
        settings["scans"] = stamps(source.root, (source.root / item.path for item in source))
    return Stage("check", settings, [scans], [folder / "index.csv", folder / "audit.html"], action)


def _split(recipe: Recipe, out: Path, voice: Voice) -> Stage:
    wanted = recipe.split
    settings = as_dict(wanted) | {"take": 0}  # training fewer folds leaves the split as it is
    folder = out / "split"
    shares = {"val": wanted.val} | ({} if wanted.folds or wanted.keep_given else {"test": wanted.test})
    place = folder if wanted.folds else folder / "split.csv"

    def action(_again: bool) -> None:
        made = split_index(
            out / "check" / "index.csv",
            place,
            folds=wanted.folds or None,
            shares=shares,
            seed=wanted.seed,
            keep_given=wanted.keep_given,
            given=wanted.given,
        )
        for summary in made.summaries:
            for line in _told_of(summary):
                voice.say(f"  {line}")

    return Stage("split", settings, [out / "check" / "index.csv"], [folder], action)


def _told_of(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a split file holds, and why scans are in no set of it."""
    sets = {name: f"{held['all_scans']:,}" for name, held in summary["sets"].items()}
    lone = sets.pop("quarantine")
    yield f"{Path(summary['file']).name}: " + ", ".join(f"{name} {count}" for name, count in sets.items())
    reasons = Counter(each["reason"] for each in summary["quarantined"])
    if reasons:
        why = "; ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        yield f"! in quarantine {lone}: {why}"


def _branch(branch: Branch) -> list[Stage]:
    """Return what is done on one split file: the dense networks, and what the chain makes of the first."""
    recipe = branch.recipe
    dense = model_stages(branch, DENSE, branch.dense, exported_as(recipe, DENSE))
    return [*train_stages(branch), *dense, *compress_stages(branch)]


def _pool(recipe: Recipe, out: Path, folders: list[Path], which: str) -> Stage:
    tables = [evaluation_of(folder, which) / "predictions.csv" for folder in folders]
    settings, place = as_dict(recipe.evaluate), evaluation_of(out, which)

    def action(_again: bool) -> None:
        request = Request(None, None, "", None)
        evaluate_to(place, pool([load(table, request) for table in tables]), **settings)

    return Stage(f"{which}pool", settings, tables, [place], action)


def results_of(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Return the paths that a reader wants next: the report, and a model file (of the first fold).

    With a chain also those of the compressed model, under "compressed", and the comparison's "report"; with a
    release its model file.
    """
    folder = out / "fold-0" if recipe.split.folds else out
    dense, small = (
        {"report": str(evaluation_of(out, which) / "report.html"), "model": str(model_of(folder, which))}
        for which in (DENSE, COMPRESSED)
    )
    found: dict[str, Any] = dict(dense)
    if recipe.compress:
        found |= {"compressed": small, "comparison": {"report": str(comparison_of(out) / "report.html")}}
    return found | ({"release": str(release_of(recipe, out))} if recipe.release.model else {})
