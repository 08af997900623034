"""Zeiss Cirrus' .img: samples of one byte and nothing else. What they mean stands in the file's name.

"Macular Cube 512x128" is 128 B-scans of 512 A-scans; how deep they are follows from the file's size. Two
orders are met (OCT-Converter calls one interlaced), and neither the name nor the vendor says which:

- A-scan by A-scan, each from the vitreous down
- row by row of a B-scan, from the choroid up

Neighbours in the file's order of rows differ little, those of another order much, so the samples tell.
"""

import re

import numpy as np
from numpy.typing import NDArray

from octlet.clinical.volume import Keys, Volume, check_size
from octlet.core.errors import InputError

_DEPTHS = (512, 2048)  # samples of an A-scan, at least and at most; a Cirrus has 1024
_LOOK = 4_000_000  # samples that are looked at to tell the order


def read(data: bytes, name: str, keys: Keys) -> list[Volume]:
    """Read the volume of an .img file, by the sizes in its name.

    Raises InputError: the name has no sizes, or not those of the file.
    """
    sizes = re.search(r"(?<!\d)(\d{2,4}) ?x ?(\d{1,4})(?!\d)", name.replace("\\", "/").rpartition("/")[2])
    if sizes is None:
        rule = "a Zeiss .img file says its size in its name alone, and this one does not"
        raise InputError(rule, path=name, remedy="name it as exported: ..._Macular Cube 512x128_...img")
    width, scans = int(sizes[1]), int(sizes[2])
    depth, rest = divmod(len(data), max(width * scans, 1))
    if rest or not _DEPTHS[0] <= depth <= _DEPTHS[1]:
        rule = f"{len(data)} bytes are not {scans} B-scans of {width} A-scans, as its name says"
        raise InputError(rule, path=name, remedy="copy the file again under its own name")
    check_size(name, scans, depth, width)
    samples = np.frombuffer(data, np.uint8)
    if _differ(samples, width) < _differ(samples, depth):
        cube = samples.reshape(scans, depth, width)[:, ::-1]
    else:
        cube = samples.reshape(scans, width, depth).swapaxes(1, 2)
    stem = name.replace("\\", "/").rpartition("/")[2]
    eye = {"OD": "R", "OS": "L"}.get((re.search(r"(?<![A-Za-z])(O[DS])(?![A-Za-z])", stem) or [""])[0])
    patient = (re.match(r"P\d+", stem) or [""])[0]
    day = (re.search(r"\d{1,2}-\d{1,2}-\d{4}", stem) or [""])[0]
    images = tuple(np.ascontiguousarray(image) for image in cube)
    return [Volume(name, eye, keys.subject(patient), images, visit=keys.link("img", patient, day))]


def _differ(samples: NDArray[np.uint8], apart: int) -> float:
    """Return the mean difference of samples that lie so far apart."""
    part = samples[:_LOOK].astype(np.int16)
    return float(np.abs(part[apart:] - part[:-apart]).mean()) if len(part) > apart else np.inf
