"""Files that are either whole or not there: written beside their place, then renamed into it."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from octlet.core.errors import UsageError


@contextmanager
def writing_to(path: Path, remedy: str = "give another --out") -> Iterator[None]:
    """Turn an OSError into a UsageError that names the file or folder."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot be written to: {error.strerror}", path=path, remedy=remedy) from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, renamed to `path` when the block ends without an error.

    The data reach the disk before the rename does, so a power cut leaves the old file or the new one.
    Missing parent folders are made. OSError passes through.
    """
    import tempfile  # slow, and `octlet predict` writes no file

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp's 0600 would hide results from the group
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def csv_of(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> str:
    """Return CSV with a header: the columns, or the first row's; what a row lacks is empty.

    Raises ValueError for a key that is no column; IndexError where there are neither rows nor columns.
    """
    import csv  # `octlet predict` seldom needs it
    import io

    lines = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns) or list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 with its line ends as given, whole or not at all."""
    write_bytes(path, text.encode())


def dump_json(value: Any) -> str:
    """Return `value` as indented JSON with a final newline; NaN and infinity are refused (ValueError)."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON (see `dump_json`), whole or not at all."""
    write_text(path, dump_json(value))


def printable(path: str | Path) -> str:
    """Return a path as one line of text: line ends, escapes and bytes that are no UTF-8 become U+FFFD."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(path))


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
