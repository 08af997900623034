"""The command for urgent scans, and the loop that everything runs in."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from watching import BLANK, NORMAL, ROUTINE, URGENT, World, scan

from octlet.core.errors import UsageError
from octlet.watch.command import ATTEMPTS, PAUSES, Alerts, parse_command
from octlet.watch.faults import BlockedError
from octlet.watch.loop import signals, watch, watch_once
from octlet.watch.watcher import ROUND, Watcher


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


# Commands ---------------------------------------------------------------------------------------------------


Told = list[tuple[str, int | None, str]]


def with_command(world: World, *words: str, seconds: float = 1e9) -> tuple[Watcher, Told]:
    watcher, told = world.open(), Told()
    watcher.alerts = Alerts(
        words,
        watcher.journal,
        lambda entry: (world.folder / entry.path, watcher.sink.place(entry)),
        watcher.clock.monotonic,
        lambda entry, alert, code, fault: told.append((alert, code, fault)),
        seconds=seconds,
    )
    return watcher, told


def finish(watcher: Watcher) -> None:
    """Wait for the commands that run, and have them looked at."""
    assert watcher.alerts is not None
    for running in list(watcher.alerts._running.values()):
        running.process.wait()
    watcher.tend()


def test_a_command_for_each_urgent_scan(world: World) -> None:
    script = 'test -s "$OCTLET_RESULT" && echo "$0|$1|$OCTLET_SCAN|$OCTLET_URGENCY" > "$0.told"'
    watcher, told = with_command(world, "sh", "-c", script)
    for name, kind in {"a b$(x).png": URGENT, "c.png": ROUTINE, "d.png": BLANK}.items():
        world.put(name, scan(kind))
    world.settle()
    finish(watcher)
    scan_file = str(world.folder / "a b$(x).png")
    assert (
        Path(f"{scan_file}.told").read_text() == f"{scan_file}|{scan_file}.octlet.json|{scan_file}|urgent\n"
    )
    assert len(list(world.folder.glob("*.told"))) == 1
    assert told == [("done", 0, "")]
    assert watcher.journal._ask("SELECT alert, attempts, exit_code FROM scan WHERE alert NOT NULL") == [
        ("done", 1, 0)
    ]
    assert not watcher.tend()


def test_a_command_that_fails_is_run_again_but_not_forever(world: World) -> None:
    watcher, told = with_command(world, "sh", "-c", "exit 7")
    world.put("a.png", scan(URGENT))
    world.settle()
    for pause in (*PAUSES, 1000.0):
        finish(watcher)
        tried = len(told)
        world.now = watcher.alerts._not_before.get(1, world.now + pause) - 0.01  # type: ignore[union-attr]
        watcher.tend()
        finish(watcher)
        assert len(told) == tried, "tried again too early"
        world.now += 0.02
        watcher.tend()
    assert [alert for alert, *_ in told] == ["waiting"] * (ATTEMPTS - 1) + ["failed"]
    assert {code for _, code, _ in told} == {7}
    assert (watcher.alerts.failed, watcher.journal.counts()["alerts_failed"]) == (1, 1)  # type: ignore[union-attr]
    assert not watcher.tend()


def _is_alive(status: Path) -> bool:
    try:
        said = status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not any(state in said for state in ("Z (zombie)", "X (dead)"))


def test_a_command_that_hangs_is_killed_with_what_it_started(world: World) -> None:
    watcher, told = with_command(world, "sh", "-c", 'sleep 1000 & echo $! > "$0.pid"; wait', seconds=30)
    path = world.put("a.png", scan(URGENT))
    world.put("b.png", scan(NORMAL))
    world.settle()
    assert world.document("b.png")["predictions"], "predictions do not wait for a command"
    pid = path.with_name("a.png.pid")
    while not (pid.exists() and pid.read_text().strip()):
        os.sched_yield()
    assert watcher.tend()
    world.now += 31
    watcher.tend()
    assert told == [("waiting", None, "was killed after 30 s")]
    status = Path("/proc", pid.read_text().strip(), "status")
    given_up = time.monotonic() + 60  # a signal that was sent to a busy machine need not have arrived yet
    while _is_alive(status) and time.monotonic() < given_up:
        os.sched_yield()
    assert not _is_alive(status)


def test_a_program_that_vanishes_is_a_failure_like_others(world: World) -> None:
    watcher, told = with_command(world, str(world.root / "nothing"))
    world.put("a.png", scan(URGENT))
    world.settle()
    assert told == [("waiting", None, "cannot be started: No such file or directory")]
    assert watcher.journal.counts()["alerts_waiting"] == 1


def test_commands_are_read_like_a_shell_does() -> None:
    assert parse_command("sh -c 'a b'") == ["sh", "-c", "a b"]
    for wrong in ("", "octlet-no-such-program x", "sh 'a"):
        with pytest.raises(UsageError, match="--on-urgent"):
            parse_command(wrong)


# The loop ---------------------------------------------------------------------------------------------------


def test_the_loop_tells_a_fault_once_and_goes_on(world: World) -> None:
    watcher = world.open()
    away = world.folder.rename(world.root / "away")
    looks = iter(range(99))
    sweep = watcher.sweep

    def story() -> bool:
        look = next(looks)
        if look == 3:
            away.rename(world.folder)
            world.put("a.png", scan(URGENT))
        watcher.stopping = look == 6
        return sweep()

    watcher.sweep = story  # type: ignore[method-assign]
    watch(watcher)
    assert [each["event"] for each in world.events] == ["fault", "resumed", "delivered"]
    assert "the folder of scans cannot be used now" in world.events[0]["message"]


def test_once_takes_what_is_there_and_raises_what_stood_in_the_way(world: World) -> None:
    watcher = world.open()
    for number in range(ROUND + 2):
        world.put(f"{number}.png", scan(NORMAL, number))
    watch_once(watcher)
    assert len(world.told("delivered")) == ROUND + 2
    (world.folder / "x.png.octlet.json").mkdir()
    world.put("x.png", scan(NORMAL, 999))
    with pytest.raises(BlockedError, match="the folder of a result"):
        watch_once(watcher)


def test_signals_stop_after_the_scan_and_insisting_interrupts(world: World) -> None:
    for number in range(3):
        world.put(f"{number}.png", scan(NORMAL, number))
    watcher = world.open()
    real = world.predictor.predict

    def interrupted(grays: Any, names: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(grays, names)

    watcher.predictor.predict = interrupted  # type: ignore[method-assign]
    with signals(watcher) as got:
        watch(watcher)
        assert (got, len(world.told("delivered"))) == ([signal.SIGTERM], 1)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
