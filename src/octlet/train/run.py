"""A run folder: what was asked, on what, with which versions, how it went, and what came out.

config.json              the resolved settings
environment.json         versions, git revision, machine, seed
split.csv                the split, as it was used
metrics.jsonl            one line an epoch
curves.png               loss and accuracy of training and validation
checkpoint.safetensors   the epoch that `keep` names: what `octlet export` takes
last.safetensors         what --resume continues from
"""

import hashlib
import json
import platform
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from octlet import __version__
from octlet.core.errors import InputError, OctletError, UsageError
from octlet.core.files import write_json, write_text
from octlet.core.labels import LABELS, index_of
from octlet.core.settings import as_dict
from octlet.data.cache import prepared_scans
from octlet.data.index import Progress
from octlet.data.split import QUARANTINE, SplitRecord, check_leaks, read_split, write_split
from octlet.models.resnet import ResNet, build, count_parameters
from octlet.models.spec import named_spec
from octlet.models.weights import LoadReport, load_pretrained
from octlet.train.checkpoint import LAST, read_header, save_run
from octlet.train.config import TrainConfig
from octlet.train.figures import draw_curves
from octlet.train.loop import fit
from octlet.train.objective import Objective
from octlet.train.showing import Fold
from octlet.train.state import TrainState, new_state

EPOCHS_SAVED_EVERY = 10.0  # seconds, at least: where epochs take less, saving would take longer than they do


@dataclass(frozen=True)
class Feedback:
    """How a run speaks while it works: a line, a bar over a counting iterator, and a step of the bar."""

    say: Callable[[str], None] = lambda _: None
    bar: Progress = iter
    step: Callable[[int, int, float], None] = lambda _done, _total, _loss: None


class StoppedError(OctletError):
    """Ctrl-C or a termination signal came, and the run's state was saved."""

    exit_code = 130
    code = "stopped"


def train_run(
    config: TrainConfig,
    root: Path,
    split: Sequence[SplitRecord],
    out: Path,
    *,
    resume: bool = False,
    feedback: Feedback | None = None,
) -> dict[str, Any]:
    """Train one network and leave a complete run folder.

    Args:
        config: settings; when resuming, they must equal those of the run.
        root: folder that the split's paths are relative to.
        split: its train and val rows are used, test and quarantine never. Without val rows no figure judges
            an epoch, so the last has to be kept.
        out: the run folder; must be empty unless resuming.
        resume: continue from `last.safetensors`.
        feedback: where progress goes.

    Returns:
        {"run", "epochs", "kept": the row of the epoch that was kept, "parameters", "weights": load report
        or None}.

    Raises:
        InputError: patients cross the split, an empty fold, unreadable scans.
        UsageError: `out` holds another run, or nothing to resume.
        StoppedError: after a signal, with the state saved.
    """
    told = feedback or Feedback()
    place = RunPlace(out, as_dict(config), list(split), resume)
    place.check()
    folds = folds_of(config, root, split, told)
    net, report = fresh_net(config, told)
    state = new_state(net, config, device_of(config))
    meta = record_of(config, net, split)
    history = carry_out(state, folds, config, place, meta, Objective(config.label_smoothing), told)
    return {
        "run": str(out),
        "epochs": len(history),
        "kept": history[state.progress.kept(config.keep)],
        "parameters": count_parameters(net),
        "weights": None if report is None else vars(report),
    }


@dataclass(frozen=True)
class RunPlace:
    """A run folder and what must stand in it: its settings, as plain JSON types, and its split."""

    out: Path
    settings: dict[str, Any]
    split: list[SplitRecord]
    resume: bool

    def check(self) -> None:
        """Raise UsageError where the folder cannot be begun, or continued; InputError for a leaking split."""
        check_leaks(self.split)
        if self.resume:
            self._check_saved()
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            rule = "the run folder is not empty"
            raise UsageError(rule, path=self.out, remedy="give another --out, or --resume")

    def _check_saved(self) -> None:
        last = self.out / LAST
        if not last.is_file():
            rule = "there is nothing to resume: it was never saved"
            raise UsageError(
                rule, path=self.out, remedy="start it without --resume, in a new or empty folder"
            )
        self.check_same(read_header(last)["config"])

    def check_same(self, was: Mapping[str, Any]) -> None:
        """Raise UsageError where a saved run had other settings or another split than this one."""
        before = _told_apart(as_dict(TrainConfig()) | dict(was))  # a setting that came later had its default
        now = _told_apart(self.settings)
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed:
            rule = f"the settings differ from the run's in {', '.join(changed)}"
            raise UsageError(rule, path=self.out, remedy="resume with the same settings, or start a new run")
        if read_split(self.out / "split.csv") != self.split:
            raise UsageError("the split is not the run's", path=self.out, remedy="resume with the same split")

    def begin(self, seed: int) -> None:
        """Write what is known before the first step."""
        write_json(self.out / "config.json", self.settings)
        write_json(self.out / "environment.json", environment(seed))
        write_split(self.out / "split.csv", self.split)


