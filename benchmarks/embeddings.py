"""What tells an image that is no OCT: the embedding as it is, or its direction alone?

    python benchmarks/embeddings.py OUT.csv SCANS NOT_OCT SPLITS MODEL MODEL ... [--every N]

SPLITS is a folder with fold-0.csv, fold-1.csv ..., of which as many are taken as there are model files, two
at least; NOT_OCT is what `benchmarks/not_oct.py` wrote. For each fold the prototypes are those of its
training scans, and the limit is that of `octlet calibrate`, fitted on what the OTHER folds' models said of
their test scans. Corrupted are every N-th of its test scans, in each way of `octlet.data.corruption`, but for
what is refused as too poor.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octlet.calibration import REFUSAL
from octlet.cli.ui import bar
from octlet.core.errors import InputError
from octlet.core.files import csv_of, write_text
from octlet.core.image import Gray, read_scan
from octlet.core.labels import index_of
from octlet.core.quality import measure
from octlet.core.trust import distances, unit_length
from octlet.data.corruption import CORRUPTIONS, SEVERITIES, corrupt
from octlet.data.split import SplitRecord, read_split
from octlet.evaluate.doubt import share_of
from octlet.evaluate.trust import distance_limit, prototypes
from octlet.runtime.predictor import Predictor

Floats = NDArray[np.float64]
STRENGTHS = (SEVERITIES[0], SEVERITIES[len(SEVERITIES) // 2], SEVERITIES[-1])


WAYS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "as it is": lambda embeddings: embeddings,
    "of length 1": unit_length,
}


class Fold:
    """A fold's network: how far images of each group lie from its training scans, by each embedding."""

    def __init__(self, model: Path, split: Path, scans: Path) -> None:
        self.predictor, self.scans = Predictor.open(model, threads=1), scans
        self.records = read_split(split)
        train = self.of("train")
        labels = np.array([index_of(each.label) for each in train], np.int64)
        embeddings = self.embeddings(map(self.read, train))
        self.known = {name: prototypes(way(embeddings), labels) for name, way in WAYS.items()}

    def of(self, subset: str) -> list[SplitRecord]:
        """Return a subset's scans in the order of their paths."""
        return sorted((each for each in self.records if each.split == subset), key=lambda each: each.path)

    def read(self, record: SplitRecord) -> Gray:
        """Return a scan's pixels."""
        return read_scan(self.scans / record.path)

    def embeddings(self, images: Iterable[Gray]) -> NDArray[np.float32]:
        """Return (n, D)."""
        found = [self.predictor.compute([self.predictor.prepare(each)]).embedding for each in images]
        return np.concatenate(found)

    def far(self, images: Iterable[Gray]) -> dict[str, Floats]:
        """Return for each embedding the distances (n,) of images."""
        found = self.embeddings(images)
        return {name: distances(way(found), *self.known[name]) for name, way in WAYS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    for name in ("scans", "strange", "splits"):
        parser.add_argument(name, type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=4)
    asked = parser.parse_args()
    if len(asked.models) < 2:
        parser.error("a limit is fitted on other folds: give two model files at least")
    splits = sorted(asked.splits.glob("fold-*.csv"))
    strange = list(readable(asked.strange))
    found: list[dict[str, tuple[list[str], dict[str, Floats]]]] = []
    for k in bar("folds")(range(len(asked.models))):
        fold = Fold(asked.models[k], splits[k], asked.scans)
        found.append(dict(seen(fold, strange, asked.every)))
    rows = list(rows_of(found))
    write_text(asked.out, csv_of(rows))
    for row in rows:
        print("  ".join(f"{value!s:>16}" for value in row.values()))


def readable(folder: Path) -> Iterable[tuple[str, Gray]]:
    for file in sorted(folder.glob("*/*.png")):
        try:
            yield file.name, read_scan(file)
        except InputError as error:  # white throughout: refused before any model sees it
            print(f"refused as unreadable: {error}")


def seen(
    fold: Fold, strange: list[tuple[str, Gray]], every: int
) -> Iterable[tuple[str, tuple[list[str], dict[str, Floats]]]]:
    """Give for each group of images what draws stay together, and the distances by each embedding."""
    test = fold.of("test")
    yield "scans", ([each.patient for each in test], fold.far(map(fold.read, test)))
    yield "no OCT", ([name for name, _ in strange], fold.far(gray for _, gray in strange))
    for severity in STRENGTHS:
        names, images = [], []
        for record in test[::every]:
            for name in CORRUPTIONS:
                rng = np.random.default_rng([len(names), severity])
                gray = corrupt(fold.read(record), name, severity, rng)
                if measure(gray).fault is None:
                    names.append(record.patient)
                    images.append(gray)
        yield f"corrupted, {severity}", (names, fold.far(images))


def rows_of(found: list[dict[str, tuple[list[str], dict[str, Floats]]]]) -> Iterable[dict[str, object]]:
    for embedding in WAYS:
        marks: defaultdict[str, list[bool]] = defaultdict(list)
        draws: defaultdict[str, list[str]] = defaultdict(list)
        for k, fold in enumerate(found):
            others = [each["scans"][1][embedding] for each in found[:k] + found[k + 1 :]]
            limit = distance_limit(np.concatenate(others), REFUSAL)
            for group, (names, far) in fold.items():
                marks[group] += (far[embedding] > limit).tolist()
                draws[group] += names
        for group, refused in marks.items():
            share = share_of(refused, draws[group])
            told = {key: f"{share[key]:.4f}" for key in ("value", "low", "high")}
            yield {"embedding": embedding, "refused": group, **told, "n": share["n"]}


if __name__ == "__main__":
    main()
