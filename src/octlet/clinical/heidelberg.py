"""Heidelberg's .vol, after "Spectralis, special function: exporting raw data" (Heidelberg Engineering).

    2048 bytes file header | SLO image, 1 byte a pixel | per B-scan: its header, then float32 (H, W)

Every number is little-endian. A B-scan holds reflectivity from 0 to 1. That document shows it as
255 times its fourth root, and marks what was not measured by the largest float32.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from octlet.clinical.volume import Keys, Volume, check_size, damaged
from octlet.core.errors import InputError
from octlet.core.image import Gray

HEADER = 2048
_SCAN_HEADER = (256, 2**20)  # bytes, at least and at most
CIRCLE = 2  # scan pattern: around the optic disc
WHITE = 255  # what HEYEX fills in its image exports where nothing was measured; `prepare` crops it


def read(data: bytes, name: str, keys: Keys) -> list[Volume]:
    """Read the volume of a .vol file.

    Raises InputError: not a .vol file, damaged, too large, or a circle scan.
    """
    if not data.startswith(b"HSF-OCT-") or len(data) < HEADER:
        raise InputError("not a Heidelberg .vol file", path=name, remedy="export it as raw data from HEYEX")
    width, scans, height = struct.unpack_from("<3I", data, 12)
    slo_width, slo_height = struct.unpack_from("<2I", data, 48)
    position, pattern, scan_header = struct.unpack_from("<4s8xiI", data, 84)
    check_size(name, scans, height, width)
    if not _SCAN_HEADER[0] <= scan_header <= _SCAN_HEADER[1]:
        raise damaged(name, f"B-scan headers of {scan_header} bytes")
    if pattern == CIRCLE:
        raise circle(name)
    first = HEADER + slo_width * slo_height
    step = scan_header + 4 * width * height
    if len(data) < first + scans * step:
        raise damaged(name, f"{len(data)} bytes; its header says {first + scans * step}")
    starts = range(first + scan_header, first + scans * step, step)
    shape = (height, width)
    images = tuple(
        display(np.frombuffer(data, "<f4", height * width, start).reshape(shape)) for start in starts
    )
    internal, patient, visit = struct.unpack_from("<I24s8xI", data, 136)
    eye = {b"OD": "R", b"OS": "L"}.get(position[:2])
    issued = text(patient)
    link = keys.link("vol", issued or internal, visit) if issued or internal else ""
    return [Volume(name, eye, keys.subject(issued), images, visit=link)]


def display(raw: NDArray[np.float32], unmeasured: float = 1e38) -> Gray:
    """Return reflectivity as that manual shows it: ``255 raw^(1/4)``, and white where none was measured.

    Args:
        raw: float32 (H, W); what lies outside of 0..1 is brought to the nearer end.
        unmeasured: values from here on, and those that are no number, were not measured.
    """
    measured = raw < unmeasured  # False for NaN
    root = np.sqrt(np.sqrt(np.clip(np.where(measured, raw, 0), 0, 1)))
    return np.where(measured, np.rint(255 * root), WHITE).astype(np.uint8)


def text(field: bytes) -> str:
    """Return a text that is padded by zeros or spaces."""
    return field.partition(b"\0")[0].decode("latin-1").strip()


def circle(name: str) -> InputError:
    """Return the error of a circle scan."""
    rule = "a circle scan around the optic disc; the model was trained on scans of the macula"
    return InputError(rule, path=name, remedy="export the volume scan of the macula")
