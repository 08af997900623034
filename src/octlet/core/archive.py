"""The zip frame of a model file, which has exactly one form for given entries.

Entries are stored, without extra fields or a comment, dated 1980-01-01 (PKWARE APPNOTE 6.3.10, sections
4.3.7, 4.3.12 and 4.3.16). So the same contents are the same bytes, and a reader can demand every byte of the
frame: a flipped bit anywhere in the file is found.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO, NamedTuple

from octlet.core.errors import ModelFileError

MAX_BYTES = 2**31 - 1  # of all entries: what 32-bit zip fields and an ONNX protobuf hold
MAX_MANIFEST, MAX_ENTRIES = 2**20, 16
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # no folder, no "..", no drive
COPY = "copy or download the model file again"


class Entry(NamedTuple):
    """One entry: its name, the CRC-32 of its bytes, and their number."""

    name: str
    crc: int
    bytes: int


_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LONGEST_DIRECTORY = MAX_ENTRIES * (_CENTRAL.size + 64)
_VERSION, _MADE_ON_UNIX, _DATE_1980, _MODE_0644 = 20, 3 << 8, 0x21, 0o100644 << 16


def headers(entries: Sequence[Entry]) -> Iterator[bytes]:
    """Yield what stands before each entry's bytes."""
    for name, crc, size in entries:
        fixed = _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE_1980, crc, size, size, len(name), 0)
        yield fixed + name.encode("ascii")


def _starts(entries: Sequence[Entry]) -> list[int]:
    """Return where each entry's header stands, and after them where the directory does."""
    return list(accumulate((_LOCAL.size + len(e.name) + e.bytes for e in entries), initial=0))


def directory(entries: Sequence[Entry]) -> bytes:
    """Return what stands after the last entry's bytes."""
    starts = _starts(entries)
    records = b""
    for (name, crc, size), start in zip(entries, starts[:-1], strict=True):
        stamp = (_VERSION | _MADE_ON_UNIX, _VERSION, 0, 0, 0, _DATE_1980)
        tail = (len(name), 0, 0, 0, 0, _MODE_0644, start)
        records += _CENTRAL.pack(b"PK\1\2", *stamp, crc, size, size, *tail) + name.encode("ascii")
    n = len(entries)
    return records + _END.pack(b"PK\5\6", 0, 0, n, n, len(records), starts[-1], 0)


def read_frame(file: BinaryIO) -> dict[Entry, int]:
    """Return each entry and where its data begin.

    Raises ModelFileError unless the frame is, byte for byte, the one that is written for these entries.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(4) != b"PK\3\4":
        rule = "not a model file" if size else "the file is empty"
        raise ModelFileError(rule, remedy="give the model.octlet that 'octlet export' wrote")
    if size > MAX_BYTES + MAX_MANIFEST:
        raise ModelFileError(f"has {size} bytes, over the limit of {MAX_BYTES}", remedy="give a model.octlet")
    damaged = ModelFileError("is cut short or damaged", remedy=COPY)
    file.seek(max(size - _END.size, 0))
    tail = file.read()
    if len(tail) != _END.size or not tail.startswith(b"PK\5\6"):
        raise damaged
    count, length, start = _END.unpack(tail)[4:7]
    if count > MAX_ENTRIES or length > _LONGEST_DIRECTORY or start + length + _END.size != size:
        raise damaged
    file.seek(start)
    records = file.read()
    entries = _parse_directory(records, count)
    if entries is None or _starts(entries)[-1] != start or directory(entries) != records:
        raise damaged
    offsets = {}
    for entry, header, begin in zip(entries, headers(entries), _starts(entries)[:-1], strict=True):
        file.seek(begin)
        if file.read(len(header)) != header:
            raise damaged
        offsets[entry] = begin + len(header)
    return offsets


def _parse_directory(records: bytes, count: int) -> list[Entry] | None:
    entries: dict[str, Entry] = {}
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(records):
            return None
        crc, _, size, length = _CENTRAL.unpack_from(records, position)[7:11]
        begin = position + _CENTRAL.size
        position = begin + length
        name = records[begin:position].decode("latin-1")
        if not NAME.fullmatch(name) or name in entries:
            return None
        entries[name] = Entry(name, crc, size)
    return list(entries.values())
