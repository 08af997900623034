"""Labelled scans, taken in the layout that they come in: folders, MedMNIST arrays or a table.

    [train|val|test/]CLASS/CLASS-PATIENT-N.jpeg   Kermany and Kaggle: the middle field is the patient
    [train|val|test/]CLASS/*.png                  any ImageFolder: patients unknown
    octmnist.npz                                  MedMNIST: patients unknown; "octmnist.npz#train/12"
    scans.csv                                     columns path, label, patient and, if given, split

A scan whose patient nobody knows is its own patient, `file:<path>`.
"""

import csv
import difflib
import io
import os
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from octlet.core.errors import InputError
from octlet.core.image import IMAGE_SUFFIXES, MAX_BYTES, decode
from octlet.core.labels import LABELS, NAMES

SPLITS = ("train", "val", "test")
_SPLIT_OF = {**{name: name for name in SPLITS}, "valid": "val", "validation": "val"}
# What archives, tools and `octlet data phantom --masks` leave beside the class folders.
_SIDE_FOLDERS = frozenset({"__macosx", "masks"})
_KERMANY_STEM = re.compile(r"([A-Za-z]+)-([0-9]+)-([0-9]+)")
_NPZ_SCAN = re.compile(r"(.+\.npz)#(train|val|test)/([0-9]+)", re.DOTALL)
_NPZ_LOCK = threading.Lock()


@dataclass(frozen=True)
class Item:
    """One labelled scan: its path under the source's root (POSIX form) and what is known of it."""

    path: str
    label: str
    patient: str
    split: str


@dataclass(frozen=True)
class Source:
    """Labelled scans under one root, sorted by path, and the number of files that are not scans."""

    root: Path
    items: tuple[Item, ...]
    other_files: int = 0

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def open_source(path: str | Path) -> Source:
    """Recognise the layout of `path` and list its scans; no pixel of an image file is read.

    Raises InputError when there is no scan, a class is unknown, a table lacks a column or an array is not
    what MedMNIST's are.
    """
    place = Path(path)
    if not place.exists():
        raise InputError("no such file or folder", path=place, remedy="check the path")
    if place.is_dir():
        source = _from_folder(place)
    elif place.suffix.lower() == ".npz":
        source = Source(place.parent, tuple(_npz_items(place)))
    elif place.suffix.lower() == ".csv":
        source = Source(place.parent, tuple(_csv_items(place)))
    else:
        raise InputError("neither a folder nor .npz nor .csv", path=place, remedy="give the scans' folder")
    if not source.items:
        remedy = f"expected class folders {', '.join(LABELS)}, alone or under train, val and test"
        raise InputError("no scan found", path=place, remedy=remedy)
    return Source(source.root, tuple(sorted(source.items, key=lambda item: item.path)), source.other_files)


def label_of(name: str) -> str | None:
    """Return the label that a class name stands for, whatever its case, or None."""
    return _known_names().get(_plain(name))


def unknown_patient(path: str) -> str:
    """Return the stand-in for the unknown patient of one scan."""
    return f"file:{path}"


def is_unknown(patient: str) -> bool:
    """Tell whether `patient` is a stand-in made by `unknown_patient`."""
    return patient.startswith("file:")


def read_pixels(root: Path, path: str) -> NDArray[np.uint8]:
    """Read one scan as gray uint8 (H, W); raises InputError, see `read_scan`."""
    return read_scan(root, path)[1]


def read_scan(root: Path, path: str) -> tuple[bytes, NDArray[np.uint8]]:
    """Read one scan: its file's bytes (of an array: its gray pixels' bytes) and its gray uint8 (H, W).

    Raises InputError when it is missing, unreadable or no image.
    """
    match = _NPZ_SCAN.fullmatch(path)
    if match:
        pixels = _npz_pixels(root / match[1], match[2], int(match[3]))
        return pixels.tobytes(), pixels
    data = read_bytes(root, path)
    return data, decode(data, path)


