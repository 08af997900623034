"""Faults that pass: a full disk, a share that is gone. The loop tells them, waits and goes on."""

import errno
import sqlite3
from pathlib import Path

from octlet.core.errors import OctletError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class BlockedError(OctletError):
    """Nothing is wrong with a scan or the command, but it cannot go on now; what was begun is not done."""


def blocked(error: OSError, what: str, path: Path, remedy: str) -> BlockedError:
    """Return the fault that an OSError is; `what` stands for the path where names are not to be told."""
    if error.errno in _FULL:
        remedy = "make room on its disk"
    return BlockedError(f"{what} cannot be used now: {error.strerror or error}", path=path, remedy=remedy)


# SQLite's primary result codes: https://www.sqlite.org/rescode.html
_PASSING = {
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_IOERR: "its disk does not answer",
    sqlite3.SQLITE_READONLY: "it cannot be written to",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_BUSY: "another program holds it",
}


def journal_fault(error: sqlite3.Error, path: Path) -> OctletError:
    """Return the fault that an error of SQLite is: one that passes, or damage."""
    code = getattr(error, "sqlite_errorcode", None)
    told = None if code is None else _PASSING.get(code & 0xFF)
    if told is not None:
        return BlockedError(f"the journal cannot be used now: {told}", path=path, remedy="make room, or wait")
    remedy = "keep it for a look, and give another --journal; all scans are then predicted again"
    return OctletError(f"the journal is damaged: {error}", path=path, remedy=remedy)
