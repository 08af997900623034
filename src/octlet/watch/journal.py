"""The journal: what was seen, predicted and delivered, in one SQLite file that survives what happens to us.

    pending ──▶ predicted ──▶ delivered
        a file's content      the result, stored in the   where it was asked for
        was read              transaction that says so

A row is one content (SHA-256) at one path: the same bytes under another name, and other bytes under the same
name, are another row. A result is made once and delivered from the journal, so that a kill between the two
neither loses nor repeats it. Delivering can be repeated without a trace (`octlet.watch.deliver`).

A write-ahead log with synchronous=FULL: what was told is on the disk. The lock is SQLite's own, held as long
as the process lives: the system lets it go on kill -9, too.
"""

import json
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octlet.core.errors import OctletError, UsageError
from octlet.watch.faults import journal_fault
from octlet.watch.folder import Stamp

SCHEMA = 1
PENDING, PREDICTED = "pending", "predicted"
UNREADABLE, URGENT = "unreadable", "urgent"  # outcomes; "skipped" and the other urgencies are some, too
WAITING, DONE, FAILED = "waiting", "done", "failed"  # of an urgent scan's command

_TABLES = """
CREATE TABLE fact (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE scan (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL,          -- below the folder, the bytes that the system gave
    sha256 TEXT NOT NULL,        -- of the content; empty for a file that was there before and is left out
    size INTEGER NOT NULL,       -- the stamp at the latest look that found this content
    mtime_ns INTEGER NOT NULL,
    turn INTEGER NOT NULL,       -- counts such looks: of a path's rows the latest is what lies there
    state TEXT NOT NULL,         -- pending, predicted, delivered
    since REAL NOT NULL,         -- when this content was first read, in seconds since 1970
    outcome TEXT,                -- an urgency, "unreadable" or "skipped"
    result TEXT,                 -- JSON: what is delivered
    predicted_at REAL,
    delivered_at REAL,           -- the first time
    alert TEXT,                  -- waiting, done, failed
    attempts INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,           -- of the last attempt; negative: the signal; null: timeout, or not started
    UNIQUE (path, sha256)
);
CREATE INDEX open_scan ON scan (state) WHERE state <> 'delivered';
CREATE INDEX open_alert ON scan (alert) WHERE alert = 'waiting';
INSERT INTO fact VALUES ('schema', 1), ('begun', 0);
"""

_SELECT = """
SELECT id, path, since, state, outcome, result, delivered_at NOT NULL,
    turn = (SELECT max(turn) FROM scan AS other WHERE other.path = scan.path), attempts
FROM scan WHERE """


@dataclass(frozen=True)
class Entry:
    """A row of the journal.

    Attributes:
        key: the journal's name and the row's number, told in place of the path: "3f9a2c1b-12".
        id: the row's number.
        path: below the folder.
        since: when its content was first read, in seconds since 1970.
        state: pending, predicted or delivered.
        outcome: an urgency, unreadable, skipped, or None while it is pending.
        result: what is delivered; empty while it is pending.
        again: it was delivered before, and other content lay at its path meanwhile.
        latest: its content is what was last found at its path.
        attempts: of the command for urgent scans, that failed.
    """

    key: str
    id: int
    path: str
    since: float
    state: str
    outcome: str | None
    result: dict[str, Any]
    again: bool
    latest: bool
    attempts: int


