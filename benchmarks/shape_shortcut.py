"""Does a model use the scan's shape, or its padding? Test scans brought to one shape, or given another's.

    python benchmarks/shape_shortcut.py OUT SCANS SPLITS --model NAME MODEL ... [--model NAME MODEL ...]

SPLITS is a folder with fold-0.csv, fold-1.csv ..., one for each model file of every NAME. White padding is
taken off; then the scan is

    one shape            scaled, each axis by itself, to 512 x 496 pixels
    one shape and field  the same, of scans of 768 and 1536 columns only the middle two thirds of the width,
                         which is what scans of 512 and 1024 columns show (docs/preprocessing.md)
    one aspect           scaled to 512 columns, its aspect kept, and cut or filled up with background to 496
                         rows: what was wide is now low, which no scan of the training was
    swapped              scaled to the shape, and given the padded margins, of a scan drawn from another
                         class: DME from NORMAL, CNV from DRUSEN, and the other way round

and, but for the last, given the same white margins. All are saved as JPEG of quality 90 and read again, so
that the blocks of compression are the new picture's. Each is compared with the unchanged scans, paired.

Writes OUT.csv; what was predicted is kept in OUT.work, by the content of models and changes.
"""

import argparse
import hashlib
import inspect
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from robustness import Floats, Row, shares, tested, write_csv

from octlet.cli.ui import bar, table
from octlet.core.errors import UsageError
from octlet.core.files import sha256_of
from octlet.core.image import Gray, decode, median, padding_mask
from octlet.core.labels import LABELS, index_of
from octlet.data.source import read_pixels
from octlet.data.split import SplitRecord
from octlet.evaluate.bootstrap import clusters_of, resample
from octlet.evaluate.predictions import Predictions, merge, read_predictions, write_predictions
from octlet.evaluate.summary import estimate
from octlet.runtime.predictor import Predictor

COLUMNS, ROWS, MARGIN = 512, 496, 24  # pixels
QUALITY = 90
BATCH = 16
UNCHANGED = "unchanged"
CHANGES = ("one shape", "one shape and field", "one aspect", "swapped")
DONOR = {"DME": "NORMAL", "NORMAL": "DME", "CNV": "DRUSEN", "DRUSEN": "CNV"}
WIDE = (768, 1536)  # columns, over a field half as wide again


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("out", "scans", "splits"):
        words.add_argument(name, type=Path)
    words.add_argument("--model", nargs="+", action="append", required=True, metavar=("NAME", "MODEL"))
    given = words.parse_args()
    splits = sorted(given.splits.glob("fold-*.csv"))
    rows: list[Row] = []
    for name, *files in given.model:
        if len(files) != len(splits):
            raise UsageError(f"{len(splits)} splits need as many model files, and {name} has {len(files)}")
        parts = [
            predicted(Path(file), split, given.scans, given.out.with_suffix(".work"))
            for file, split in zip(files, splits, strict=True)
        ]
        pooled = {change: merge([part[change] for part in parts]) for change in (UNCHANGED, *CHANGES)}
        rows += tabulate(name, pooled, shape_of(splits))
    write_csv(given.out.with_suffix(".csv"), rows)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))


# Changing a scan --------------------------------------------------------------------------------------


def changed(gray: Gray, change: str, donor: Gray) -> Gray:
    """Return what a change makes of a scan; `donor` is the one whose shape and margins it may be given."""
    if change == UNCHANGED:
        return gray
    scan = bare(gray)
    if change == "swapped":
        left, top, right, bottom = inside(donor)
        canvas = np.full(donor.shape, 255, np.uint8)
        canvas[top:bottom, left:right] = resized(scan, right - left, bottom - top)
        return saved(canvas)
    if change == "one shape and field" and gray.shape[1] in WIDE:
        sixth = scan.shape[1] // 6
        scan = scan[:, sixth : scan.shape[1] - sixth]
    scan = of_aspect(scan) if change == "one aspect" else resized(scan, COLUMNS, ROWS)
    return saved(np.pad(scan, MARGIN, constant_values=255))


def inside(gray: Gray) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of what is not padding throughout."""
    padding = padding_mask(gray)
    rows, columns = np.flatnonzero(~padding.all(axis=1)), np.flatnonzero(~padding.all(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def bare(gray: Gray) -> Gray:
    """Cut off what is padding throughout, and give wedges of padding the scan's median."""
    padding = padding_mask(gray)
    left, top, right, bottom = inside(gray)
    return np.where(padding, np.uint8(median(gray[~padding])), gray)[top:bottom, left:right]


def of_aspect(scan: Gray) -> Gray:
    """Scale to `COLUMNS` and keep the aspect; cut, or fill with the background, above and below alike."""
    height = round(scan.shape[0] * COLUMNS / scan.shape[1])
    scaled = resized(scan, COLUMNS, height)
    if height >= ROWS:
        above = (height - ROWS) // 2
        return scaled[above : above + ROWS]
    above = (ROWS - height) // 2
    return np.pad(scaled, ((above, ROWS - height - above), (0, 0)), constant_values=median(scan))


def resized(scan: Gray, width: int, height: int) -> Gray:
    image = Image.fromarray(np.ascontiguousarray(scan))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def saved(scan: Gray) -> Gray:
    file = io.BytesIO()
    Image.fromarray(scan).save(file, "JPEG", quality=QUALITY)
    return decode(file.getvalue(), "scan.jpeg")


# Predicting -------------------------------------------------------------------------------------------


