"""Topcon's .fda, as uocte and OCT-Converter describe it; the vendor does not.

    "FOCT", type, version (15) | chunks: length of the name, name, length, content | a zero

The B-scans are JPEG 2000 images in `@IMG_JPEG`, in the gray values that the vendor shows. `@IMG_MOT_COMP`,
16 bits without a stated range, is not read.
"""

import io
import struct

from PIL import Image

from octlet.clinical.heidelberg import text
from octlet.clinical.volume import Keys, Volume, check_size, damaged
from octlet.core.errors import InputError
from octlet.core.image import DAMAGED, Gray, to_gray

_START = 15
_MOST_CHUNKS = 10_000


def read(data: bytes, name: str, keys: Keys) -> list[Volume]:
    """Read the volume of an .fda file.

    Raises InputError: not one, damaged, too large, or without B-scans in JPEG.
    """
    if not data.startswith(b"FOCT"):
        raise InputError("not a Topcon .fda file", path=name, remedy="export it from IMAGEnet or FastMap")
    try:
        chunks = _chunks(data, name)
        if "@IMG_JPEG" not in chunks:
            rule = "it holds no B-scans in gray values that are known (no chunk @IMG_JPEG)"
            raise InputError(rule, path=name, remedy="export the volume as DICOM")
        scans = _scans(chunks["@IMG_JPEG"], name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # a warning is raised where they are errors; without it the size is found not to be the stated one
        raise damaged(name, "a B-scan is far larger than the file states") from error
    except (*DAMAGED, MemoryError) as error:
        raise damaged(name, "a part lies beyond its end, or cannot be decoded") from error
    capture = chunks.get("@CAPTURE_INFO_02") or chunks.get("@CAPTURE_INFO") or b"\xff"
    patient = text(bytes(chunks.get("@PATIENT_INFO_02", b"")[:32]))
    when = bytes(capture[106:112]) if "@CAPTURE_INFO_02" in chunks else bytes(capture[1:7])
    eye = {0: "R", 1: "L"}.get(capture[0])
    return [Volume(name, eye, keys.subject(patient), scans, visit=keys.link("fda", patient, when.hex()))]


def _chunks(data: bytes, name: str) -> dict[str, memoryview]:
    """Return the content of each chunk by its name; of several of one name the first."""
    chunks: dict[str, memoryview] = {}
    place, view = _START, memoryview(data)
    for _ in range(_MOST_CHUNKS):
        length = data[place] if place < len(data) else 0
        if not length:
            return chunks
        chunk = data[place + 1 : place + 1 + length].decode("latin-1")
        (size,) = struct.unpack_from("<I", data, place + 1 + length)
        place += 5 + length
        if place + size > len(data):
            raise damaged(name, "a chunk lies beyond its end")
        chunks.setdefault(chunk, view[place : place + size])
        place += size
    raise damaged(name, f"over {_MOST_CHUNKS} chunks")


def _scans(chunk: memoryview, name: str) -> tuple[Gray, ...]:
    width, height, count = struct.unpack_from("<9x3I", chunk, 0)
    check_size(name, count, height, width)
    place, scans = 25, []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", chunk, place)
        coded = bytes(chunk[place + 4 : place + 4 + size])
        with Image.open(io.BytesIO(coded), formats=("JPEG2000", "JPEG")) as image:
            if image.size != (width, height):
                raise damaged(name, f"a B-scan is {image.width}x{image.height}, not {width}x{height}")
            scans.append(to_gray(image, name).copy())
        place += 4 + size
    return tuple(scans)
