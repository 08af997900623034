"""A watcher that is killed, whose disk is full, whose files come and go: nothing twice, nothing lost."""

import csv
import errno
import json
import os
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from watching import (
    NORMAL,
    ROUTINE,
    URGENT,
    Line,
    World,
    before_each_line,
    fresh,
    half_writes,
    in_child,
    label_of,
    scan,
)

from octlet.core.files import sha256_of
from octlet.watch import deliver
from octlet.watch.command import Alerts
from octlet.watch.faults import BlockedError
from octlet.watch.watcher import Settings

CUT = scan(NORMAL)[:60]
FILES = {"a.png": scan(URGENT, 1), "b.png": scan(ROUTINE, 2), "sub/c.png": scan(NORMAL, 3), "cut.png": CUT}
KINDS = {"a.png": URGENT, "b.png": ROUTINE, "sub/c.png": NORMAL}


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: a kill needs no disk, and a thousand waits for one take long."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def prepared(root: Path) -> World:
    world = World(fresh(root), Settings(settle=1.0, deadline=0.0))
    for path, data in FILES.items():
        world.put(path, data)
    return world


def work(world: World, kind: str, on_urgent: list[str] | None = None) -> None:
    watcher = world.open(kind)
    if on_urgent:
        watcher.alerts = Alerts(
            on_urgent,
            watcher.journal,
            lambda entry: (world.folder / entry.path, watcher.sink.place(entry)),
            watcher.clock.monotonic,
            lambda *_: None,
            seconds=1e9,
        )
    world.settle()
    if watcher.alerts is not None:
        for running in list(watcher.alerts._running.values()):
            running.process.wait()
        watcher.alerts.tend()
    world.close()


def places(world: World, *how: Any) -> list[tuple[Line, int]]:
    """Do the work in a child; return its lines, each when it is executed first and last."""
    log = world.root / "lines"

    def recorded() -> None:
        lines: Counter[Line] = Counter()
        with before_each_line(lambda line: lines.update([line])):
            work(world, *how)
        log.write_text(json.dumps([[line, time] for line, times in lines.items() for time in {1, times}]))

    assert in_child(recorded) == 0
    return [((file, number), time) for (file, number), time in json.loads(log.read_text())]