def _told_apart(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which runs differ: not what changes no result, nor where a file lies."""
    plain = {key: value for key, value in settings.items() if key not in ("threads", "save_minutes")}
    return plain | {"weights": Path(settings.get("weights", "")).name}


def carry_out(
    state: TrainState,
    folds: tuple[Fold, Fold],
    config: TrainConfig,
    place: RunPlace,
    meta: dict[str, Any],
    objective: Objective,
    told: Feedback,
    ready: Callable[[nn.Module], nn.Module] = lambda net: net,
) -> list[dict[str, Any]]:
    """Train `state` in a run folder, from its beginning or from where it stopped, to its end.

    `ready` turns the network that is trained into the one that the checkpoint keeps.
    Returns the rows of metrics.jsonl; raises StoppedError after a signal, with the state saved.
    """
    if place.resume:
        state.load(place.out / LAST)
        told.say(f"resuming after {state.progress.epoch} of {config.epochs} epochs")
    else:
        place.begin(config.seed)
    watcher = _RunWatcher(state, config, place, meta, told, ready)
    with _signals(watcher):
        finished = fit(state, *folds, config, device_of(config), watcher, objective)
    if not finished:
        state.save(place.out / LAST, place.settings)
        if state.progress.history:
            watcher.record()
        rule = "stopped; everything up to the last step is saved"
        raise StoppedError(rule, path=place.out, remedy="continue with --resume")
    watcher.close()
    return state.progress.history


def folds_of(
    config: TrainConfig, root: Path, split: Sequence[SplitRecord], told: Feedback
) -> tuple[Fold, Fold]:
    """Return the training and the validation scans of a split; InputError where one of them is too small.

    A run that ends with its last epoch whatever the validation says may have no validation scan.
    """
    usable = sorted((row for row in split if row.split != QUARANTINE), key=lambda row: row.path)
    scans = prepared_scans(root, [(r.path, r.sha256) for r in usable], config.size, progress=told.bar)

    def fold(name: str) -> Fold:
        rows = np.array([i for i, row in enumerate(usable) if row.split == name], dtype=np.int64)
        labels = np.array([index_of(usable[i].label) for i in rows], dtype=np.int64)
        blind = name == "val" and not len(rows) and config.keep == "last" and not config.patience
        if len(rows) < 2 and not blind:
            remedy = "split the data again" + (", or set train.keep=last" if name == "val" else "")
            raise InputError(f"the split has {len(rows)} scans in '{name}'", remedy=remedy)
        return Fold(scans, rows, labels)

    train, val = fold("train"), fold("val")
    missing = [LABELS[i] for i in range(len(LABELS)) if not (train.labels == i).any()]
    if missing:
        raise InputError(f"no training scan of {', '.join(missing)}", remedy="add scans or split again")
    return train, val


def device_of(config: TrainConfig) -> torch.device:
    """Return where a run computes, and set its threads; UsageError for a CUDA device that is not there."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("train.device = 'cuda', but torch finds no CUDA device", remedy="use auto or cpu")
    use = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(use)


def fresh_net(config: TrainConfig, told: Feedback) -> tuple[ResNet, LoadReport | None]:
    """Return the network that a training begins with, and which of its weights came from a file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = build(named_spec(config.model))
    if not config.weights:
        return net, None
    report = load_pretrained(net, config.weights)
    told.say(f"{config.weights}: {report}")
    return net, report


def environment(seed: int) -> dict[str, Any]:
    """Return what a result may depend on besides its settings: versions, git revision, machine, seed."""
    packages = ("torch", "numpy", "pillow", "safetensors")
    return {
        "octlet": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "git": git_revision(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seed": seed,
    }


def git_revision() -> str | None:
    """Return the revision of the source tree that runs, "+changes" if it is modified; None outside git."""
    here = Path(__file__).parent

    def ask(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        return ask("rev-parse", "HEAD") + ("+changes" if ask("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def fingerprint_of(split: Sequence[SplitRecord]) -> str:
    """Return 64 hex digits that tell a split's training scans, by their bytes and labels, from any others."""
    train = (row for row in split if row.split == "train")
    return hashlib.sha256("\n".join(sorted(f"{r.sha256} {r.label}" for r in train)).encode()).hexdigest()


def trained_split(run: Path, meta: Mapping[str, Any]) -> list[SplitRecord]:
    """Read the split of a run, whose record is `meta`; InputError where it was trained on other scans."""
    split = read_split(run / "split.csv")
    if meta.get("data", {}).get("fingerprint") != fingerprint_of(split):
        rule = "its checkpoint was not trained on the training scans of its split.csv"
        raise InputError(rule, path=run, remedy="give a run whose split is as it was")
    return split


def record_of(config: TrainConfig, net: ResNet, split: Sequence[SplitRecord]) -> dict[str, Any]:
    """Return what a checkpoint says of its training before the first step: see `TrainedRun.meta`."""
    train = [row for row in split if row.split == "train"]
    return {
        "spec": net.spec.as_dict(),
        "size": config.size,
        "labels": list(LABELS),
        "config": as_dict(config) | {"weights": Path(config.weights).name},
        "data": {
            "fingerprint": fingerprint_of(split),
            "scans": len(train),
            "patients": len({row.patient for row in train}),
            "per_class": dict(sorted(Counter(row.label for row in train).items())),
        },
        "environment": environment(config.seed),
    }


class _RunWatcher:
    """Saves the run as it goes, and stops it when asked."""

    def __init__(
        self,
        state: TrainState,
        config: TrainConfig,
        place: RunPlace,
        meta: dict[str, Any],
        told: Feedback,
        ready: Callable[[nn.Module], nn.Module],
    ) -> None:
        self.state, self.config, self.place, self.meta, self.told = state, config, place, meta, told
        self.out, self.ready = place.out, ready
        self.stop = threading.Event()
        self.saved = time.monotonic()
        self.closed: float | None = None

    def step(self, done: int, total: int, loss: float) -> bool:
        self.told.step(done, total, loss)
        if time.monotonic() - self.saved > 60 * self.config.save_minutes:
            self._save()
        return self.stop.is_set()

    def epoch(self, row: dict[str, Any], *, best: bool) -> None:
        told = f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.3f}  "
        if "val_loss" in row:
            told += f"val loss {row['val_loss']:.4f} accuracy {row['val_accuracy']:.3f} "
            told += f"balanced {row['val_balanced_accuracy']:.3f}  {'best  ' if best else ''}"
        self.told.say(f"epoch {row['epoch']}/{self.config.epochs}  {told}{row['seconds']:.0f} s")
        if best and self.config.keep == "best":
            self._keep(row)
        if self.closed is None or time.monotonic() - self.closed > EPOCHS_SAVED_EVERY:
            self.close()

    def close(self) -> None:
        """Save an epoch that is done: the network, the state that goes on from it, and the record of both.

        In this order: a stop between two of them repeats the epoch and loses nothing.
        """
        if self.config.keep == "last":
            self._keep(self.state.progress.history[-1])
        self._save()
        self.record()
        self.closed = time.monotonic()

    def record(self) -> None:
        """Write the history for readers; its source is the saved state."""
        history = self.state.progress.history
        write_text(self.out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        draw_curves(history, self.state.progress.kept(self.config.keep) + 1, self.out / "curves.png")

    def _keep(self, row: dict[str, Any]) -> None:
        figures = {key: value for key, value in row.items() if key.startswith("val_")}
        record = {**self.meta, "epoch": row["epoch"], "metrics": figures}
        save_run(self.out, self.ready(self.state.judged), record)

    def _save(self) -> None:
        self.state.save(self.out / LAST, self.place.settings)
        self.saved = time.monotonic()


@contextmanager
def _signals(watcher: _RunWatcher) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a clean stop after the step; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: object) -> None:
        if watcher.stop.is_set():
            raise KeyboardInterrupt
        watcher.stop.set()
        sys.stderr.write("\nstopping after this step ...\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
