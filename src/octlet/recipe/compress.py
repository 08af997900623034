"""The stages that make a trained network small: steps, each with a gate, and the comparison at their end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from octlet.compress.config import PruneConfig, QuantConfig
from octlet.compress.distil import DistilConfig, distil_run
from octlet.compress.prune.run import prune_run
from octlet.compress.quant.run import quantize_run
from octlet.core.bundle import open_bundle
from octlet.core.files import sha256_of, writing_to
from octlet.core.settings import as_dict
from octlet.data.split import read_split
from octlet.evaluate.comparison import Contender, compare_models
from octlet.evaluate.comparison_report import write_comparison
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
from octlet.recipe.gate import GATE, judge, told_of
from octlet.recipe.runner import Stage
from octlet.recipe.settings import Recipe
from octlet.recipe.steps import CompressStep
from octlet.runtime import latency
from octlet.scoring import Request, Scored, load, notes_on
from octlet.train.checkpoint import BEST, LAST


def compress_stages(branch: Branch) -> list[Stage]:
    """Return the chain's stages on one split: every step and its gate, then the model and its comparison."""
    recipe, folder = branch.recipe, branch.folder
    if not recipe.compress:
        return []
    return [
        *step_stages(branch),
        *model_stages(branch, COMPRESSED, last_of(branch), exported_as(recipe, COMPRESSED)),
        comparison_stage(recipe, folder, folder, branch.prefix, branch.voice),
    ]


def step_stages(branch: Branch, *, gated: bool = True) -> list[Stage]:
    """Return the stages of the chain's steps; each has a gate, unless there are no scans to judge it by."""
    stages = []
    before = branch.dense
    for step in branch.recipe.compress:
        run = branch.folder / step.name
        stages.append(_step(branch, step, before, run))
        if gated:
            stages.append(_gate(branch, step, run))
        before = run
    return stages


def last_of(branch: Branch) -> Path:
    """Return the run that the chain ends with: the dense one without steps."""
    steps = branch.recipe.compress
    return branch.folder / steps[-1].name if steps else branch.dense


def exported_as(recipe: Recipe, which: str) -> dict[str, Any]:
    """Return the settings of `export_run` for a branch's model; `which` is DENSE or COMPRESSED."""
    name = recipe.export.name or recipe.name
    named = as_dict(recipe.export) | {"name": f"{name}-compressed" if which else name}
    if which and recipe.compress[-1].kind == "quantize":
        named["prior_shift"] = 0.0  # the rounding has it in itself: see `_config`
    if recipe.compress and not which:
        named["second_look"] = 0.0  # the dense network is what others are measured by
    return named


def _step(branch: Branch, step: CompressStep, before: Path, run: Path) -> Stage:
    config, training = _config(branch.recipe, step), dict(step.training)
    if step.rewinds and branch.recipe.train.weights:
        training.setdefault("weights", branch.recipe.train.weights)

    def action(again: bool) -> None:
        # a pruning begins with its split on disk, a training with its first save
        mark = "split.csv" if step.kind == "prune" else LAST
        resume = again and (run / mark).exists()
        with run_folder(run, resume):
            _carry_out(branch, step, config, training, before, run, resume)

    free = ("weights", "save_minutes", "threads")  # a file counts by its content, the others for nothing
    plain = {key: value for key, value in training.items() if key not in free}
    files = [Path(training["weights"])] if training.get("weights") else []
    settings = {"config": as_dict(config), "train": plain}
    teachers = branch.teaching(step) if step.kind == "distill" else [branch.dense]
    inputs = [branch.split, before / BEST, *(each / BEST for each in teachers), *files]
    return Stage(f"{branch.prefix}{step.name}", settings, inputs, [run], action)


def _carry_out(
    branch: Branch,
    step: CompressStep,
    config: PruneConfig | DistilConfig | QuantConfig,
    training: Mapping[str, Any],
    before: Path,
    run: Path,
    resume: bool,
) -> None:
    root, told = branch.root(), branch.voice.train
    if isinstance(config, DistilConfig):
        student = None if step.is_fresh else before
        teachers = branch.teaching(step)
        distil_run(teachers, root, run, config, training, student=student, resume=resume, feedback=told)
    elif isinstance(config, PruneConfig):
        # a student may have another size than the dense network, and is its own teacher when it is pruned
        has_student = any(each.is_fresh for each in branch.recipe.compress)
        teacher = before if has_student else branch.dense
        prune_run(before, root, run, config, training, teacher=teacher, resume=resume, feedback=told)
    else:
        quantize_run(before, root, run, config, training, resume=resume, feedback=told)


def _config(recipe: Recipe, step: CompressStep) -> PruneConfig | DistilConfig | QuantConfig:
    """Return a step's settings; the export's prior shift belongs before the rounding."""
    if isinstance(step.config, QuantConfig):
        return replace(step.config, prior_shift=recipe.export.prior_shift)
    return step.config


def _gate(branch: Branch, step: CompressStep, run: Path) -> Stage:
    """Return a stage of its own, so that another `max_loss` trains nothing again."""
    recipe, voice = branch.recipe, branch.voice
    settings = {"max_loss": recipe.gate.max_loss, **as_dict(recipe.evaluate)}

    def action(_again: bool) -> None:
        rows = read_split(branch.split)
        found = judge(branch.dense, run, branch.root(), rows, recipe.train, **settings, feedback=voice.train)
        voice.say(f"  {told_of(found)}")

    inputs = [branch.split, branch.dense / BEST, run / BEST]
    return Stage(f"{branch.prefix}{step.name}-gate", settings, inputs, [run / GATE], action)


def comparison_of(folder: Path) -> Path:
    """Return where a comparison stands, of a branch or of all folds."""
    return folder / "comparison"


def comparison_stage(recipe: Recipe, folder: Path, models: Path, prefix: str, voice: Voice) -> Stage:
    """Return the stage that compares what the dense and the compressed model said of the same test scans.

    Args:
        recipe: its `evaluate` settings are those of the comparison.
        folder: of a branch, or of all folds, with both evaluations in it.
        models: folder of the model files whose size and speed are told.
        prefix: what the stage's name begins with.
        voice: where progress goes.
    """
    whiches = (DENSE, COMPRESSED)
    tables = [evaluation_of(folder, which) / "predictions.csv" for which in whiches]
    files = [model_of(models, which) for which in whiches]
    place, settings = comparison_of(folder), as_dict(recipe.evaluate)

    def action(_again: bool) -> None:
        scored = [load(table, Request(None, None, "", None)) for table in tables]
        contenders = _contenders(scored, files, voice)
        result = {
            **compare_models(contenders, **settings),
            "latency": latency.HOW,
            "notes": notes_on(scored[0]),
            "unreadable": [],
        }
        with writing_to(place):
            write_comparison(place, result, contenders)

    return Stage(f"{prefix}compare", settings, [*tables, *files], [place], action)


def _contenders(scored: Sequence[Scored], files: Sequence[Path], voice: Voice) -> list[Contender]:
    bundles = [open_bundle(file) for file in files]
    ratios = latency.measure_files(bundles, voice.bar("measuring speed")).ratios
    contenders = []
    for name, each, bundle, ratio in zip(("dense", "compressed"), scored, bundles, ratios, strict=True):
        file: dict[str, Any] = {
            "name": bundle.manifest.name,
            "file": str(bundle.path),
            "sha256": sha256_of(bundle.path),
        }
        identity = {**each.identity, "cost": file}
        size = bundle.path.stat().st_size
        contenders.append(Contender(name, each.predictions, identity, size, ratio))
    return contenders