def killed_at(world: World, place: tuple[Line, int], *how: Any) -> int:
    """Do the work in a child that is killed before it executes a line for the so-manieth time."""
    times = iter(range(1, 10**9))

    def die(line: Line) -> None:
        if line == place[0] and next(times) == place[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    def begun() -> None:
        with before_each_line(die):
            work(world, *how)

    return os.WTERMSIG(in_child(begun))


def litter(root: Path) -> list[str]:
    return [path.name for path in root.rglob(".*")]


def check_json(world: World) -> None:
    for path, kind in KINDS.items():
        assert world.document(path)["predictions"][0]["label"] == label_of(kind)
    assert world.document("cut.png")["errors"][0]["code"] == "bad-input"
    assert litter(world.folder) == []


def check_csv(world: World) -> None:
    rows = world.rows()
    assert Counter(row["file"] for row in rows) == Counter(list(FILES))
    assert {row["file"]: row["label"] for row in rows if row["label"]} == {
        p: label_of(k) for p, k in KINDS.items()
    }
    assert [row["file"] for row in rows if row["error"]] == ["cut.png"]


@pytest.mark.parametrize(("kind", "check"), [("json", check_json), ("csv", check_csv)])
def test_killed_before_any_line(memory: Path, kind: str, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", half_writes())
    found = places(prepared(memory / "first"), kind)
    assert len(found) > 250
    writing = ("deliver.py", "watching.py") if kind == "csv" else ("deliver.py", "journal.py", "files.py")
    reading = [place for place in found if place[1] == 1 and not place[0][0].endswith(writing)]
    found = [place for place in found if place[0][0].endswith(writing)]
    found += reading[::3] if kind == "json" else []
    for place in found:
        world = prepared(memory / "world")
        assert killed_at(world, place, kind) == signal.SIGKILL
        work(world, kind)
        check(world)
        again = max(world.predictor.calls.values(), default=0)
        assert again <= 1, "predicted again after a restart"
        counts = world.open(kind).journal.counts()
        world.close()
        assert (counts["urgent"], counts["routine"], counts["observation"], counts["unreadable"]) == (
            1,
            1,
            1,
            1,
        )
        assert (counts["pending"], counts["undelivered"]) == (0, 0)


def test_a_command_that_was_killed_with_the_watcher_is_run_again(memory: Path) -> None:
    how = ("json", ["sh", "-c", 'echo "$OCTLET_ID $0" >> "${1%.octlet.json}.done"'])
    found = [place for place in places(prepared(memory / "first"), *how) if "command.py" in place[0][0]]
    assert len(found) > 30
    for place in found:
        world = prepared(memory / "world")
        killed_at(world, place, *how)  # or not: how often a command is looked at is up to the system
        work(world, *how)
        told = (world.folder / "a.png.done").read_text().splitlines()
        assert 1 <= len(told) <= 2
        assert {line.split()[1] for line in told} == {str(world.folder / "a.png")}
        assert not (world.folder / "b.png.done").exists()
        assert world.open().journal.alerts() == []
        world.close()


# A full disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 768 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_a_disk_that_is_really_full(small_disk: Path, kind: str) -> None:
    """Scans, journal and results on one disk: full, given room, and full again in the middle of the work."""
    world = World(small_disk / "world")
    world.open(kind)
    for number in range(12):
        world.put(f"{number}.png", scan(NORMAL, number))
    blocked = 0
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for room in (0, 4096, 16384, 32768, 65536, 786432):
            file.seek(0)
            file.truncate(0)
            free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
            file.write(bytes(max(free - room, 0)))
            assert world.watcher is not None
            for _ in range(3):
                world.now += 2
                try:
                    world.watcher.sweep()
                    faults = world.watcher.faults
                except BlockedError as error:
                    faults = [error]
                assert all("make room" in fault.remedy for fault in faults)
                blocked += len(faults)
    assert blocked
    world.settle()
    assert world.watcher is not None
    counts = world.watcher.journal.counts()
    assert (counts["observation"], counts["undelivered"], counts["pending"]) == (12, 0, 0)
    if kind == "csv":
        assert sorted(row["file"] for row in world.rows()) == sorted(f"{n}.png" for n in range(12))
    else:
        assert all(world.document(f"{n}.png")["predictions"] for n in range(12))
    world.close()


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_then_full(handle: int, data: bytes, write: Any = os.write) -> Any:
    write(handle, data[: len(data) // 2])
    full()


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_nothing_is_marked_that_was_not_written(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    watcher = world.open(kind)
    world.put("a.png", scan(URGENT))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full) if kind == "csv" else patch.setattr(
            deliver, "write_json", full
        )
        world.settle()
        assert watcher.journal.counts()["undelivered"] == 1
        assert "No space left" in watcher.faults[0].rule
        assert "make room" in watcher.faults[0].remedy
        assert kind == "json" or world.csv.read_bytes() == b"", "half a row is left for others to read"
    watcher.sweep()
    assert watcher.faults == []
    assert watcher.journal.counts()["undelivered"] == 0
    assert set(world.predictor.calls.values()) == {1}
    world.close()


def test_half_a_row_is_completed_whoever_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.open("csv")
    world.put("a.png", scan(NORMAL))
    world.put("b.png", scan(URGENT))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full)
        world.settle()
    watcher = world.open("csv")
    urgent, normal = watcher.journal.undelivered()
    lines = [deliver._line(deliver.COLUMNS), deliver._line(normal.result["rows"][0])]
    world.csv.write_bytes(b"".join(lines)[:-9])  # as a kill leaves it
    watcher.deliver([urgent])
    watcher.sweep()
    assert Counter(row["file"] for row in world.rows()) == Counter(["a.png", "b.png"])
    world.close()


# Any order of anything --------------------------------------------------------------------------------------


class Killed(BaseException):
    """What stands in for SIGKILL within one process."""


PATHS = st.sampled_from(["a.png", "b.png", "d/a.png"])
CONTENTS = st.tuples(st.sampled_from([URGENT, ROUTINE, NORMAL]), st.integers(0, 2), st.booleans())


class Story(RuleBasedStateMachine):
    """Files come, change and go, the watcher is killed and its disk is full, in any order."""

    kind = "json"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        self.patch = pytest.MonkeyPatch()
        self.accidents = 0
        self.world.open(self.kind)

    @rule(path=PATHS, content=CONTENTS)
    def write(self, path: str, content: tuple[int, int, bool]) -> None:
        kind, serial, whole = content
        data = scan(kind, serial)
        self.world.put(path, data if whole else data[:60])

    @rule(path=PATHS)
    def touch(self, path: str) -> None:
        if (self.world.folder / path).exists():
            self.world.put(path, (self.world.folder / path).read_bytes())

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        (self.world.folder / path).unlink(missing_ok=True)

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 100.0]))
    def sweep(self, seconds: float) -> None:
        self.world.now += seconds
        assert self.world.watcher is not None
        self.world.watcher.sweep()

    @rule(lines=st.integers(0, 600))
    def kill(self, lines: int) -> None:
        count = iter(range(10**9))

        def die(_: Line) -> None:
            if next(count) == lines:
                raise Killed

        self.world.now += 2
        try:
            with before_each_line(die):
                self.world.watcher.sweep()  # type: ignore[union-attr]
        except Killed:
            pass
        self.accidents += 1
        self.world.open(self.kind)

    @rule()
    def restart(self) -> None:
        self.world.open(self.kind)

    @precondition(lambda self: not self.patch._setattr)
    @rule()
    def fill_the_disk(self) -> None:
        self.patch.setattr(deliver, "write_json", full)
        self.patch.setattr(os, "write", half_then_full)

    @precondition(lambda self: self.patch._setattr)
    @rule()
    def make_room(self) -> None:
        self.patch.undo()

    @invariant()
    def nothing_is_there_twice(self) -> None:
        if self.world.csv.exists():
            whole = self.world.csv.read_text().rpartition("\n")[0]  # a kill may have cut the last row
            rows = Counter((row["file"], row["sha256"]) for row in csv.DictReader(whole.splitlines()))
            assert set(rows.values()) <= {1}
        assert max(self.world.predictor.calls.values(), default=0) <= 1 + self.accidents

    def teardown(self) -> None:
        self.patch.undo()
        try:
            self.world.settle()
            self.world.now += 1 + self.world.settings.deadline
            self.world.settle()
            self.check_the_end()
        finally:
            self.world.close()
            self.folder.cleanup()

    def check_the_end(self) -> None:
        self.nothing_is_there_twice()
        files = {str(path.relative_to(self.world.folder)): path for path in self.world.folder.rglob("*.png")}
        for name, path in files.items():
            sha256 = sha256_of(path)
            if self.kind == "csv":
                assert [r["file"] for r in self.world.rows() if (r["file"], r["sha256"]) == (name, sha256)]
                continue
            document = self.world.document(name)
            assert document["watch"]["sha256"] == sha256
            assert bool(document["predictions"]) == (not document["errors"])
            assert bool(document["errors"]) == (not path.read_bytes().endswith(b"IEND\xaeB`\x82"))


class CsvStory(Story):
    """The same with rows."""

    kind = "csv"


_FEW = settings(max_examples=25, stateful_step_count=25)
TestJsonStory = Story.TestCase
TestJsonStory.settings = _FEW
TestCsvStory = CsvStory.TestCase
TestCsvStory.settings = _FEW
