"""One function for every format; each reader is imported when its first file comes."""

import importlib
from collections.abc import Callable
from pathlib import Path, PurePath

from octlet.clinical.volume import MAX_VOLUME_BYTES, Keys, Volume, told_apart
from octlet.core.errors import InputError
from octlet.core.files import printable

# suffix -> module with read(data, name, keys)
_READERS = {
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".vol": "heidelberg",
    ".e2e": "e2e",
    ".fda": "topcon",
    ".img": "zeiss",
    ".tif": "tiff",
    ".tiff": "tiff",
}
CLINICAL_SUFFIXES = frozenset(_READERS)

_PREAMBLE, _MAGIC = 128, b"DICM"  # PS3.10, 7.1


def read_volumes(
    path: str | Path, *, salt: bytes | None = None, data: bytes | None = None, any_modality: bool = False
) -> list[Volume]:
    """Read every volume of B-scans in a file.

    The format is that of the name's suffix; DICOM is known by its first bytes, whatever the name.

    Args:
        path: the file, or what to call `data`.
        salt: of the pseudonyms; without one `subject` is None.
        data: the file's bytes, where they are in memory already.
        any_modality: take DICOM images of every modality, not of OCT alone.

    Returns:
        At least one volume.

    Raises:
        InputError: missing, too large, damaged, of a format or modality that is not read, or with pixels in a
            compression that no installed library decodes. DICOM without pydicom installed, too.
    """
    name = printable(path)
    content = _bytes_of(Path(path), name) if data is None else data
    if not content:
        raise InputError("the file is empty", path=name, remedy="export the scan again")
    suffix = PurePath(name).suffix.lower()
    if is_dicom(content):
        suffix = ".dcm"
    if suffix not in _READERS:
        known = ", ".join(sorted(_READERS))
        raise InputError("not a clinical file that is read", path=name, remedy=f"the suffixes are {known}")
    keys = Keys(salt)
    module = importlib.import_module(f"octlet.clinical.{_READERS[suffix]}")
    if suffix in (".dcm", ".dicom"):
        return told_apart(module.read(content, name, keys, any_modality=any_modality))
    read: Callable[[bytes, str, Keys], list[Volume]] = module.read
    return told_apart(read(content, name, keys))


def is_dicom(head: bytes) -> bool:
    """Return whether a file's first bytes, 132 or more, are those of a DICOM file."""
    return head[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC


def is_clinical(file: Path) -> bool:
    """Return whether a file of a folder is to be read as a clinical file: by its suffix, or as DICOM.

    Archives often name DICOM files without a suffix. DICOMDIR, the table of contents of such a folder, is
    none.
    """
    if file.suffix.lower() in CLINICAL_SUFFIXES:
        return True
    if file.name.upper() == "DICOMDIR":
        return False
    try:
        with file.open("rb") as opened:
            return is_dicom(opened.read(_PREAMBLE + len(_MAGIC)))
    except OSError:
        return False


def _bytes_of(file: Path, name: str) -> bytes:
    if not file.exists():
        raise InputError("no such file", path=name, remedy="check the path")
    if not file.is_file():
        raise InputError("not a file", path=name, remedy="give a file")
    try:
        size = file.stat().st_size
        if size > MAX_VOLUME_BYTES:
            rule = f"the file has {size / 2**20:.0f} MiB, over the limit of {MAX_VOLUME_BYTES // 2**20} MiB"
            raise InputError(rule, path=name, remedy="export one volume at a time")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=name, remedy="check its rights") from error
