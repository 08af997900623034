"""Heidelberg's .e2e, as uocte, LibE2E, OCT-Converter and eyepy describe it; the vendor does not.

    header (36) | main directory (52) | directories, each 52 bytes and entries of 44, linked backwards
                                        | data: 60 bytes of header, then what the entry's type says

Each entry names a patient, study, series and slice. B-scans are images of `_SCAN` with 16-bit floats: no
sign, 6 bits of exponent (bias 63), 10 of mantissa. OCT-Converter 0.7 and eyepy 0.21 read the mantissa's bits
in reverse order, so that the next code may be half or twice as bright; here a larger code is a larger number.
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from octlet.clinical.heidelberg import CIRCLE, circle, display, text
from octlet.clinical.volume import MAX_SCANS, Keys, Volume, check_size, damaged
from octlet.core.errors import InputError
from octlet.core.image import Gray

_ENTRY = np.dtype(
    [
        *((name, "<u4") for name in ("pos", "start", "size", "zero")),
        *((name, "<i4") for name in ("patient", "study", "series", "slice")),
        *((name, "<u2") for name in ("kind", "other")),
        *((name, "<u4") for name in ("type", "last")),
    ]
)
_DIRECTORY, _DATA = 52, 60  # bytes of the headers
_MOST_ENTRIES = 200_000
_PATIENT, _SIDE, _META, _IMAGE = 9, 11, 10004, 0x40000000
_SCAN = 0x02200201
_UNMEASURED = 1.99  # reflectivity: the largest codes

Series = tuple[int, int, int]  # patient, study, series, as HEYEX numbers them


def read(data: bytes, name: str, keys: Keys) -> list[Volume]:
    """Read every volume of an .e2e file, in the order of their series; circle scans are left out.

    Raises InputError: not an .e2e file, damaged, too large, without B-scans, or with circle scans alone.
    """
    base = 64 if data.startswith(b"E2EMultipleVolumeFile") else 0
    if data[base : base + 4] != b"CMDb":
        raise InputError("not a Heidelberg .e2e file", path=name, remedy="export it from HEYEX")
    try:
        return _read(memoryview(data)[base:], name, keys)
    except (struct.error, ValueError) as error:
        raise damaged(name, "a part lies beyond the end of the file") from error


def _read(data: memoryview, name: str, keys: Keys) -> list[Volume]:
    found: dict[Series, dict[int, int]] = {}  # of each series: slice -> where its image lies
    eyes: dict[Series, str] = {}
    circles: set[Series] = set()
    issued: dict[int, str] = {}
    for entry in _entries(data, name):
        series: Series = (int(entry["patient"]), int(entry["study"]), int(entry["series"]))
        start, kind = int(entry["start"]) + _DATA, int(entry["type"])
        if kind == _IMAGE and struct.unpack_from("<I", data, start + 4)[0] == _SCAN:
            found.setdefault(series, {}).setdefault(int(entry["slice"]), start)
        elif kind == _META and struct.unpack_from("<I", data, start + 72)[0] == CIRCLE:
            circles.add(series)
        elif kind == _SIDE:
            eyes[series] = bytes(data[start + 14 : start + 15]).decode("latin-1")
        elif kind == _PATIENT:
            issued[series[0]] = text(bytes(data[start + 102 : start + 127]))
    kept = sorted(set(found) - circles)
    if not kept:
        if found:
            raise circle(name)
        raise InputError("the file holds no B-scan", path=name, remedy="export the volume scan from HEYEX")
    _check(data, name, [start for series in kept for start in found[series].values()])
    return [
        Volume(
            name,
            eyes[series] if eyes.get(series) in ("R", "L") else None,
            keys.subject(issued.get(series[0], "")),
            tuple(_image(data, start) for _, start in sorted(found[series].items())),
            visit=keys.link("e2e", issued.get(series[0]) or name, *series[:2]),
        )
        for series in kept
    ]


def _entries(data: memoryview, name: str) -> Iterator[np.void]:
    """Yield the entries of all directories; one that was seen already, or lies nowhere, is damage."""
    (place,) = struct.unpack_from("<I", data, 36 + 40)
    seen: set[int] = set()
    total = 0
    while place:
        count, _, before = struct.unpack_from("<3I", data, place + 36)
        total += count
        if place in seen or total > _MOST_ENTRIES:
            raise damaged(name, "its directories have no end")
        seen.add(place)
        for entry in np.frombuffer(data, _ENTRY, count, place + _DIRECTORY) if count else ():
            if entry["type"] and entry["start"] > entry["pos"]:  # the rest are places kept free
                yield entry
        place = before


def _check(data: memoryview, name: str, starts: list[int]) -> None:
    shapes = [struct.unpack_from("<2I", data, start + 12) for start in starts]
    tallest, widest = (max(side) for side in zip(*shapes, strict=True))
    for height, width in shapes:
        check_size(name, 1, height, width)
    check_size(name, max(len(starts) // MAX_SCANS, 1), tallest, widest)
    pixels = sum(height * width for height, width in shapes)
    if 2 * pixels > len(data):
        raise damaged(name, f"{len(data)} bytes for {pixels} pixels of two bytes each")


def _image(data: memoryview, start: int) -> Gray:
    height, width = struct.unpack_from("<2I", data, start + 12)
    codes = np.frombuffer(data, "<u2", height * width, start + 20)
    return display(reflectivity(codes).reshape(height, width), _UNMEASURED)


def reflectivity(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return what 16-bit codes stand for: ``(1 + mantissa / 1024) 2^(exponent - 63)``."""
    mantissa = (codes & 1023).astype(np.float32)
    values: NDArray[np.float32] = np.ldexp(
        1 + mantissa / np.float32(1024), (codes >> 10).astype(np.int32) - 63
    )
    return values
