"""One split of the scans, the folder of what is made on it, and how a model is exported and measured."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from octlet.calibration import Plan, calibrate
from octlet.core.errors import InputError
from octlet.core.settings import as_dict
from octlet.data.index import Progress
from octlet.data.source import open_source
from octlet.data.split import read_split
from octlet.export.package import export_run
from octlet.recipe.runner import Stage
from octlet.recipe.settings import Recipe
from octlet.recipe.steps import CompressStep
from octlet.runtime.predictor import Predictor
from octlet.scoring import Request, evaluate_to, load
from octlet.train.checkpoint import BEST, LAST
from octlet.train.config import TrainConfig
from octlet.train.run import Feedback, StoppedError, train_run

DENSE, COMPRESSED = "", "compressed-"  # what the stages and folders of the two models begin with


@dataclass(frozen=True)
class Voice:
    """How the stages speak while they work: lines, a named bar over a count, training's feedback."""

    say: Callable[[str], None]
    bar: Callable[[str], Progress]
    train: Feedback


@dataclass(frozen=True)
class Branch:
    """One split of the scans, the folder for what is made on it, and what its stages' names begin with."""

    recipe: Recipe
    scans: Path
    split: Path
    folder: Path
    prefix: str
    voice: Voice

    @property
    def dense(self) -> Path:
        """The run of the network that everything else is made from."""
        return self.folder / "train"

    @property
    def teachers(self) -> list[Path]:
        """The runs that a student may learn from: the dense one, and those of [[teacher]]."""
        more = (self.folder / f"teacher-{k}" for k in range(1, len(self.recipe.teacher) + 1))
        return [self.dense, *more]

    def teaching(self, step: CompressStep) -> list[Path]:
        """Return the runs that a 'distill' step learns from."""
        runs = self.teachers
        return [runs[k] for k in step.teachers] or runs

    def root(self) -> Path:
        """Return the folder that the split's paths are relative to."""
        return open_source(self.scans).root


def model_of(folder: Path, which: str) -> Path:
    """Return where a branch's model file stands; `which` is DENSE or COMPRESSED."""
    return folder / ("compressed.octlet" if which else "model.octlet")


def evaluation_of(folder: Path, which: str) -> Path:
    """Return where the evaluation of a model stands, of a branch or of all folds."""
    return folder / f"{which}evaluation"


@contextmanager
def run_folder(run: Path, resume: bool) -> Iterator[None]:
    """Clear the folder of a run that cannot be resumed, and tell how a stopped recipe or sweep goes on."""
    if run.exists() and not resume:
        shutil.rmtree(run)  # stopped before its first save: nothing was trained in it
    try:
        yield
    except StoppedError as error:
        raise StoppedError(error.rule, path=run, remedy="run the same command again to go on") from error


def train_stages(branch: Branch) -> list[Stage]:
    """Return the stages that train the dense network, and the others that teach with it."""
    dense, *runs = branch.teachers
    stages = [_train_stage(branch, branch.recipe.train, dense)]
    for each, run in zip(branch.recipe.teacher, runs, strict=True):
        weights = str(dense / BEST) if each.goes_on else each.training.weights
        stages.append(_train_stage(branch, replace(each.training, weights=weights), run))
    return stages


def _train_stage(branch: Branch, config: TrainConfig, run: Path) -> Stage:
    settings = as_dict(config) | {"weights": "", "save_minutes": 0, "threads": 0}
    weights = [Path(config.weights)] if config.weights else []

    def action(again: bool) -> None:
        resume = again and (run / LAST).exists()
        with run_folder(run, resume):
            rows = read_split(branch.split)
            train_run(config, branch.root(), rows, run, resume=resume, feedback=branch.voice.train)

    return Stage(f"{branch.prefix}{run.name}", settings, [branch.split, *weights], [run], action)


def model_stages(branch: Branch, which: str, run: Path, named: dict[str, Any]) -> list[Stage]:
    """Return the stages that export a run and measure the model on the test scans.

    `which` is DENSE or COMPRESSED, `named` the settings of `export_run`.
    """
    recipe, voice = branch.recipe, branch.voice
    model, evaluation = model_of(branch.folder, which), evaluation_of(branch.folder, which)

    doubt = recipe.calibrate

    def export(_again: bool) -> None:
        export_run(run, model, **named, progress=voice.bar("comparing with integers"))
        if doubt.coverage:
            plan = Plan(branch.scans, branch.split, **as_dict(doubt))
            predictor = Predictor.open(model)
            calibrate(predictor, plan, out=model, scores=None, progress=voice.bar("calibrating"))

    def evaluate(_again: bool) -> None:
        scored = load(model, Request(branch.scans, branch.split, "test", None), voice.bar("scoring scans"))
        if scored.unreadable:
            raise InputError("a scan of the split cannot be read any more", path=scored.unreadable[0].path)
        evaluate_to(evaluation, scored, **as_dict(recipe.evaluate))

    name = branch.prefix + which
    measured = as_dict(recipe.evaluate)
    wanted = dict(named)
    needed = [run / BEST]
    if doubt.coverage:
        wanted["calibrate"] = as_dict(doubt)
        needed.append(branch.split)
    return [
        Stage(f"{name}export", wanted, needed, [model], export),
        Stage(f"{name}evaluate", measured, [model, branch.split], [evaluation], evaluate),
    ]
