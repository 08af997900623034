"""Scans decoded and prepared once: epochs after the first read one memory-mapped array and no JPEG."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import InputError
from octlet.core.files import replacing
from octlet.core.image import RECIPE, prepare
from octlet.data.index import Progress, reading
from octlet.data.source import read_scan


def cache_folder() -> Path:
    """Return `$OCTLET_CACHE`, or `octlet` under the user's cache folder (XDG Base Directory)."""
    own = os.environ.get("OCTLET_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "octlet"


def prepared_scans(
    root: Path,
    scans: Sequence[tuple[str, str]],
    size: int,
    *,
    progress: Progress = iter,
) -> NDArray[np.uint8]:
    """Return the prepared scans, uint8 (N, size, size), read-only and memory-mapped.

    The cache file is named by the scans' hashes, their order, the size and the preprocessing recipe, so a
    changed file, list or recipe is a new cache and never a stale one.

    Args:
        root: folder that the paths are relative to.
        scans: (path, sha256) of each.
        size: side of the prepared scans, pixels.
        progress: wraps the counting iterator.

    Raises:
        InputError: a scan cannot be read any more, or is another than its hash says.
    """
    text = json.dumps([RECIPE, size, [sha for _, sha in scans]])
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    file = cache_folder() / f"scans-{size}-{key}.npy"
    if not file.exists():
        _fill(file, root, scans, size, progress)
    cached: NDArray[np.uint8] = np.load(file, mmap_mode="r", allow_pickle=False)
    return cached


def _fill(file: Path, root: Path, scans: Sequence[tuple[str, str]], size: int, progress: Progress) -> None:
    def one(scan: tuple[str, str]) -> NDArray[np.uint8]:
        path, sha256 = scan
        try:
            data, pixels = read_scan(root, path)
            if hashlib.sha256(data).hexdigest() != sha256:
                rule = "the scan is another than when it was indexed"
                raise InputError(rule, remedy="check and split the scans again")
            return prepare(pixels, size).pixels
        except InputError as error:
            raise InputError(error.rule, path=root / path, remedy=error.remedy) from error

    with replacing(file) as temporary, reading() as pool:
        shape = (len(scans), size, size)
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        done = pool.map(one, scans)
        for i in progress(range(len(scans))):
            array[i] = next(done)
        array.flush()
