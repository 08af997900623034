"""What is kept of a volume, and what is not: no name, no date and no identifier of a patient.

An identifier is read to tell which files belong together, and leaves its reader as a keyed hash only: under
the user's salt as `subject`, which is shown, and under a key of this process as `visit` and `series`, which
are not.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass, field, replace

from octlet.core.errors import InputError
from octlet.core.image import MAX_PIXELS, MIN_SIDE, Gray

MAX_VOLUME_BYTES = 512 * 2**20  # of a file
MAX_VOLUME_PIXELS = 400_000_000  # of all B-scans together: one byte each is held
MAX_SCANS = 2048
HEX = 16  # digits of a keyed hash

_PROCESS_KEY = os.urandom(32)


@dataclass(frozen=True)
class Volume:
    """The B-scans of one acquisition of one eye.

    Attributes:
        file: its name as given, one printable line; `@2` and so on tells the volumes of a file apart.
        eye: "R", "L", or None where the file does not say.
        subject: 16 hex digits of a salted hash of the patient's ID; None without a salt or an ID.
        scans: uint8 (H, W) each, in the file's order, at least one.
        visit: equal for the volumes of a patient's visit, within this process; "" where it is not known.
        series: equal for single B-scans that neighbour each other, within this process; "" if not known.
        number: the place of a single B-scan in its series.
        picture: one image of a format that knows no eyes: it is predicted as a JPEG or PNG would be.
    """

    file: str
    eye: str | None
    subject: str | None
    scans: tuple[Gray, ...] = field(repr=False)
    visit: str = ""
    series: str = ""
    number: int = 0
    picture: bool = False

    def name_of(self, index: int) -> str:
        """Return the name of a B-scan, by its index from 0: "FILE#1" is the first."""
        return f"{self.file}#{index + 1}"


@dataclass(frozen=True)
class Keys:
    """Turns identifiers into keyed hashes, HMAC-SHA256 (RFC 2104), cut to `HEX` digits."""

    salt: bytes | None = field(default=None, repr=False)

    def subject(self, patient: str) -> str | None:
        """Return the hash of a patient's ID as it was issued, under the salt; None without either."""
        return _keyed(self.salt, patient.encode()) if self.salt is not None and patient else None

    def content(self, digest: str) -> str:
        """Return the hash of a file's SHA-256 under the salt, for a file that names no patient; or ""."""
        return "" if self.salt is None else _keyed(self.salt, b"content\0" + digest.encode())

    @staticmethod
    def link(kind: str, *parts: object) -> str:
        """Return what tells, within this process, that two files share `parts`; "" where one is missing."""
        if any(part in (None, "") for part in parts):
            return ""
        return _keyed(_PROCESS_KEY, "\0".join((kind, *map(str, parts))).encode())


def _keyed(key: bytes, message: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:HEX]


def damaged(name: str, what: str) -> InputError:
    """Return the error of a file that is not as its format has it."""
    return InputError(f"damaged or cut short: {what}", path=name, remedy="copy or export the file again")


def check_size(name: str, scans: int, height: int, width: int) -> None:
    """Refuse, before anything is decoded, what is no volume of B-scans or would not fit into memory."""
    if not 1 <= scans <= MAX_SCANS:
        rule = f"it holds {scans} images; a volume has 1 to {MAX_SCANS}"
        raise InputError(rule, path=name, remedy="export one volume of B-scans")
    if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
        rule = (
            f"its images are {width}x{height}; a B-scan has {MIN_SIDE} pixels or more on each side, and at "
        )
        rule += f"most {MAX_PIXELS // 1_000_000} million"
        raise InputError(rule, path=name, remedy="export one volume of B-scans")
    if scans * height * width > MAX_VOLUME_PIXELS:
        rule = f"its images have over {MAX_VOLUME_PIXELS // 1_000_000} million pixels together"
        raise InputError(rule, path=name, remedy="export fewer B-scans at a time")


def told_apart(volumes: list[Volume]) -> list[Volume]:
    """Return the volumes of one file, with `@1`, `@2` and so on in their names where there are several."""
    if len(volumes) == 1:
        return volumes
    return [replace(volume, file=f"{volume.file}@{k}") for k, volume in enumerate(volumes, start=1)]
