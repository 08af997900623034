"""How much of a scan's original shape each way of fitting it to a square still tells.

Features of the ImageNet ResNet-101 V2, and a class-balanced logistic regression on them in five folds by
patient, once for the four classes and twice for the shape: the width of NORMAL scans, and 512x512 against
512x496 among DME. Chance is 1/4, 1/3 and 1/2; for the shape, nearer to chance is better.

    OCTLET_DATA=... OCTLET_WEIGHTS=... python benchmarks/shape_leak.py docs/results/shape-leak.csv
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from octlet.core.files import csv_of, write_text
from octlet.core.image import Gray, normalise, padding_mask, prepare
from octlet.data.source import open_source, read_pixels
from octlet.models.resnet import build
from octlet.models.spec import named_spec
from octlet.models.weights import load_pretrained

SIZE = 224


def resized(gray: Gray, width: int = SIZE, height: int = SIZE) -> Gray:
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))


def octlet(gray: Gray) -> Gray:
    """What Octlet does: a window about the retina, each axis scaled by itself."""
    return prepare(gray, SIZE).pixels


def whole_height(gray: Gray) -> Gray:
    """The same without the window."""
    return resized(without_padding(gray))


def plain(gray: Gray) -> Gray:
    """Resize as it comes, padding and all."""
    return resized(gray)


def without_padding(gray: Gray) -> Gray:
    padding = padding_mask(gray)
    rows, columns = np.flatnonzero(~padding.all(1)), np.flatnonzero(~padding.all(0))
    filled = np.where(padding, np.uint8(np.median(gray[~padding])), gray)
    return filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def centre_square(gray: Gray) -> Gray:
    """Crop padding, then the square in the middle: no distortion, but the sides are lost."""
    scan = without_padding(gray)
    side = min(scan.shape)
    top, left = (scan.shape[0] - side) // 2, (scan.shape[1] - side) // 2
    return resized(scan[top : top + side, left : left + side])


def letterbox(gray: Gray) -> Gray:
    """Crop padding, keep the aspect ratio, fill up with the background's level."""
    scan = without_padding(gray)
    scale = SIZE / max(scan.shape)
    height, width = (max(1, round(side * scale)) for side in scan.shape)
    square = np.full((SIZE, SIZE), int(np.median(scan)), np.uint8)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    square[top : top + height, left : left + width] = resized(scan, width, height)
    return square


FITS: tuple[Callable[[Gray], Gray], ...] = (octlet, whole_height, plain, centre_square, letterbox)


def features(scans: np.ndarray, weights: str) -> np.ndarray:
    net = build(named_spec("resnet101v2")).eval().to(memory_format=torch.channels_last)
    load_pretrained(net, weights)
    rows = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for first in range(0, len(scans), 16):
            batch = torch.from_numpy(normalise(scans[first : first + 16]))
            rows.append(net(batch.contiguous(memory_format=torch.channels_last)).embedding.float().numpy())
    return np.concatenate(rows)


def told(features: np.ndarray, target: np.ndarray, patients: np.ndarray) -> float:
    """Return the cross-validated balanced accuracy of reading `target` off the features."""
    reader = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.003, max_iter=1000, class_weight="balanced")
    )
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    called = cross_val_predict(reader, features, target, groups=patients, cv=folds)
    return float(balanced_accuracy_score(target, called))


def main(out: Path) -> None:
    source = open_source(Path(os.environ["OCTLET_DATA"]))
    items = list(source)
    grays = [read_pixels(source.root, item.path) for item in items]
    labels = np.array([item.label for item in items])
    patients = np.array([item.patient for item in items])
    shapes = np.array([f"{gray.shape[1]}x{gray.shape[0]}" for gray in grays])
    normal = (labels == "NORMAL") & np.isin(shapes, ["512x496", "768x496", "1536x496"])
    edema = (labels == "DME") & np.isin(shapes, ["512x496", "512x512"])
    rows = []
    for fit in FITS:
        found = features(np.stack([fit(gray) for gray in grays]), os.environ["OCTLET_WEIGHTS"])
        rows.append(
            {
                "fit": fit.__name__,
                "classes": round(told(found, labels, patients), 3),
                "width_among_normal": round(told(found[normal], shapes[normal], patients[normal]), 3),
                "height_among_dme": round(told(found[edema], shapes[edema], patients[edema]), 3),
            }
        )
        print(rows[-1], flush=True)
    write_text(out, csv_of(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
