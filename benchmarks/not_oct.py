"""Images that are no OCT B-scans, for asking whether a model refuses them.

    python benchmarks/not_oct.py FOLDER [OTHERS ...]

Photographs that ship with scikit-image and scikit-learn, whole and in parts; CT, MR, ultrasound and other
frames that ship with pydicom; pages of text, plots, noise, gradients; and phantoms without a retina. Needs
these packages and matplotlib; nothing is downloaded. The same versions give the same images.

With OTHERS, folders of any files, instead of all these: each picture and DICOM frame in them, once.
"""

import contextlib
import hashlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import skimage
import sklearn
from matplotlib import pyplot
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from octlet.data.phantom_anatomy import draw_anatomy
from octlet.data.phantom_imaging import detect, texture

WORDS = "retina macula patient of and scan optical coherence tomography report was with for visual acuity the"
SIDE = 64  # pixels at least, as the smallest scans that anyone would show


def photographs() -> Iterator[tuple[str, Image.Image]]:
    folders = [
        Path(skimage.__file__).parent / "data",
        Path(sklearn.__file__).parent / "datasets" / "images",
    ]
    for file in sorted(file for folder in folders for file in folder.iterdir()):
        if file.suffix in (".png", ".jpg"):
            yield file.stem, Image.open(file).convert("RGB").convert("L")


def parts() -> Iterator[tuple[str, Image.Image]]:
    rng = np.random.default_rng(0)
    whole = [image for _, image in photographs()]
    for number in range(60):
        image = whole[rng.integers(len(whole))]
        share = rng.uniform(0.3, 0.9)
        width, height = int(image.width * share), int(image.height * share * rng.uniform(0.5, 1))
        left, top = rng.integers(image.width - width), rng.integers(image.height - height)
        yield f"{number:02}", image.crop((left, top, left + width, top + height))


def dicom() -> Iterator[tuple[str, Image.Image]]:
    yield from frames(Path(pydicom.__file__).parent / "data" / "test_files")


def frames(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield a frame of each file that can be read, its grey values from the 1st to the 99th percentile."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with contextlib.suppress(Exception):  # files of reports, plans and deliberate damage lie among them
            data = pydicom.dcmread(file)
            pixels = np.asarray(data.pixel_array, float)
            if data.get("NumberOfFrames", 1) > 1:
                pixels = pixels[0]
            if pixels.ndim == 3:
                pixels = pixels.mean(axis=-1)
            low, high = np.percentile(pixels, (1, 99))
            if high > low:
                shown = np.clip((pixels - low) / (high - low), 0, 1) * 255
                yield f"{data.Modality}-{file.stem}", Image.fromarray(shown.astype(np.uint8))


def text() -> Iterator[tuple[str, Image.Image]]:
    rng = np.random.default_rng(0)
    for number in range(30):
        paper, ink = (255, 0) if number % 2 else (20, 230)
        page = Image.new("L", tuple(rng.integers((500, 400), (1000, 900)).tolist()), paper)
        draw, y = ImageDraw.Draw(page), 20
        while y < page.height - 30:
            font = ImageFont.load_default(int(rng.integers(10, 30)))
            line = " ".join(rng.choice(WORDS.split(), rng.integers(4, 12)))
            draw.text((20, y), line, fill=ink, font=font)
            y += int(rng.integers(20, 40))
        yield f"{number:02}", page


def plots() -> Iterator[tuple[str, Image.Image]]:
    rng = np.random.default_rng(0)
    for number in range(30):
        figure, axes = pyplot.subplots(figsize=(6, 4.5), dpi=90)
        if number % 2:
            figure.set_facecolor("black")
            axes.set_facecolor("black")
        kinds = (
            lambda axes=axes: axes.plot(rng.normal(size=(200, 3)).cumsum(axis=0)),
            lambda axes=axes: axes.scatter(*rng.normal(size=(2, 300))),
            lambda axes=axes: axes.bar(range(10), rng.uniform(size=10)),
            lambda axes=axes: axes.imshow(rng.normal(size=(20, 20))),
            lambda axes=axes: axes.hist(rng.normal(size=500), 30),
        )
        kinds[number % len(kinds)]()
        buffer = io.BytesIO()
        figure.savefig(buffer)
        pyplot.close(figure)
        yield f"{number:02}", Image.open(buffer).convert("RGB").convert("L")


def noise() -> Iterator[tuple[str, Image.Image]]:
    rng = np.random.default_rng(0)
    for number in range(20):
        shape = (496, int(rng.choice([512, 768])))
        flat = rng.integers(0, 256, shape)
        smooth = Image.fromarray(flat.astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(1, 12)))
        yield f"flat-{number:02}", grey(flat)
        yield f"speckle-{number:02}", grey(rng.exponential(rng.uniform(20, 80), shape))
        yield f"smooth-{number:02}", grey(stretched(np.asarray(smooth, float)))


def gradients() -> Iterator[tuple[str, Image.Image]]:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:496, 0:768]
    for number in range(20):
        turn = rng.uniform(0, 2 * np.pi)
        yield f"line-{number:02}", grey(stretched(np.cos(turn) * columns + np.sin(turn) * rows))
        distance = np.hypot(rows - rng.uniform(0, 496), columns - rng.uniform(0, 768))
        yield f"disc-{number:02}", grey(stretched(-distance))


def no_retina() -> Iterator[tuple[str, Image.Image]]:
    """Yield what the simulated instrument sees of nothing, and of an even, cloudy tissue."""
    for number in range(40):
        rng = np.random.default_rng(number)
        eye = draw_anatomy(rng)
        cloud = np.clip(0.3 + 0.2 * texture(eye.shape, (40.0, 80.0), rng), 0, 1) * np.float32(number % 2)
        yield f"{number:02}", Image.fromarray(detect(cloud.astype(np.float32), eye, rng))


def pictures(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield the first frame of each file that Pillow can read, unless it is of one grey or very small."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with contextlib.suppress(Exception):  # files of fonts and of deliberate damage lie among them
            image = Image.open(file).convert("RGB").convert("L")
            low, high = image.getextrema()
            if min(image.size) >= SIDE and low != high:
                yield file.stem, image


def once(images: Iterator[tuple[str, Image.Image]]) -> Iterator[tuple[str, Image.Image]]:
    """Yield images that are not the same as one before, with a number before the name."""
    known: set[str] = set()
    for name, image in images:
        key = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        if key not in known:
            known.add(key)
            yield f"{len(known):03}-{name}", image


def stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 255 * (values - values.min()) / np.ptp(values)


def grey(values: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def main(out: Path, others: list[Path]) -> None:
    warnings.simplefilter("ignore")  # of pydicom, about its own damaged files
    own = (photographs, parts, dicom, text, plots, noise, gradients, no_retina)
    kinds: dict[str, Callable[[], Iterator[tuple[str, Image.Image]]]]
    kinds = {each.__name__.replace("_", "-"): each for each in own}
    if others:
        kinds = {
            kind.__name__: lambda kind=kind: once(found for each in others for found in kind(each))
            for kind in (pictures, frames)
        }
    for kind, images in kinds.items():
        folder = out / kind
        folder.mkdir(parents=True)
        for name, image in images():
            if min(image.size) < SIDE:
                scale = SIDE / min(image.size)
                image = image.resize((round(image.width * scale), round(image.height * scale)))
            image.save(folder / f"{name}.png")
        print(f"{folder.name:12} {len(list(folder.iterdir()))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), list(map(Path, sys.argv[2:])))