def predicted(model: Path, split: Path, scans: Path, work: Path) -> dict[str, Predictions]:
    """Return what a model says of its fold's test scans after each change, and keep it in `work`."""
    code = [inspect.getsource(each) for each in (changed, inside, bare, of_aspect, resized, saved, donor_of)]
    sizes = (COLUMNS, ROWS, MARGIN, QUALITY, WIDE, DONOR)
    named = f"{sha256_of(model)} {sha256_of(split)} {sizes} {code}"
    key = hashlib.sha256(named.encode()).hexdigest()[:12]
    files = {change: work / f"{split.stem}-{key}-{change}.csv" for change in (UNCHANGED, *CHANGES)}
    missing = [change for change, file in files.items() if not file.exists()]
    if missing:
        records = tested(split, 1)
        grays = [read_pixels(scans, record.path) for record in records]
        predictor = Predictor.open(model, threads=1)
        for number in bar(f"{model}, {len(missing)} changes")(range(len(missing))):
            change = missing[number]
            write_predictions(files[change], scored(predictor, records, grays, change))
    return {change: read_predictions(file) for change, file in files.items()}


def scored(
    predictor: Predictor, records: Sequence[SplitRecord], grays: Sequence[Gray], change: str
) -> Predictions:
    said = []
    for start in range(0, len(records), BATCH):
        batch = range(start, min(start + BATCH, len(records)))
        seen = [changed(grays[at], change, grays[donor_of(records[at], records)]) for at in batch]
        said.append(predictor.run(seen).probabilities)
    labels = np.array([index_of(record.label) for record in records], np.int64)
    paths, patients = (tuple(getattr(each, name) for each in records) for name in ("path", "patient"))
    return Predictions(paths, labels, patients, np.concatenate(said))


def donor_of(record: SplitRecord, records: Sequence[SplitRecord]) -> int:
    """Draw a test scan of the class that a scan gets its shape from; its path alone decides the chance."""
    of_class = [at for at, each in enumerate(records) if each.label == DONOR[record.label]]
    return int(np.random.default_rng(zlib.crc32(record.path.encode())).choice(of_class))


# Figures with intervals -------------------------------------------------------------------------------


def shape_of(splits: Sequence[Path]) -> dict[str, str]:
    return {each.path: f"{each.width}x{each.height}" for split in splits for each in tested(split, 1)}


def tabulate(name: str, pooled: dict[str, Predictions], shapes: dict[str, str]) -> list[Row]:
    """Return rows of what each change leaves, and of its difference to the unchanged scans, paired."""
    first = pooled[UNCHANGED]
    square = np.array([shapes[path] == "512x512" for path in first.paths])
    wide = np.array([int(shapes[path].split("x")[0]) in WIDE for path in first.paths])
    edema = first.labels == index_of("DME")
    subsets = {
        "accuracy": np.ones(len(first), bool),
        **{f"sensitivity {label}": first.labels == k for k, label in enumerate(LABELS)},
        "sensitivity DME, 512x512": edema & square,
        "sensitivity DME, other shapes": edema & ~square,
    }
    right = np.column_stack([each.predicted == each.labels for each in pooled.values()])
    of = shares(right, np.column_stack(list(subsets.values())), first.patients)

    def statistics(weights: Floats) -> Floats:
        found = of(weights)
        balanced = np.nanmean(found[:, :, 1 : 1 + len(LABELS)], axis=2, keepdims=True)
        found = np.concatenate([balanced, found], axis=2)
        return np.concatenate([found, found - found[:, :1]], axis=1).reshape(len(found), -1)

    clusters = clusters_of(first.patients)[1]
    whole = statistics(np.ones((clusters, 1))).reshape(2, len(pooled), -1)
    drawn = resample(first.patients, statistics).reshape(-1, 2, len(pooled), whole.shape[-1])
    sizes = [len(first), *(int(chosen.sum()) for chosen in subsets.values())]
    rows = []
    for at, change in enumerate(pooled):
        for what, (figure, n) in enumerate(zip(("balanced accuracy", *subsets), sizes, strict=True)):
            value = estimate(whole[0, at, what], drawn[:, 0, at, what], clusters, is_share=True)
            moved = estimate(whole[1, at, what], drawn[:, 1, at, what], clusters)
            told = {"value": value, "difference": moved if at else dict.fromkeys(value)}
            rows.append({"model": name, "scans": change, "figure": figure, **flat(told), "n": n})
        for figure, count in calls(first, pooled[change], wide).items() if at else ():
            blank = dict.fromkeys(rows[0], "")
            rows.append(
                {**blank, "model": name, "scans": change, "figure": figure, "value": count, "n": len(first)}
            )
    return rows


def calls(before: Predictions, after: Predictions, wide: NDArray[np.bool_]) -> dict[str, int]:
    """Count the scans that are called otherwise: all, the wide ones, and by the class that is now called."""
    moved = before.predicted != after.predicted
    now = {f"called {label} anew": moved & (after.predicted == k) for k, label in enumerate(LABELS)}
    found = {"calls changed": moved, "calls changed, 768 or 1536 columns": moved & wide, **now}
    return {name: int(chosen.sum()) for name, chosen in found.items()}


def flat(told: dict[str, dict[str, float | None]]) -> dict[str, str]:
    return {
        name if end == "value" else f"{name}_{end}": "" if number is None else f"{number:.4f}"
        for name, each in told.items()
        for end, number in each.items()
    }


if __name__ == "__main__":
    main()