def read_bytes(root: Path, path: str) -> bytes:
    """Read the bytes of one image file; raises InputError when it cannot be read or is over 64 MiB."""
    file = root / path
    try:
        if file.stat().st_size > MAX_BYTES:
            rule = f"the file is over the limit of {MAX_BYTES // 2**20} MiB"
            raise InputError(rule, path=path, remedy="export the B-scan as one JPEG or PNG image")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path, remedy="check the file") from error


def read_table(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a UTF-8 CSV file with a header, one dict a row; raises InputError naming file, line and rule."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path, remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise InputError("the table is not UTF-8 text", path=path, remedy="save it as CSV UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = list(reader.fieldnames or [])
        _check_columns(path, columns, required)
        rows = []
        for row in reader:
            if None in row or None in row.values():
                rule = f"line {reader.line_num} does not have {len(columns)} fields"
                raise InputError(rule, path=path, remedy="quote fields that hold commas")
            rows.append(row)
    except csv.Error as error:
        rule = f"not CSV after line {reader.line_num}: {error}"
        raise InputError(rule, path=path, remedy="save it as CSV again") from error
    return rows


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in columns]
    if missing:
        close = difflib.get_close_matches(missing[0], columns, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        rule = f"the column '{missing[0]}' is missing"
        raise InputError(rule, path=path, remedy=f"{hint}the header must hold {','.join(required)}")
    if len(set(columns)) != len(columns):
        raise InputError("a column stands twice in the header", path=path, remedy="rename one of them")


# Folders ----------------------------------------------------------------------------------------------


def _from_folder(root: Path) -> Source:
    items, other_files = _walk_classes(root, root, "")
    if not items:
        files = sorted(file for file in root.iterdir() if file.suffix.lower() in (".npz", ".csv"))
        if len(files) == 1:
            return open_source(files[0])
        if files:
            names = ", ".join(file.name for file in files)
            raise InputError(f"no class folder, but {names}", path=root, remedy="give one of the files")
    return Source(root, tuple(items), other_files)


def _walk_classes(root: Path, folder: Path, split: str) -> tuple[list[Item], int]:
    items: list[Item] = []
    other_files = 0
    for entry in sorted(folder.iterdir()):
        given = _SPLIT_OF.get(entry.name.casefold(), "")
        if _is_side(entry):
            found: tuple[list[Item], int] = [], sum(1 for _ in _files_below(entry))
        elif given and not split:
            found = _walk_classes(root, entry, given)
        else:
            found = _walk_class(root, entry, split)
        items += found[0]
        other_files += found[1]
    return items, other_files


def _is_side(entry: Path) -> bool:
    return not entry.is_dir() or entry.name.startswith(".") or entry.name.casefold() in _SIDE_FOLDERS


def _walk_class(root: Path, folder: Path, split: str) -> tuple[list[Item], int]:
    files = list(_files_below(folder))
    scans = [file for file in files if _is_scan(file)]
    label = label_of(folder.name)
    if label is None:
        if scans:
            raise _unknown_class(folder.name, folder, "rename the folder or move it away")
        return [], len(files)
    paths = (file.relative_to(root).as_posix() for file in scans)
    return [Item(path, label, _patient_in(path), split) for path in paths], len(files) - len(scans)


def _files_below(place: Path) -> Iterator[Path]:
    """Yield every file under `place`; a linked folder in it counts as one file, so that links cannot loop."""
    if not place.is_dir():
        yield place
    for folder, folders, files in os.walk(place):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in [*files, *links])


