"""A watched folder of small scans, a model that knows them by a pixel, and a clock that nobody waits for."""

import csv
import io
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

import octlet.core.files
import octlet.watch
from octlet.core.labels import LABELS
from octlet.core.prediction import Prediction
from octlet.core.quality import Quality
from octlet.watch.deliver import CsvFile, JsonFiles, Sink
from octlet.watch.journal import Journal
from octlet.watch.watcher import Clock, Settings, Watcher

URGENT, ROUTINE, NORMAL, BLANK = 0, 2, 3, 9  # a scan's first pixel: its label, or one that nobody can judge
_GOOD = Quality(**{each.name: 0.0 for each in fields(Quality)} | {"contrast": 150.0})
_BLANK = Quality(**{each.name: 0.0 for each in fields(Quality)})


def scan(kind: int, serial: int = 0) -> bytes:
    """The bytes of a PNG; other serials are other bytes."""
    pixels = np.full((16, 16), 99, np.uint8)
    pixels[0, :3] = kind, serial // 256, serial % 256
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class FakePredictor:
    """Knows a scan by its first pixel, and counts."""

    identity: dict[str, Any] = field(default_factory=lambda: {"name": "fake", "engine": "none"})
    calls: Counter[tuple[str, int, int]] = field(default_factory=Counter)

    def predict(self, grays: Sequence[np.ndarray], names: Sequence[str]) -> list[Prediction]:
        return [self._one(gray, name) for gray, name in zip(grays, names, strict=True)]

    def _one(self, gray: np.ndarray, name: str) -> Prediction:
        kind, high, low = (int(value) for value in gray[0, :3])
        self.calls[name, kind, 256 * high + low] += 1
        if kind == BLANK:
            return Prediction.of(name, np.full(4, 0.25), _BLANK)
        return Prediction.of(name, np.where(np.arange(4) == kind, 0.85, 0.05), _GOOD)


@dataclass
class World:
    """A folder with its journal, and what becomes of it."""

    root: Path
    settings: Settings = field(default_factory=lambda: Settings(settle=1.0, deadline=60.0))
    now: float = 1_000_000.0
    events: list[dict[str, Any]] = field(default_factory=list)
    predictor: FakePredictor = field(default_factory=FakePredictor)
    watcher: Watcher | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def folder(self) -> Path:
        return self.root / "in"

    @property
    def csv(self) -> Path:
        return self.root / "results.csv"

    def put(self, path: str, data: bytes) -> Path:
        """Write a file with a modification time that no other write has had."""
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        self.now += 0.001
        os.utime(place, (self.now, self.now))
        return place

    def open(self, kind: str = "json") -> Watcher:
        """Start a watcher; the one before is gone."""
        self.close()
        sinks: dict[str, Callable[[], Sink]] = {
            "json": lambda: JsonFiles(self.folder),
            "csv": lambda: CsvFile(self.csv),
            "out": lambda: JsonFiles(self.folder, self.root / "out"),
        }
        clock = Clock(lambda: self.now, lambda: self.now, self._pass)
        journal = Journal(self.root / "journal.sqlite", self.folder)
        self.watcher = Watcher(
            self.folder, self.predictor, journal, sinks[kind](), self.events.append, self.settings, clock
        )
        return self.watcher

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def close(self) -> None:
        if self.watcher is not None:
            self.watcher.journal.close()
            self.watcher = None

    def settle(self) -> None:
        """Sweep until all that is at rest has been taken."""
        assert self.watcher is not None
        for _ in range(2):
            while self.watcher.sweep():
                pass
            self.now += self.settings.settle

    def document(self, path: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{path}.octlet.json").read_text())

    def rows(self) -> list[dict[str, str]]:
        """The CSV file's rows; every line of it is whole."""
        text = self.csv.read_text()
        assert not text or text.endswith("\n")
        return list(csv.DictReader(io.StringIO(text)))

    def told(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]


def label_of(kind: int) -> str:
    return LABELS[kind]


# Dying at every line --------------------------------------------------------------------------------------

_WATCHED = (str(Path(octlet.watch.__file__).parent), octlet.core.files.__file__, __file__)

Line = tuple[str, int]


@contextmanager
def before_each_line(call: Callable[[Line], None]) -> Iterator[None]:
    """Call before every line that the watcher, its files or `half_writes` execute."""

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            call((frame.f_code.co_filename, frame.f_lineno))
        return local

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename.startswith(_WATCHED) and frame.f_code.co_name != "before_each_line":
            return local
        return None

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def half_writes(real: Callable[[int, bytes], int] = os.write) -> Callable[[int, bytes], int]:
    """An os.write that writes half of what it is given, as a nearly full disk does."""

    def write(handle: int, data: bytes) -> int:
        written = real(handle, data[: (len(data) + 1) // 2])
        return written  # noqa: RET504 - a line to die at

    return write


def in_child(work: Callable[[], None]) -> int:
    """Do work in a forked process and return its status; what it raises is status 1."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def fresh(root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    return root
