"""Is a scan and its mirror image, averaged, a better answer than the scan alone? It costs twice the time.

    python benchmarks/flip.py OUT.csv SCANS SPLITS MODEL MODEL ...

In doubt are scans to whose classes the network gives no probability of `DOUBT` or more; averaged alone, they
are what `octlet export --second-look` asks for. SPLITS is a folder with fold-0.csv, fold-1.csv ..., one for
each model file, which sees its own test scans. --one-look keeps what they say of each as it is.
"""

import argparse
from pathlib import Path

import numpy as np

from octlet.core.files import csv_of, write_text
from octlet.core.labels import index_of
from octlet.data.source import open_source, read_pixels
from octlet.data.split import read_split
from octlet.evaluate.paired import compare
from octlet.evaluate.predictions import Predictions, merge, write_predictions
from octlet.evaluate.summary import summarise
from octlet.runtime.predictor import Predictor, in_doubt, softmax

DOUBT = 0.7
WAYS = ("as it is", "mirrored", "both, mean of logits", "both, mean of probabilities", "both where in doubt")
SHOWN = ("accuracy", "balanced_accuracy", "macro_auc", "urgent_called_normal_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("out", "scans", "splits"):
        parser.add_argument(name, type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--one-look", type=Path, help="predictions, as CSV")
    args = parser.parse_args()
    folds = list(zip(args.models, sorted(args.splits.glob("fold-*.csv")), strict=True))
    parts = [said(model, args.scans, split) for model, split in folds]
    pooled = [merge([part[way] for part in parts]) for way in range(len(WAYS))]
    in_doubt = float((pooled[0].probabilities.max(axis=1) < DOUBT).mean())
    looks = (1.0, 1.0, 2.0, 2.0, 1 + in_doubt)
    rows = [row_of(name, pooled[0], each) for name, each in zip(WAYS, pooled, strict=True)]
    write_rows(args.out, [row | {"looks": f"{each:.3f}"} for row, each in zip(rows, looks, strict=True)])
    if args.one_look:
        write_predictions(args.one_look, pooled[0])


def row_of(way: str, reference: Predictions, predictions: Predictions) -> dict[str, str]:
    """Return the figures of predictions, and what their balanced accuracy is above the reference's."""
    summary, against = summarise(predictions), compare(reference, predictions)["difference"]
    figures = {key: summary[key] for key in SHOWN} | {"difference": against["balanced_accuracy"]}
    told = {
        f"{key}{suffix}": f"{value[part]:.4f}"
        for key, value in figures.items()
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))
    }
    return {"way": way, "scans": str(summary["n"]), **told}


def write_rows(out: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as CSV, and print what matters most of them."""
    write_text(out, csv_of(rows))
    for row in rows:
        shown = ("way", "accuracy", "balanced_accuracy", "macro_auc", "difference")
        print(*(f"{row[key]!s:28}" for key in shown))


def said(model: Path, scans: Path, split: Path) -> list[Predictions]:
    """Return what a model says of its test scans, by each of `WAYS`."""
    predictor, root = Predictor.open(model, threads=1), open_source(scans).root
    rows = [row for row in read_split(split) if row.split == "test"]
    logits = np.empty((2, len(rows), 4))
    for k, row in enumerate(rows):
        gray = read_pixels(root, row.path)
        both = [predictor.prepare(each, row.path) for each in (gray, np.ascontiguousarray(gray[:, ::-1]))]
        logits[:, k] = predictor.compute(both).logits
    shares = [softmax(each) for each in logits]
    both, doubt = softmax(logits.mean(axis=0)), in_doubt(logits[0], DOUBT)[:, None]
    ways = (*shares, both, np.mean(shares, axis=0), np.where(doubt, both, shares[0]))
    labels = np.array([index_of(row.label) for row in rows])
    paths, patients = tuple(row.path for row in rows), tuple(row.patient for row in rows)
    return [Predictions(paths, labels, patients, each) for each in ways]


if __name__ == "__main__":
    main()
