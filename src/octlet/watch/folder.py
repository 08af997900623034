"""What lies in the watched folder, and which of its files are complete.

The folder is listed again and again. Of a share that a scanner exports to (SMB, NFS) inotify tells nothing of
what other machines write, nor does any library that is built on it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from octlet.watch.faults import blocked


class Stamp(NamedTuple):
    """What a listing tells of a file's content: bytes, and the modification time in nanoseconds."""

    size: int
    mtime_ns: int


Listing = dict[str, Stamp]  # path below the folder, "/" between names -> stamp


def look(folder: Path, suffixes: frozenset[str], *, subfolders: bool = True) -> Listing:
    """List the files of these endings, those of subfolders too unless told otherwise.

    Left out are what begins with "." or "~", as unfinished copies and locks do, and linked folders.

    Raises BlockedError where a folder cannot be listed: a listing with a gap would pass for deleted files.
    """
    try:
        return dict(_walk(folder, "", suffixes, subfolders))
    except OSError as error:
        raise blocked(error, "the folder of scans", folder, "check that the share is mounted") from error


def _walk(
    folder: Path, below: str, suffixes: frozenset[str], subfolders: bool
) -> Iterator[tuple[str, Stamp]]:
    with os.scandir(folder / below) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            path = below + entry.name
            if entry.name.startswith((".", "~")):
                continue
            if entry.is_dir(follow_symlinks=False):
                if subfolders:
                    yield from _below(folder, path + "/", suffixes)
            elif os.path.splitext(entry.name)[1].lower() in suffixes:  # noqa: PTH122 - a Path for each is slow
                yield from _file(entry, path)


def _below(folder: Path, below: str, suffixes: frozenset[str]) -> Iterator[tuple[str, Stamp]]:
    try:
        yield from _walk(folder, below, suffixes, subfolders=True)
    except FileNotFoundError:  # deleted since its parent was listed
        if not folder.is_dir():
            raise


def _file(entry: "os.DirEntry[str]", path: str) -> Iterator[tuple[str, Stamp]]:
    try:
        if entry.is_file():
            status = entry.stat()
            yield path, Stamp(status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        return  # deleted meanwhile, or a link to nowhere


class Settling:
    """Remembers looks at files and says which have come to rest.

    At rest is what has had one stamp for `seconds` in a row, over two looks at least. The seconds are this
    machine's: a file server's own clock may be wrong by hours.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[str, tuple[Stamp, float]] = {}

    def at_rest(self, listing: Iterable[tuple[str, Stamp]], now: float) -> list[str]:
        """Take a look at what is not done with yet, and return the paths at rest, in the order found."""
        before, self._since = self._since, {}
        ready = []
        for path, stamp in listing:
            seen = before.get(path)
            if seen is None or seen[0] != stamp:
                self._since[path] = stamp, now
                continue
            self._since[path] = seen
            if now - seen[1] >= self._seconds:
                ready.append(path)
        return ready


def not_done(listing: Listing, done: Mapping[str, Stamp]) -> Iterator[tuple[str, Stamp]]:
    """Yield what is new or has another stamp than when it was last done with."""
    return ((path, stamp) for path, stamp in listing.items() if done.get(path) != stamp)
