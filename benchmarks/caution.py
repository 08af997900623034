"""What does it cost to call fewer urgent scans NORMAL?

    python benchmarks/caution.py OUT SPLITS NAME=PREDICTIONS.csv ...

With caution the odds of NORMAL are divided by a factor. SPLITS is a folder with fold-0.csv, fold-1.csv ...,
of which each PREDICTIONS.csv holds the test scans. OUT.csv has for each NAME the figures without caution, and
for each share of `MISSED` those where every fold's factor is the least with which the OTHER folds call at
most that share of their urgent scans NORMAL. OUT.png shows every factor, chosen by nothing.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import InputError
from octlet.core.files import csv_of, write_bytes, write_text
from octlet.core.labels import LABELS, index_of
from octlet.data.split import read_split
from octlet.evaluate import metrics
from octlet.evaluate.figures import LIGHT, canvas, encoded, recolour
from octlet.evaluate.predictions import Predictions, read_predictions
from octlet.evaluate.summary import summarise

MISSED = (0.01, 0.005)
FACTORS = np.exp(np.arange(0, 8, 0.02))
NORMAL = index_of("NORMAL")
ENDS = (("value", ""), ("low", "_low"), ("high", "_high"))
SHOWN = 80  # NORMAL scans called otherwise, where the picture ends

Floats = NDArray[np.float64]


def main(out: Path, splits: Path, files: Mapping[str, Path]) -> None:
    folds = [
        {row.path for row in read_split(file) if row.split == "test"}
        for file in sorted(splits.glob("fold-*.csv"))
    ]
    said = {name: read_predictions(file) for name, file in files.items()}
    rows = [row for name, each in said.items() for row in rows_of(name, each, masks_of(each, folds, splits))]
    write_text(out.with_suffix(".csv"), csv_of(rows))
    write_bytes(out.with_suffix(".png"), drawn(said))


def masks_of(said: Predictions, folds: Sequence[set[str]], splits: Path) -> list[NDArray[np.bool_]]:
    """Return which scans each fold tests; raises InputError where a scan is not in one fold."""
    masks = [np.array([path in paths for path in said.paths]) for paths in folds]
    if not masks or not np.array_equal(np.sum(masks, axis=0), np.ones(len(said))):
        raise InputError("not every scan is tested in one of these folds", path=splits)
    return masks


def rows_of(name: str, said: Predictions, masks: Sequence[NDArray[np.bool_]]) -> Iterator[dict[str, object]]:
    """Yield the row without caution, then one for each share of `MISSED`."""
    yield row_of(name, "", np.ones(len(said)), said)
    for share in MISSED:
        factors = np.ones(len(said))
        for mask in masks:
            factors[mask] = least_factor(said.select(np.flatnonzero(~mask)), share)
        yield row_of(name, share, factors, said)


def least_factor(said: Predictions, share: float) -> float:
    """Return the least factor with which at most this share of the urgent scans is called NORMAL."""
    urgent = metrics.URGENT[said.labels]
    for factor in FACTORS:
        if (cautious(said, factor).predicted[urgent] == NORMAL).mean() <= share:
            return float(factor)
    raise SystemExit(f"no factor up to {FACTORS[-1]:.0f} misses as few as {share:.1%}")


def cautious(said: Predictions, factors: Floats | float) -> Predictions:
    """Return the predictions with the odds of NORMAL divided by factors, one for all or one for each scan."""
    p = said.probabilities.copy()
    p[:, NORMAL] /= factors
    return Predictions(said.paths, said.labels, said.patients, p / p.sum(axis=1, keepdims=True))


def row_of(name: str, share: float | str, factors: Floats, said: Predictions) -> dict[str, object]:
    summary = summarise(cautious(said, factors))
    row: dict[str, object] = {"model": name, "allowed": share}
    row |= {"factor_least": f"{factors.min():.2f}", "factor_most": f"{factors.max():.2f}"}
    row["urgent_called_normal"] = summary["urgent_called_normal"]
    held = summary["per_class"]["NORMAL"]
    figures = {key: summary[key] for key in ("urgent_called_normal_rate", "accuracy", "balanced_accuracy")}
    figures["normal_called_normal"] = {"value": held["sensitivity"], **held["intervals"]["sensitivity"]}
    for key, each in figures.items():
        row |= {f"{key}{end}": f"{each[part]:.4f}" for part, end in ENDS}
    return row


def drawn(said: Mapping[str, Predictions]) -> bytes:
    """Draw urgent scans called NORMAL over NORMAL scans called otherwise, both counted."""
    figure = canvas(7.2, 4.2, LIGHT)
    axes = figure.subplots()
    for (name, each), colour, mark in zip(said.items(), LIGHT.classes, "osD^", strict=False):
        urgent, normal = metrics.URGENT[each.labels], each.labels == NORMAL
        called = np.array([cautious(each, factor).predicted == NORMAL for factor in FACTORS])
        x, y = (~called[:, normal]).sum(axis=1), called[:, urgent].sum(axis=1)
        axes.step(x, y, where="post", color=colour, linewidth=1.6)
        axes.plot(x[0], y[0], mark, color=colour, label=f"{name} (mark: without caution)")
    counts = np.bincount(each.labels, minlength=len(LABELS))
    axes.axhline(0.01 * urgent.sum(), color=LIGHT.ink, linewidth=0.8, linestyle=":")
    axes.annotate(
        "1 % of urgent",
        (SHOWN - 1, 0.01 * urgent.sum()),
        ha="right",
        va="bottom",
        fontsize=9,
        color=LIGHT.ink,
    )
    axes.set(xlim=(0, SHOWN), ylim=(-0.15, None))
    axes.set_xlabel(f"NORMAL scans called otherwise, of {counts[NORMAL]}")
    axes.set_ylabel(f"urgent scans called NORMAL, of {urgent.sum()}")
    axes.tick_params(colors=LIGHT.ink)
    axes.spines[["top", "right"]].set_visible(False)
    recolour([axes.xaxis.label, axes.yaxis.label, *axes.legend(frameon=False, fontsize=9).get_texts()], LIGHT)
    return encoded(figure)


if __name__ == "__main__":
    pairs = (word.split("=", 1) for word in sys.argv[3:])
    main(Path(sys.argv[1]), Path(sys.argv[2]), {name: Path(file) for name, file in pairs})
