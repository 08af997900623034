"""One sweep over the folder: look, read what is at rest, predict it, deliver it.

Urgent first means: whatever is found urgent is delivered, and its command started, before the next scan is
predicted; the other results of a round of at most `ROUND` scans follow at its end. What arrives goes before
what lay there at the start. Scans are predicted one by one: an answer does not depend on what else was
exported.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octlet.core.errors import InputError, OctletError
from octlet.core.files import printable
from octlet.runtime.predictor import Predictor
from octlet.watch.command import Alerts
from octlet.watch.content import Content, read_content
from octlet.watch.deliver import Sink
from octlet.watch.faults import BlockedError
from octlet.watch.folder import Listing, Settling, Stamp, look, not_done
from octlet.watch.journal import PENDING, PREDICTED, UNREADABLE, URGENT, Entry, Journal
from octlet.watch.judge import judge, watched_suffixes
from octlet.watch.result import result_of

ROUND = 32  # scans


@dataclass(frozen=True)
class Settings:
    """How a folder is watched.

    Attributes:
        interval: seconds between the end of a sweep and the next.
        settle: seconds without a change after which a file is read.
        deadline: seconds after which a file that cannot be decoded is told unreadable, unless it changes.
        subfolders: whether their files are taken, too.
        new_only: whether what is there at the journal's first start is left out.
    """

    interval: float = 5.0
    settle: float = 3.0
    deadline: float = 600.0
    subfolders: bool = True
    new_only: bool = False


@dataclass(frozen=True)
class Clock:
    """Where the seconds come from: of this machine's run, since 1970, and by waiting."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


Tell = Callable[[dict[str, Any]], None]


@dataclass
class Watcher:
    """A folder, a model, a journal and where results go; it is told to look by `sweep`.

    Attributes:
        folder: that is watched.
        predictor: what computes.
        journal: of the folder, open.
        sink: where results go.
        tell: takes events, each a dict of plain JSON with "event" and, of a scan, "id" and "file".
        settings: how.
        clock: where the seconds come from.
        alerts: what runs the command for urgent scans, if there is one.
        beat: called after every step, at least once for each scan.
        stopping: set from outside: the scan that is being predicted is the last.
        counts: outcome -> scans since the start.
        faults: what passes, of the last sweep.
    """

    folder: Path
    predictor: Predictor
    journal: Journal
    sink: Sink
    tell: Tell
    settings: Settings = Settings()
    clock: Clock = Clock()
    alerts: Alerts | None = None
    beat: Callable[[], None] = lambda: None
    stopping: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[OctletError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._suffixes = watched_suffixes()
        self._settling = Settling(self.settings.settle)
        self._done = self.journal.done()
        self._held: dict[str, tuple[Stamp, float]] = {}  # not decodable yet; until when
        self._stuck: set[str] = set()  # cannot be read: tried in every sweep, and no others wait for them
        self._backlog = frozenset[str]()  # what was there at the start
        self._began = False

    @property
    def held(self) -> int:
        """How many files could be read but not decoded, and may still be."""
        return len(self._held)

    def sweep(self) -> bool:
        """Go over the folder once and return whether files at rest are left for the next round.

        Raises BlockedError where the folder or the journal cannot be used now. What stands in the way of a
        single file or of the results is in `faults`, and the rest is done.
        """
        self.faults = []
        listing = look(self.folder, self._suffixes, subfolders=self.settings.subfolders)
        self._begin(listing)
        self._forget(listing)
        self.deliver(self.journal.undelivered())
        ready = self._settling.at_rest(not_done(listing, self._done), self.clock.monotonic())
        due = [path for path in ready if self._due(path, listing[path])]
        new = sorted(set(due) - self._stuck, key=lambda path: (path in self._backlog, path))
        for path in (*new[:ROUND], *(each for each in due if each in self._stuck)):
            if self.stopping:
                break
            self._take(path, listing[path])
            self.tend()
        self.deliver(self.journal.undelivered())
        self.tend()
        return len(new) > ROUND

    def tend(self) -> bool:
        """Say that all is alive, look after the commands, and return whether one is open."""
        self.beat()
        return self.alerts is not None and self.alerts.tend()

    def _begin(self, listing: Listing) -> None:
        if not self.journal.begun:
            left_out = listing if self.settings.new_only else {}
            self.journal.begin(left_out, self.clock.wall())
            self._done |= left_out
            if left_out:
                self.tell({"event": "left-out", "files": len(left_out)})
        if not self._began:
            self._began = True
            self._backlog = frozenset(path for path, _ in not_done(listing, self._done))

    def _forget(self, listing: Listing) -> None:
        gone = [number for path, number in self.journal.pending().items() if path not in listing]
        if gone:
            self.journal.drop(gone)
        self._held = {path: held for path, held in self._held.items() if path in listing}

    def _due(self, path: str, stamp: Stamp) -> bool:
        """Whether a file is to be read; what could not be decoded: when it changes, or at the deadline."""
        held = self._held.get(path)
        return held is None or held[0] != stamp or self.clock.wall() >= held[1]

    def _take(self, path: str, stamp: Stamp) -> None:
        try:
            content = read_content(self.folder / path)
        except BlockedError as error:
            self.faults.append(error)
            self._stuck.add(path)
            return
        self._stuck.discard(path)
        if content is None:
            return
        entry = self.journal.note(path, content.sha256, stamp, self.clock.wall())
        if entry.state == PENDING:
            entry = self._judge(entry, content, stamp)
        if entry.state != PENDING:
            self._held.pop(path, None)
            self._done[path] = stamp
        if entry.outcome == URGENT and entry.state == PREDICTED:
            self.deliver([entry])

    def _judge(self, entry: Entry, content: Content, stamp: Stamp) -> Entry:
        """Predict a file's content, or keep what is wrong with it once the deadline is over."""
        name = printable(entry.path)
        judged, errors = None, list[tuple[str, InputError]]()
        try:
            judged = judge(self.predictor, content, name, self.beat)
            outcome = judged.urgency
        except InputError as error:
            until = entry.since + self.settings.deadline
            if self.clock.wall() < until:
                if entry.path not in self._held:
                    self.tell({"event": "held", "id": entry.key, "file": name, "error": error.rule})
                self._held[entry.path] = stamp, until
                return entry
            errors, outcome = [(name, error)], UNREADABLE
        now = self.clock.wall()
        result = result_of(entry.key, content, self.predictor.identity, now, judged, errors)
        alert = self.alerts is not None and outcome == URGENT
        entry = self.journal.predicted(entry, result, outcome, now, alert=alert)
        self.counts[outcome] += 1
        return entry

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Deliver results that the journal holds and keep which are where they belong."""
        if self.sink.unsure:
            entries = self.journal.undelivered()
        if not entries:
            return
        done, fault = self.sink.deliver(entries)
        self.journal.delivered(done, self.clock.wall())
        for entry in done:
            self.tell(_event_of(entry))
        if fault is None:
            self.sink.kept()
        elif str(fault) not in map(str, self.faults):
            self.faults.append(fault)


def _event_of(entry: Entry) -> dict[str, Any]:
    document = entry.result["document"]
    told = {"event": "delivered", "id": entry.key, "file": printable(entry.path), "outcome": entry.outcome}
    if document["errors"]:
        return told | {"error": document["errors"][0]["message"]}
    if document["eyes"]:  # no explanation: it tells the file's name
        first = document["eyes"][0]
        return told | {name: first[name] for name in ("label", "abstain", "scans", "refused")}
    first = document["predictions"][0]
    return told | {name: first[name] for name in ("label", "set", "abstain", "explanation")}
