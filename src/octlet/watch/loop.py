"""Sweep after sweep until a signal, through what passes: a full disk, a share that is gone."""

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from octlet.core.systemd import notify, watchdog_seconds
from octlet.watch.faults import BlockedError
from octlet.watch.watcher import Watcher

TICK = 0.5  # seconds: how soon a signal is heeded, and how often commands are looked at


@contextmanager
def signals(watcher: Watcher) -> Iterator[list[int]]:
    """Have SIGTERM and the first SIGINT stop a watcher after its scan; a second SIGINT interrupts.

    Yields the list that the signals are put into.
    """
    got: list[int] = []

    def heed(number: int, frame: FrameType | None) -> None:
        if signal.SIGINT in got and number == signal.SIGINT:
            raise KeyboardInterrupt
        got.append(number)
        watcher.stopping = True
        notify("STOPPING=1")

    before = {number: signal.signal(number, heed) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(watcher: Watcher) -> None:
    """Sweep until `watcher.stopping`; then commands that run are waited for, no longer than each may take."""
    if watchdog_seconds():
        watcher.beat = lambda: notify("WATCHDOG=1")
    told: set[str] = set()
    notify("READY=1")
    while not watcher.stopping:
        try:
            more = watcher.sweep()
        except BlockedError as error:
            watcher.faults.append(error)
            more = False
        told = _tell_faults(watcher, told)
        if not more:
            _wait(watcher, watcher.settings.interval)
    _finish(watcher)


def watch_once(watcher: Watcher) -> None:
    """Take all files that are at rest now, and run their commands to the end.

    Raises BlockedError for the first fault, after the rest was done.
    """
    watcher.sweep()
    _wait(watcher, watcher.settings.settle)
    while not watcher.stopping and watcher.sweep():
        pass
    _tell_faults(watcher, set())
    while not watcher.stopping and watcher.tend():
        watcher.clock.sleep(min(TICK, watcher.settings.interval))
    _finish(watcher)
    if watcher.faults:
        raise watcher.faults[0]


def _wait(watcher: Watcher, seconds: float) -> None:
    until = watcher.clock.monotonic() + seconds
    while not watcher.stopping and (left := until - watcher.clock.monotonic()) > 0:
        _tend(watcher)
        watcher.clock.sleep(min(left, TICK))


def _tend(watcher: Watcher) -> None:
    try:
        watcher.tend()
    except BlockedError as error:  # the journal's disk is full: how a command ended is kept later
        watcher.faults.append(error)


def _tell_faults(watcher: Watcher, told: set[str]) -> set[str]:
    """Tell faults that were not there before, and when the last has passed."""
    found = Counter(fault.rule for fault in watcher.faults)
    for fault in watcher.faults:
        if fault.rule not in told:
            told = {*told, fault.rule}
            watcher.tell({"event": "fault", **fault.as_dict(), "count": found[fault.rule]})
    if told and not found:
        watcher.tell({"event": "resumed"})
    return set(found)


def _finish(watcher: Watcher) -> None:
    if watcher.alerts is None:
        return
    try:
        while watcher.alerts.tend(start=False):
            watcher.beat()
            watcher.clock.sleep(TICK)
    finally:
        watcher.alerts.kill()  # what is left after a fault or a second Ctrl-C: it is run again next time