class Journal:
    """An open journal, locked. Every method raises BlockedError for a full disk, having changed nothing.

    Attributes:
        path: of its file.
        name: eight hex digits, drawn when it was made.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        """Open or make the journal of a folder.

        Raises UsageError where another process holds it, or it is another folder's, and OctletError where it
        is damaged.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)  # paths may hold patients' names
        except OSError as error:
            rule = f"the journal cannot be made: {error.strerror}"
            raise UsageError(rule, path=path, remedy="give --journal FILE on a local disk") from error
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
        except sqlite3.Error as error:
            raise journal_fault(error, path) from error
        try:
            self._take()
            self.name = self._made_for(folder)
        except sqlite3.Error as error:
            self.close()
            raise self._refusal(error) from error
        except OctletError:
            self.close()
            raise

    def _take(self) -> None:
        # before the first read: the log's index is then kept in memory, and no shared memory is needed
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA wal_autocheckpoint = 64")  # pages: SQLite's own 1000 would be 4 MB of log
        self._db.execute("BEGIN EXCLUSIVE")
        self._db.execute("COMMIT")  # the lock stays

    def _refusal(self, error: sqlite3.Error) -> OctletError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            rule = "another 'octlet watch' is at work with this journal"
            return UsageError(rule, path=self.path, remedy="end it, or give another --journal and folder")
        return journal_fault(error, self.path)

    def _made_for(self, folder: Path) -> str:
        if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._make(folder)
        facts = dict(self._db.execute("SELECT name, value FROM fact"))
        if facts["schema"] != SCHEMA:
            rule = f"the journal has schema {facts['schema']}; this version of Octlet reads {SCHEMA}"
            raise UsageError(rule, path=self.path, remedy="update Octlet, or give another --journal")
        if facts["folder"] != os.fsencode(folder):
            remedy = "give another --journal"
            raise UsageError("the journal is that of another folder", path=self.path, remedy=remedy)
        return str(facts["name"])

    def _make(self, folder: Path) -> None:
        facts = (("name", secrets.token_hex(4)), ("folder", os.fsencode(folder)))
        with self._transaction():
            for statement in _TABLES.split(";\n"):
                self._db.execute(statement)
            self._db.executemany("INSERT INTO fact VALUES (?, ?)", facts)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite ends it itself on some faults
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise journal_fault(error, self.path) from error

    def close(self) -> None:
        """Let the lock go; on a full disk the log stays beside the journal and is taken in next time."""
        self._db.close()

    # What was seen ----------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether a first look at the folder was taken."""
        return bool(self._ask("SELECT value FROM fact WHERE name = 'begun'")[0][0])

    def begin(self, left_out: Mapping[str, Stamp], now: float) -> None:
        """Keep that the first look was taken, and what is left out because it was there before."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO scan (path, sha256, size, mtime_ns, turn, state, since, outcome, delivered_at) "
                "VALUES (?, '', ?, ?, 1, 'delivered', ?, 'skipped', ?)",
                ((os.fsencode(path), *stamp, now, now) for path, stamp in left_out.items()),
            )
            self._db.execute("UPDATE fact SET value = 1 WHERE name = 'begun'")

    def done(self) -> dict[str, Stamp]:
        """Return the latest stamp of every path whose content needs no further look."""
        rows = self._ask(
            # of several rows max() picks the one whose other columns are given: SQLite's own rule
            "SELECT path, size, mtime_ns, max(turn) FROM scan WHERE state <> 'pending' GROUP BY path"
        )
        return {os.fsdecode(path): Stamp(size, mtime_ns) for path, size, mtime_ns, _ in rows}

    def note(self, path: str, sha256: str, stamp: Stamp, now: float) -> Entry:
        """Keep that a path now holds this content, and return its row: pending where the content is new.

        Content that was there before, with other content between, is to be delivered again.
        """
        key = os.fsencode(path)
        with self._transaction():
            self._db.execute(
                "DELETE FROM scan WHERE path = ? AND sha256 <> ? AND state = 'pending'", (key, sha256)
            )
            latest = self._db.execute(
                "SELECT sha256, turn FROM scan WHERE path = ? ORDER BY turn DESC LIMIT 1", (key,)
            ).fetchone()
            turn = 1 if latest is None else latest[1] + (latest[0] != sha256)
            self._db.execute(
                "INSERT INTO scan (path, sha256, size, mtime_ns, turn, state, since) "
                "VALUES (?, ?, ?, ?, ?, 'pending', ?) ON CONFLICT (path, sha256) DO UPDATE SET "
                "size = excluded.size, mtime_ns = excluded.mtime_ns, turn = excluded.turn, state = "
                "CASE WHEN turn = excluded.turn OR state = 'pending' THEN state ELSE 'predicted' END",
                (key, sha256, *stamp, turn, now),
            )
            return self._entries("path = ? AND sha256 = ?", (key, sha256))[0]

    def pending(self) -> dict[str, int]:
        """Return path -> number of every row that is pending."""
        rows = self._ask("SELECT path, id FROM scan WHERE state = 'pending'")
        return {os.fsdecode(path): number for path, number in rows}

    def drop(self, ids: Iterable[int]) -> None:
        """Forget pending rows whose files were deleted."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM scan WHERE id = ? AND state = 'pending'", ((each,) for each in ids)
            )

    # What came of it --------------------------------------------------------------------------------------

    def predicted(
        self, entry: Entry, result: Mapping[str, Any], outcome: str, now: float, *, alert: bool
    ) -> Entry:
        """Store a result, or what is wrong with the file, and whether its command is to be run."""
        text = json.dumps(result, ensure_ascii=True, allow_nan=False)
        with self._transaction():
            self._db.execute(
                "UPDATE scan SET state = 'predicted', outcome = ?, result = ?, predicted_at = ?, alert = ? "
                "WHERE id = ? AND state = 'pending'",
                (outcome, text, now, WAITING if alert else None, entry.id),
            )
            return self._entries("id = ?", (entry.id,))[0]

    def undelivered(self) -> list[Entry]:
        """Return every row with a result that is not where it was asked for, urgent ones first."""
        return self._entries("state = 'predicted' ORDER BY outcome <> 'urgent', id")

    def delivered(self, entries: Iterable[Entry], now: float) -> None:
        """Keep that results are where they were asked for."""
        with self._transaction():
            self._db.executemany(
                "UPDATE scan SET state = 'delivered', delivered_at = coalesce(delivered_at, ?) "
                "WHERE id = ? AND state = 'predicted'",
                ((now, entry.id) for entry in entries),
            )

    def alerts(self) -> list[Entry]:
        """Return the delivered rows whose command has not ended well, nor failed too often."""
        return self._entries("alert = 'waiting' AND state = 'delivered' ORDER BY id")

    def alerted(self, entry: Entry, alert: str, exit_code: int | None) -> None:
        """Keep how an attempt of a row's command ended."""
        with self._transaction():
            self._db.execute(
                "UPDATE scan SET alert = ?, exit_code = ?, attempts = attempts + 1 WHERE id = ?",
                (alert, exit_code, entry.id),
            )

    def counts(self) -> dict[str, int]:
        """Return how many rows there are of each outcome, and `pending`, `undelivered` and `alerts` open."""
        found = dict(self._ask("SELECT outcome, count(*) FROM scan WHERE outcome NOT NULL GROUP BY 1"))
        states = dict(self._ask("SELECT state, count(*) FROM scan GROUP BY 1"))
        alerts = dict(self._ask("SELECT alert, count(*) FROM scan WHERE alert NOT NULL GROUP BY 1"))
        return {
            **found,
            "pending": states.get(PENDING, 0),
            "undelivered": states.get(PREDICTED, 0),
            "alerts_waiting": alerts.get(WAITING, 0),
            "alerts_failed": alerts.get(FAILED, 0),
        }

    def _ask(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise journal_fault(error, self.path) from error

    def _entries(self, where: str, values: tuple[Any, ...] = ()) -> list[Entry]:
        rows = self._ask(_SELECT + where, values)
        return [
            Entry(
                key=f"{self.name}-{number}",
                id=number,
                path=os.fsdecode(path),
                since=since,
                state=state,
                outcome=outcome,
                result={} if result is None else json.loads(result),
                again=bool(again),
                latest=bool(latest),
                attempts=attempts,
            )
            for number, path, since, state, outcome, result, again, latest, attempts in rows
        ]
