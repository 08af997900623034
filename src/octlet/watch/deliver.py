"""Results on their way out: as JSON, one file for each scan, or as rows of one CSV file.

Both can be repeated. A JSON file is written beside its place and renamed into it. Rows are appended; after a
kill or a fault the file is first brought back to whole rows and searched for what is there already.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from octlet.core.errors import UsageError
from octlet.core.files import write_json
from octlet.watch.faults import BlockedError, blocked
from octlet.watch.journal import Entry
from octlet.watch.result import COLUMNS

SUFFIX = ".octlet.json"

_LONGEST = 200  # bytes of a scan's name: most file systems allow 255, and a name of its own is added


class Sink(Protocol):
    """Where results go.

    Attributes:
        unsure: whether some of what the journal calls undelivered may be there all the same, or in part: then
            all of it has to be given at once.
    """

    unsure: bool

    def place(self, entry: Entry) -> Path:
        """Return the file that an entry's result is in."""

    def deliver(self, entries: Sequence[Entry]) -> tuple[list[Entry], BlockedError | None]:
        """Write results that are not there yet; return the entries that are done with, and the last fault.

        Of the others nothing is sure: they are given again until they are done with.
        """

    def kept(self) -> None:
        """Take note that the journal holds what was done with: it is not given again."""


class JsonFiles:
    """One document for each scan, `NAME.octlet.json`, beside the scan or in a tree of folders of its own."""

    def __init__(self, folder: Path, out: Path | None = None) -> None:
        """Take the watched folder, and where the documents go; UsageError where nothing can be written."""
        self.unsure = False  # a document that is there is replaced
        self._folder = folder
        self._out = out
        _check_writable(out or folder, "give --out DIR or --csv FILE elsewhere")

    def place(self, entry: Entry) -> Path:
        """Return the document's path."""
        scan = (self._out or self._folder) / entry.path
        name = os.fsencode(scan.name)
        if len(name) > _LONGEST:
            name = name[: _LONGEST - 20] + b"-" + hashlib.sha256(name).hexdigest()[:16].encode()
        return scan.with_name(os.fsdecode(name) + SUFFIX)

    def deliver(self, entries: Sequence[Entry]) -> tuple[list[Entry], BlockedError | None]:
        """Write documents. One whose scan is gone waits for it: so looks a share that is not mounted."""
        done, fault = list[Entry](), None
        for entry in entries:
            place = self.place(entry)
            try:
                if self._out is None and not (self._folder / entry.path).exists():
                    continue
                if entry.latest:  # else the document is that of other content, which came after
                    _write_document(place, entry.result["document"])
                done.append(entry)
            except OSError as error:  # of this folder; there may be others
                fault = blocked(error, "the folder of a result", place.parent, "check its rights")
        return done, fault

    def kept(self) -> None:
        """Do nothing: see `unsure`."""


def _write_document(place: Path, document: Any) -> None:
    if place.parent.is_dir():
        _clear(place)
    write_json(place, document)
    _sync_folder(place.parent)


def _check_writable(folder: Path, remedy: str) -> None:
    place = next(each for each in (folder, *folder.parents) if each.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UsageError("nothing can be written there", path=place, remedy=remedy)


def _clear(place: Path) -> None:
    """Remove what a kill has left of an earlier attempt (`octlet.core.files.replacing`)."""
    with os.scandir(place.parent) as entries:
        stale = [each for each in entries if each.name.startswith(f".{place.name}.")]
    for each in stale:
        if each.name.endswith(".part"):
            Path(each.path).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring a new name to the disk, where the file system knows how to."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError:
        return  # some network file systems refuse it; the scan would be delivered again from the journal
    finally:
        os.close(handle)


class CsvFile:
    """One CSV file, a row for each B-scan, appended to. It is written by one watcher."""

    def __init__(self, path: Path) -> None:
        """Take the file, which may be there; UsageError where it is not one of ours or not to be written."""
        self._path = path
        self.unsure = True  # of what a run that was killed has left
        if path.suffix.lower() != ".csv" or path.is_dir():
            raise UsageError("--csv takes a file whose name ends in .csv", path=path)
        _check_writable(path.parent, "give another --csv")
        header = _line(COLUMNS)
        if path.exists():
            with path.open("rb") as file:
                first = file.readline(len(header) + 1)
            if not header.startswith(first) and first.replace(b"\r\n", b"\n") != header:
                raise UsageError(
                    "it has other columns", path=path, remedy="give another --csv, or move it away"
                )

    def place(self, entry: Entry) -> Path:
        """Return the file's path."""
        return self._path

    def deliver(self, entries: Sequence[Entry]) -> tuple[list[Entry], BlockedError | None]:
        """Append the rows of entries that were never delivered."""
        fresh = [_line(row) for entry in entries if not entry.again for row in entry.result["rows"]]
        if fresh:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._append(fresh)
            except OSError as error:
                remedy = "close it in other programs, check its rights"
                return [], blocked(error, "the CSV file", self._path, remedy)
        return list(entries), None

    def _append(self, lines: list[bytes]) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(handle, "rb+", buffering=0) as file:
            lines = [_line(COLUMNS), *lines]
            size = file.seek(0, os.SEEK_END)
            if size and (self.unsure or os.pread(handle, 1, size - 1) != b"\n"):
                lines = _repair(file, lines)
            elif size:
                del lines[0]
            self.unsure = True
            size = file.seek(0, os.SEEK_END)
            try:
                _write_all(handle, b"".join(lines))
            except OSError:
                file.truncate(size)  # who reads it while the disk is full shall find whole rows
                raise
        _sync_folder(self._path.parent)

    def kept(self) -> None:
        """Look for rows in the file no more: what comes now is new."""
        self.unsure = False


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
    os.fsync(handle)


def _line(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _repair(file: io.FileIO, lines: list[bytes]) -> list[bytes]:
    """Bring a file back to whole rows and return which of these lines are missing.

    A last row without its line end is cut off if it is the beginning of one of the lines, and ended if it is
    somebody else's.
    """
    file.seek(0)
    found, end, last = set[bytes](), 0, b""
    reader = io.BufferedReader(file)
    for last in reader:
        if last.endswith(b"\n"):
            end += len(last)
            found.add(last.removesuffix(b"\r\n").removesuffix(b"\n") + b"\n")  # a spreadsheet writes \r\n
    reader.detach()
    if last and not last.endswith(b"\n"):
        if any(line.startswith(last) for line in lines):
            file.truncate(end)
        else:
            file.seek(0, os.SEEK_END)
            os.write(file.fileno(), b"\n")
    return [line for line in lines if line not in found]
