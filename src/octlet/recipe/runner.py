"""Runs stages in order and skips what is done, as make does, but by content and settings, not by clock."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from octlet.core.errors import InputError
from octlet.core.files import sha256_of, write_json

STATE = ".stages"
# settings; off, they do what was done before they came
LATER = frozenset({"degrade", "given", "litert", "mirror", "mixup", "restore", "second_look", "teacher_size"})


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    Attributes:
        name: unique; "fold-0/train".
        settings: plain values that its result depends on; what is in `LATER` and off does not count.
        inputs: files and folders that its result depends on: a file by its content, a folder by its listing.
        outputs: what it writes: files, or folders.
        action: does the work. It gets True when an unfinished attempt with the same settings and inputs was
            left behind, and may then go on from it.
    """

    name: str
    settings: Mapping[str, Any]
    inputs: Sequence[Path]
    outputs: Sequence[Path]
    action: Callable[[bool], None] = field(repr=False)


def run_stages(
    stages: Sequence[Stage], out: Path, say: Callable[[str], None], only: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Run the stages that are not done, in order, and return what was run and what was skipped.

    A stage is done when its outputs stand and its settings and the CONTENT of its inputs are those of the
    run that wrote them. Outputs of another setting are moved to `out`/previous, never overwritten. Several
    processes may run stages of one folder at a time: a stage that another is at is waited for.

    Args:
        stages: in order of their needs.
        out: the recipe's folder.
        say: told of each stage.
        only: names of stages, or of the folders that their names begin with: run these, and of the stages
            without a "/" those whose inputs stand; none runs all.

    Returns:
        One dict a stage: {"stage", "status": "done"|"kept", "seconds"}.
    """
    report = []
    for stage in stages:
        if only and "/" in stage.name and not _is_chosen(stage.name, only):
            continue
        if only and _lacks_input(stage):  # it pools stages that this call leaves out
            continue
        with _alone(out / STATE / f"{stage.name.replace('/', '.')}.lock", stage.name, say):
            report.append(_settle(stage, out, say))
    return report


def _is_chosen(name: str, only: Sequence[str]) -> bool:
    return any(f"{name}/".startswith(f"{each.rstrip('/')}/") for each in only)


def _settle(stage: Stage, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run one stage unless it is done; return its line of the report."""
    print_ = _fingerprint(stage)
    note = out / STATE / f"{stage.name.replace('/', '.')}.json"
    known = _read(note)
    if known.get("fingerprint") == print_ and known["done"] and all(p.exists() for p in stage.outputs):
        say(f"{stage.name}: up to date")
        return {"stage": stage.name, "status": "kept", "seconds": known["seconds"]}
    again = known.get("fingerprint") == print_ and not known["done"]
    if not again:
        _set_aside(stage, out)
    say(f"{stage.name}: {'continuing' if again else 'running'}")
    write_json(note, {"fingerprint": print_, "done": False, "seconds": 0.0})
    began = time.monotonic()
    stage.action(again)
    seconds = round(time.monotonic() - began, 1)
    write_json(note, {"fingerprint": print_, "done": True, "seconds": seconds})
    return {"stage": stage.name, "status": "done", "seconds": seconds}


@contextmanager
def _alone(lock: Path, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold `lock`, which the system lets go of when this process dies, however it dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        say(f"{name}: waiting for another process that is at it")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _lacks_input(stage: Stage) -> bool:
    return not all(entry.exists() for entry in stage.inputs)


def _fingerprint(stage: Stage) -> str:
    contents = []
    for entry in stage.inputs:
        if not entry.exists():
            raise InputError(f"stage '{stage.name}' needs it", path=entry, remedy="check the recipe's paths")
        contents.append(listing(entry) if entry.is_dir() else sha256_of(entry))
    text = json.dumps([stage.name, _counted(stage.settings), contents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _counted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what counts of settings, and of those of a step's verb below "config"."""
    counted = {key: value for key, value in settings.items() if value or key not in LATER}
    if "config" in counted:
        counted["config"] = _counted(counted["config"])
    return counted


def _read(note: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(note.read_text())
    except FileNotFoundError:
        return {}
    return known


def _set_aside(stage: Stage, out: Path) -> None:
    for path in stage.outputs:
        if not path.exists():
            continue
        name = path.relative_to(out).as_posix().replace("/", ".")
        number = 1
        while (aside := out / "previous" / f"{name}-{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)


def listing(folder: Path) -> str:
    """Return a text that changes when a file below `folder` is added, removed or edited."""
    seen: set[str] = set()
    files: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if _is_new(Path(place, name), seen)]
        files += (Path(place, name) for name in names)
    return stamps(folder.parent, sorted(file for file in files if file.is_file()))


def _is_new(folder: Path, seen: set[str]) -> bool:
    """Note a folder by where it really lies, so that links in a circle end."""
    real = os.path.realpath(folder)
    return real not in seen and not seen.add(real)  # type: ignore[func-returns-value]


def stamps(root: Path, files: Iterable[Path]) -> str:
    """Return 64 hex digits that change when one of the files, in this order, is another or was edited."""
    lines = (f"{p.relative_to(root)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
