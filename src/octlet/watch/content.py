"""A file at rest, read and hashed; an image, decoded only if it looks finished."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePath

from octlet.clinical.read import CLINICAL_SUFFIXES
from octlet.clinical.volume import MAX_VOLUME_BYTES
from octlet.core.errors import InputError
from octlet.core.image import IMAGE_SUFFIXES, MAX_BYTES, Gray, decode
from octlet.watch.faults import blocked
from octlet.watch.folder import Stamp

_ZEROS = bytes(512)  # longer than padding, shorter than what is left to copy
_SINGLE = IMAGE_SUFFIXES - CLINICAL_SUFFIXES
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class Content:
    """What was in a file.

    Attributes:
        sha256: of its bytes, as 64 hex digits.
        size: bytes.
        data: its bytes; None for a file over the limit of its kind (`limit_of`).
    """

    sha256: str
    size: int
    data: bytes | None


def limit_of(name: str) -> int:
    """Return how many bytes a file may have: an image or, by its suffix, a volume."""
    return MAX_BYTES if PurePath(name).suffix.lower() in _SINGLE else MAX_VOLUME_BYTES


def read_content(file: Path) -> Content | None:
    """Read a file; None where it is gone, or was changed meanwhile. BlockedError where it cannot be read."""
    try:
        with file.open("rb") as opened:
            before = _stamp(opened.fileno())
            if before.size > limit_of(file.name):
                data, sha256 = None, hashlib.file_digest(opened, "sha256").hexdigest()
            else:
                data = opened.read()
                sha256 = hashlib.sha256(data).hexdigest()
            after = _stamp(opened.fileno())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise blocked(error, "a scan", file, "check its rights, and the share") from error
    if before != after or (data is not None and len(data) != after.size):
        return None
    return Content(sha256, after.size, data)


def _stamp(handle: int) -> Stamp:
    status = os.fstat(handle)
    return Stamp(status.st_size, status.st_mtime_ns)


def check_size(content: Content, name: str) -> None:
    """Raise InputError for a file that was too large to be read."""
    if content.data is None:
        limit = limit_of(name) // 2**20
        rule = f"the file has {content.size / 2**20:.0f} MiB, over the limit of {limit} MiB"
        raise InputError(rule, path=name, remedy="export one B-scan, or one volume, at a time")


def decode_image(content: Content, name: str) -> Gray:
    """Decode a file of one image; uint8 (H, W).

    Raises InputError, naming it, for all that `octlet.core.image.decode` refuses, and for a JPEG that ends in
    zeros: a copy whose space was reserved before it was filled, of which decoders show a part without a word.
    """
    data = content.data or b""
    unfinished = data.endswith(_ZEROS) and not data.rstrip(b"\0").endswith(_JPEG_END)
    if data.startswith(_JPEG) and unfinished:
        rule = "the image is cut short: the rest of the file is zeros"
        raise InputError(rule, path=name, remedy="copy or export the scan again")
    return decode(data, name)
