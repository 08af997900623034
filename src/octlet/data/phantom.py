"""Simulated OCT B-scans in the layout of Kermany's data set: no patient, no download, four classes."""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from octlet.core.errors import InputError, UsageError
from octlet.core.files import write_bytes, write_text
from octlet.core.labels import LABELS
from octlet.data.phantom_anatomy import Anatomy, cut, draw_anatomy, draw_section
from octlet.data.phantom_imaging import WHITE, expose, white_border
from octlet.data.phantom_lesion import LESIONS

MOST_SCANS: Final = 6  # of one patient

README: Final = """\
Simulated OCT B-scans (phantoms). No scan in this folder shows a patient.

Made by: octlet data phantom --n {n} --seed {seed}
The folder and file names follow Kermany's data set, train/CLASS/CLASS-PATIENT-N.jpeg, so that every tool
that reads the real scans reads these. Patient numbers are drawn at random and name nobody.
For trying out software only: nothing measured on these images says anything about eyes.
"""


@dataclass(frozen=True)
class Phantom:
    """One simulated B-scan."""

    pixels: NDArray[np.uint8]  # (H, W)
    mask: NDArray[np.bool_]  # (H, W), true on the lesion; nowhere in a NORMAL scan
    label: str
    patient: str


def simulate(
    label: str,
    rng: np.random.Generator,
    *,
    shape: tuple[int, int] | None = None,
    anatomy: Anatomy | None = None,
) -> Phantom:
    """Simulate one B-scan of class `label`.

    `anatomy` is the eye that the patient's scans share; without it a new eye is drawn, its scans `shape`
    (H, W) in pixels if given (one of `SHAPES`). Lesion, cut and imaging have random streams of their own, so
    equal generators give the same eye, cut, border and speckle in every class: NORMAL is what the others are
    without disease.
    Raises UsageError for an unknown label or size, and for a `shape` beside an `anatomy`, which has its own.
    """
    if label not in LESIONS:
        raise UsageError(f"no class is named {label!r}", remedy=f"take one of {', '.join(LABELS)}")
    if anatomy is not None and shape is not None:
        raise UsageError("the scan's size is part of the anatomy", remedy="give either anatomy or shape")
    eye, section, disease, instrument = rng.spawn(4)
    anatomy = anatomy or draw_anatomy(eye, shape=shape)
    tissue = cut(anatomy, draw_section(section), section)
    edges = tissue.boundaries()
    lesion = LESIONS[label](tissue, disease)
    pixels, mask = expose(tissue, lesion, anatomy, instrument)
    border = white_border(anatomy.shape, float(edges[0].min()), float(edges[-1].max()), instrument)
    pixels[border] = WHITE
    return Phantom(pixels, mask & ~border, label, anatomy.patient)


def plan(n: int, rng: np.random.Generator) -> Iterator[tuple[str, Anatomy, int]]:
    """Yield (label, anatomy, scan number from 1) of `n` scans: classes balanced to one, no patient in two."""
    numbers = iter((1_000_000 + rng.choice(9_000_000, n, replace=False)).tolist())
    for position, label in enumerate(LABELS):
        left = n // len(LABELS) + (position < n % len(LABELS))
        while left:
            anatomy = draw_anatomy(rng, patient=str(next(numbers)))
            scans = min(left, int(rng.integers(1, MOST_SCANS + 1)))
            yield from ((label, anatomy, number) for number in range(1, scans + 1))
            left -= scans


def write_phantoms(
    out: Path,
    *,
    n: int = 400,
    seed: int = 0,
    masks: bool = False,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> int:
    """Write `n` simulated scans as OUT/train/CLASS/CLASS-PATIENT-N.jpeg and return `n`.

    `masks` adds OUT/masks/CLASS-PATIENT-N.png, 8 bit, 255 on the lesion and 0 elsewhere. `progress` wraps
    the range of scans while it is walked. OUT appears when it is complete, or not at all. Raises InputError
    if OUT is a file or a folder that is not empty, UsageError if there is not one scan for each class.
    """
    if n < len(LABELS):
        raise UsageError(
            f"{n} scans do not fill {len(LABELS)} classes", remedy=f"ask for {len(LABELS)} or more"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("the output is already there", path=out, remedy="name a new or an empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as temporary:
        folder = Path(temporary) / "phantoms"  # of ordinary permissions, unlike the temporary folder itself
        _write_all(folder, n, seed, masks, progress or iter)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return n


def _write_all(
    folder: Path, n: int, seed: int, masks: bool, progress: Callable[[Iterable[int]], Iterable[int]]
) -> None:
    rng = np.random.default_rng(seed)
    scans = list(plan(n, rng))
    for index, stream in zip(progress(range(n)), rng.spawn(n), strict=True):
        label, anatomy, number = scans[index]
        phantom = simulate(label, stream, anatomy=anatomy)
        name = f"{label}-{anatomy.patient}-{number}"
        write_bytes(folder / "train" / label / f"{name}.jpeg", _encoded(phantom.pixels, "JPEG"))
        if masks:
            write_bytes(folder / "masks" / f"{name}.png", _encoded(phantom.mask * np.uint8(WHITE), "PNG"))
    write_text(folder / "README.txt", README.format(n=n, seed=seed))


def _encoded(grey: NDArray[np.uint8], form: str) -> bytes:
    """Return the file of an 8-bit grey image; a JPEG has Pillow's default quality, 75, as Kermany's have."""
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, form)
    return buffer.getvalue()


def contact_sheet(eyes: int = 4, *, seed: int = 0) -> Image.Image:
    """Return a palette image: a row for each class, a column for each eye, and the first eye's lesion marked.

    Each column holds the same eye, cut and speckle, so its rows differ by the disease alone.
    """
    tile, gap = (200, 150), 4
    sheet = Image.new(
        "RGB", ((eyes + 1) * (tile[0] + gap) - gap, len(LABELS) * (tile[1] + gap) - gap), "gray"
    )
    for row, label in enumerate(LABELS):
        streams = np.random.default_rng(seed).spawn(eyes)
        phantoms = [simulate(label, stream, shape=(496, 768)) for stream in streams]
        grey = [np.repeat(phantom.pixels[..., None], 3, axis=2) for phantom in phantoms]
        orange = (0.5 * grey[0] + 0.5 * np.array([255.0, 160.0, 0.0])).astype(np.uint8)
        marked = np.where(phantoms[0].mask[..., None], orange, grey[0])
        for column, pixels in enumerate([*grey, marked]):
            small = Image.fromarray(pixels).resize(tile, Image.Resampling.LANCZOS)
            sheet.paste(small, (column * (tile[0] + gap), row * (tile[1] + gap)))
        ImageDraw.Draw(sheet).text((8, row * (tile[1] + gap) + tile[1] - 18), label, "white")
    return sheet.quantize(160, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