def _is_scan(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and not file.is_dir()


def _patient_in(path: str) -> str:
    match = _KERMANY_STEM.fullmatch(PurePosixPath(path).stem)
    return match[2] if match and label_of(match[1]) else unknown_patient(path)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


@lru_cache(maxsize=1)
def _known_names() -> dict[str, str]:
    return {_plain(name): label for label in LABELS for name in (label, NAMES[label])}


def _unknown_class(name: str, path: Path, remedy: str) -> InputError:
    close = difflib.get_close_matches(_plain(name), _known_names(), n=1)
    hint = f"did you mean '{_known_names()[close[0]]}'? " if close else ""
    rule = f"unknown class '{name}', not one of {', '.join(LABELS)}"
    return InputError(rule, path=path, remedy=hint + remedy)


# A table ----------------------------------------------------------------------------------------------


def _csv_items(file: Path) -> Iterator[Item]:
    seen: set[str] = set()
    for number, row in enumerate(read_table(file, ("path", "label", "patient")), start=1):
        path = row["path"].replace("\\", "/") if os.sep == "\\" else row["path"]
        label, split = label_of(row["label"]), row.get("split", "")
        if label is None:
            raise _unknown_class(row["label"], file, f"correct row {number}")
        if split and split.casefold() not in _SPLIT_OF:
            rule = f"row {number}: unknown split '{split}'"
            raise InputError(rule, path=file, remedy=f"use {', '.join(SPLITS)} or leave it empty")
        if not path or path in seen:
            rule = f"row {number}: the path '{path}' is empty or stands twice"
            raise InputError(rule, path=file, remedy="give each scan one row")
        seen.add(path)
        patient = row["patient"].strip() or unknown_patient(path)
        yield Item(path, label, patient, _SPLIT_OF.get(split.casefold(), ""))


# MedMNIST ---------------------------------------------------------------------------------------------


def _npz_items(file: Path) -> Iterator[Item]:
    for split in _npz_splits(file):
        images, labels = _npz_array(file, f"{split}_images"), _npz_array(file, f"{split}_labels").reshape(-1)
        if len(images) != len(labels):
            rule = f"{len(images)} {split}_images but {len(labels)} {split}_labels"
            raise InputError(rule, path=file, remedy="write both arrays from the same scans")
        if not np.issubdtype(labels.dtype, np.integer) or not np.isin(labels, range(len(LABELS))).all():
            rule = f"{split}_labels holds numbers other than 0 to {len(LABELS) - 1}"
            raise InputError(rule, path=file, remedy=f"number the classes in the order {', '.join(LABELS)}")
        for number, label in enumerate(labels.tolist()):
            path = f"{file.name}#{split}/{number}"
            yield Item(path, LABELS[label], unknown_patient(path), split)


def _npz_splits(file: Path) -> list[str]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = set(archive.files)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError("not a readable .npz file", path=file, remedy="download it again") from error
    splits = [split for split in SPLITS if f"{split}_images" in names]
    missing = [f"{split}_labels" for split in splits if f"{split}_labels" not in names]
    if missing or not splits:
        rule = f"no array '{missing[0] if missing else 'train_images'}' in the file"
        remedy = "MedMNIST files hold train_images, train_labels and so on"
        raise InputError(rule, path=file, remedy=remedy)
    return splits


def _npz_pixels(file: Path, split: str, number: int) -> NDArray[np.uint8]:
    images = _npz_array(file, f"{split}_images")
    if number >= len(images):
        raise InputError(f"no scan {number} in {split}_images", path=file, remedy="index the file again")
    pixels: NDArray[np.uint8] = np.ascontiguousarray(images[number])
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _npz_array(file: Path, name: str) -> NDArray[Any]:
    """Return one array of the file, kept in memory: an .npz member can only be read whole."""
    try:
        changed = file.stat().st_mtime_ns
        with _NPZ_LOCK:  # or every thread that meets a cold cache would load the array
            array = _load_array(file, name, changed)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        rule = f"the array '{name}' cannot be read"
        raise InputError(rule, path=file, remedy="download it again") from error
    image_like = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))
    if name.endswith("_images") and not (array.dtype == np.uint8 and image_like):
        rule = f"{name} is {array.dtype} {array.shape}, not uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
        raise InputError(rule, path=file, remedy="write 8-bit gray scans")
    return array


@lru_cache(maxsize=8)
def _load_array(file: Path, name: str, _changed: int) -> NDArray[Any]:
    with np.load(file, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[name]
    array.flags.writeable = False
    return array
