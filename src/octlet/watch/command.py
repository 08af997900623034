"""The command that is run for each urgent scan, beside the predictions: it is started and looked after.

At least once: what is cut off by a kill is run again, and so is what fails, up to `ATTEMPTS` times.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from octlet.core.errors import UsageError
from octlet.watch.journal import DONE, FAILED, WAITING, Entry, Journal

ATTEMPTS = 3
AT_ONCE = 4
PAUSES = (5.0, 30.0)  # seconds before the second and the third attempt
_OWN = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})  # systemd's words with us alone

Told = Callable[[Entry, str, int | None, str], None]


def parse_command(text: str) -> list[str]:
    """Split a command as a shell would; no shell is called. UsageError for one that there is not."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--on-urgent cannot be read: {error}", remedy="quote it") from error
    if not words or shutil.which(words[0]) is None:
        rule = f"--on-urgent: there is no command '{words[0] if words else ''}'"
        raise UsageError(rule, remedy="give the path of a program, or install it")
    return words


@dataclass(frozen=True)
class _Running:
    entry: Entry
    process: "subprocess.Popen[bytes]"
    until: float


class Alerts:
    """Runs the command for the rows of the journal that wait for it."""

    def __init__(
        self,
        words: Sequence[str],
        journal: Journal,
        files_of: Callable[[Entry], tuple[Path, Path]],
        clock: Callable[[], float],
        told: Told,
        *,
        seconds: float,
    ) -> None:
        """Take what the loop has.

        Args:
            words: the command; two paths follow as its last arguments.
            journal: tells which rows wait, and keeps how each attempt ended.
            files_of: returns the paths of a row's scan and of its result.
            clock: returns monotonic seconds.
            told: takes a row, the state of its alert, the exit code and what is wrong.
            seconds: after which an attempt is killed, with what it has started.
        """
        self._words = list(words)
        self._journal = journal
        self._files_of = files_of
        self._clock = clock
        self._told = told
        self._seconds = seconds
        self.failed = 0  # commands that are not run again
        self._running: dict[int, _Running] = {}
        self._not_before: dict[int, float] = {}

    def tend(self, *, start: bool = True) -> bool:
        """Take in what has ended, kill what takes too long, start what waits; return whether any is open."""
        for running in list(self._running.values()):
            self._look_at(running)
        waiting = self._journal.alerts() if start else []
        for entry in waiting:
            if len(self._running) >= AT_ONCE:
                break
            if entry.id not in self._running and self._clock() >= self._not_before.get(entry.id, 0.0):
                self._start(entry)
        return bool(self._running or (start and self._journal.alerts()))

    def _start(self, entry: Entry) -> None:
        scan, result = (str(path) for path in self._files_of(entry))
        own = {
            "OCTLET_SCAN": scan,
            "OCTLET_RESULT": result,
            "OCTLET_ID": entry.key,
            "OCTLET_URGENCY": str(entry.outcome),
        }
        environment = {name: value for name, value in os.environ.items() if name not in _OWN} | own
        try:
            process = subprocess.Popen(  # noqa: S603 - what --on-urgent is for
                [*self._words, scan, result],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=2,  # ours is for results
                start_new_session=True,  # Ctrl-C is for us; and all of it can be killed
            )
        except OSError as error:
            self._ended(entry, None, f"cannot be started: {error.strerror}")
            return
        self._running[entry.id] = _Running(entry, process, self._clock() + self._seconds)

    def _look_at(self, running: _Running) -> None:
        code = running.process.poll()
        if code is None and self._clock() >= running.until:
            _kill(running.process)
            self._ended(running.entry, None, f"was killed after {self._seconds:g} s")
        elif code is not None:
            self._ended(running.entry, code, f"ended with exit code {code}" if code else "")

    def _ended(self, entry: Entry, code: int | None, fault: str) -> None:
        tried = entry.attempts + 1
        alert = DONE if not fault else FAILED if tried >= ATTEMPTS else WAITING
        self._journal.alerted(entry, alert, code)  # on a full disk this raises, and is done the next time
        self._running.pop(entry.id, None)
        self.failed += alert == FAILED
        if alert == WAITING:
            self._not_before[entry.id] = self._clock() + PAUSES[min(tried, len(PAUSES)) - 1]
        self._told(entry, alert, code, fault)

    def kill(self) -> None:
        """Kill what runs: it is run again next time."""
        for running in self._running.values():
            _kill(running.process)
        self._running.clear()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
