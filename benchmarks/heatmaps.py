"""Do the class activation maps show what the network used?

    python benchmarks/heatmaps.py OUT SCANS SPLITS PHANTOM_MODEL MODEL MODEL ...

On real scans, each fold's model on its own test scans: the fifth of the map with most evidence for the called
class is blanked in the network's input, and its probability compared with what blanking another fifth leaves:
cells drawn at random, and the same shape moved sideways, which hides as much of the retina.

On simulated scans, whose lesions are known, with a model trained on such: the pointing game (Zhang et al.
2018, Int J Comput Vis 126:1084), a hit being a largest value within 15 pixels of the lesion; and the share of
the map's mass on the lesion, against the lesion's share of the area that the network saw.

Writes OUT.csv and OUT.png.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from octlet.core.files import csv_of, write_text
from octlet.core.image import Gray, Prepared, read_scan
from octlet.core.labels import LABELS
from octlet.data.phantom import simulate
from octlet.data.split import read_split
from octlet.evaluate.bootstrap import clusters_of, interval, resample
from octlet.evaluate.figures import LIGHT
from octlet.runtime.heatmap import strength
from octlet.runtime.predictor import Predictor

SHARE = 0.2  # of the map
TIMES = 5  # random masks for each scan
TOLERANCE = 15  # pixels, as Zhang et al.
PHANTOMS, SEED = 200, 90_000  # far from any seed that the demo draws
MASKS = ("top fifth of the map", "the same, moved sideways", "random fifth")


@dataclass(frozen=True)
class Drop:
    """By how much blanking each of `MASKS` lowered the called class's probability in a patient's scan."""

    patient: str
    label: str
    drops: tuple[float, ...]


def main(out: Path, scans: Path, splits: Path, phantom_model: Path, models: list[Path]) -> None:
    drops: list[Drop] = []
    for model, split in zip(models, sorted(splits.glob("fold-*.csv")), strict=True):
        predictor = Predictor.open(model, threads=1)
        rng = np.random.default_rng(0)
        tested = (record for record in read_split(split) if record.split == "test")
        drops += [drop(predictor, scans / each.path, each.patient, rng) for each in tested]
    hits, shares = pointing(Predictor.open(phantom_model, threads=1))
    rows = [*of_drops(drops), *of_pointing(hits, shares)]
    write_text(out.with_suffix(".csv"), csv_of(rows))
    for row in rows:
        print("  ".join(str(value) for value in row.values()))
    draw(out.with_suffix(".png"), drops, shares)


# Blanking ---------------------------------------------------------------------------------------------


def drop(predictor: Predictor, file: Path, patient: str, rng: np.random.Generator) -> Drop:
    prepared = predictor.prepare(read_scan(file))
    scores = predictor.score([prepared])
    called = int(scores.probabilities[0].argmax())
    cam = scores.cam[0, called]
    cells = round(SHARE * cam.size)
    top = np.zeros(cam.shape, bool)
    top.flat[np.argsort(-cam, axis=None, kind="stable")[:cells]] = True
    masks = [top, np.roll(top, cam.shape[1] // 2, axis=1)]
    for _ in range(TIMES):
        chosen = np.zeros(cam.shape, bool)
        chosen.flat[rng.choice(cam.size, cells, replace=False)] = True
        masks.append(chosen)
    left = predictor.score([blanked(prepared, mask) for mask in masks]).probabilities[:, called]
    lost = float(scores.probabilities[0, called]) - left
    return Drop(patient, LABELS[called], (float(lost[0]), float(lost[1]), float(lost[2:].mean())))


def blanked(prepared: Prepared, cells: NDArray[np.bool_]) -> Prepared:
    """Give the chosen cells of the map, each centred on pixel (s i, s j), the scan's median level."""
    stride = len(prepared.pixels) // len(cells)
    whole = np.kron(np.pad(cells, ((0, 1), (0, 1)), mode="edge"), np.ones((stride, stride), bool))
    mask = whole[stride // 2 :, stride // 2 :][: len(prepared.pixels), : len(prepared.pixels)]
    level = np.uint8(np.median(prepared.pixels))
    return Prepared(np.where(mask, level, prepared.pixels), prepared.box)


def of_drops(drops: list[Drop]) -> Iterator[dict[str, object]]:
    for position, name in enumerate(MASKS):
        values = np.array([each.drops[position] for each in drops])
        yield row(f"drop of probability, blanking {name}", values, [each.patient for each in drops])
    for label in LABELS:
        own = [each for each in drops if each.label == label]
        for position, name in enumerate(MASKS):
            values = np.array([each.drops[position] for each in own])
            yield row(f"{label}: {name}", values, [each.patient for each in own])
    for position in (1, 2):
        more = np.array([each.drops[0] > each.drops[position] for each in drops], float)
        yield row(f"scans that lose more than by: {MASKS[position]}", more, [each.patient for each in drops])


def row(what: str, values: NDArray[np.float64], clusters: list[str]) -> dict[str, object]:
    numbers, count = clusters_of(clusters)
    sums, sizes = np.bincount(numbers, values, count), np.bincount(numbers, minlength=count)
    low, high = interval(resample(clusters, lambda w: ((w.T @ sums) / (w.T @ sizes))[:, None])[:, 0])
    told = {"value": values.mean(), "low": low, "high": high}
    return {"what": what, **{key: f"{value:.4f}" for key, value in told.items()}, "n": len(values)}


# Pointing ---------------------------------------------------------------------------------------------


def pointing(predictor: Predictor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return whether each called phantom's map points at its lesion, (n,), and shares, (n, 2).

    A phantom with a lesion that is called as another class is left out. The shares are those of the map's
    mass on the lesion and of the area that the lesion covers.
    """
    hits, shares = [], []
    for number in range(PHANTOMS):
        label = LABELS[number % 3]  # NORMAL has nothing to point at
        phantom = simulate(label, np.random.default_rng(SEED + number))
        prepared = predictor.prepare(phantom.pixels)
        scores = predictor.score([prepared])
        if LABELS[int(scores.probabilities[0].argmax())] != label:
            continue
        left, top, right, bottom = prepared.box
        cam = scores.cam[0, LABELS.index(label)]
        map_ = strength(cam, predictor.grid, right - left, bottom - top)
        lesion = phantom.mask[top:bottom, left:right]
        if not lesion.any() or not map_.any():
            continue
        place = np.unravel_index(int(map_.argmax()), map_.shape)
        hits.append(float(near(lesion)[place]))
        shares.append((float(map_[lesion].sum() / map_.sum()), float(lesion.mean())))
    return np.array(hits), np.array(shares)


def near(lesion: NDArray[np.bool_]) -> Gray:
    image = Image.fromarray(lesion.astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.MaxFilter(2 * TOLERANCE + 1)))


def of_pointing(hits: NDArray[np.float64], shares: NDArray[np.float64]) -> Iterator[dict[str, object]]:
    each = [str(number) for number in range(len(hits))]
    yield row("phantoms: the map points at the lesion", hits, each)
    yield row("phantoms: share of the map's mass on the lesion", shares[:, 0], each)
    yield row("phantoms: share of the area that the lesion covers", shares[:, 1], each)


def draw(path: Path, drops: list[Drop], shares: NDArray[np.float64]) -> None:
    figure = Figure(figsize=(11, 4.2), dpi=150, layout="constrained", facecolor=LIGHT.paper)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = (LIGHT.bar, "#e69f00", "#999999")
    groups = ("all", *LABELS)
    for position, (name, colour) in enumerate(zip(MASKS, colours, strict=True)):
        means = [
            100 * np.mean([each.drops[position] for each in drops if group in ("all", each.label)])
            for group in groups
        ]
        places = np.arange(len(groups)) + 0.27 * (position - 1)
        left.bar(places, means, 0.25, color=colour, label=name)
    left.set_xticks(range(len(groups)), groups)
    left.set_xlabel("scans called")
    left.set_ylabel("probability of the called class lost, points")
    left.set_title(f"Blanking a fifth of {len(drops)} unseen scans", loc="left", fontsize=10)
    left.legend(frameon=False)
    right.scatter(100 * shares[:, 1], 100 * shares[:, 0], 14, color=LIGHT.bar, alpha=0.6)
    reach = [0.2, 100]
    right.plot(reach, reach, "--", color=LIGHT.ink, linewidth=1)
    right.set(xscale="log", yscale="log", xlim=reach, ylim=reach)
    right.set(xlabel="area of the lesion, %", ylabel="map's mass on the lesion, %")
    right.set_title(f"{len(shares)} phantoms; on the line: no better than chance", loc="left", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]), list(map(Path, sys.argv[5:])))
