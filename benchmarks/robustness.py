"""How corrupted scans are classified: each fold's dense and small model on its own test scans, side by side.

    python benchmarks/robustness.py OUT SCANS SPLITS --dense MODEL ... --small MODEL ... [--every N] \
        [--work FOLDER]

SPLITS is a folder with fold-0.csv, fold-1.csv ..., one for each model file of either list. Every test scan is
corrupted as `octlet.data.corruption` has it, six ways at five strengths, alike for both models. `--every N`
takes of a fold's test scans, their paths sorted, the first and each N-th after it, which keeps the shares of
the classes.

Writes OUT.csv and OUT.png. What a model predicted is kept in FOLDER (OUT.work), by the content of the model
and of the corruptions, and not predicted again.
"""

import argparse
import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octlet.cli.ui import bar
from octlet.core.errors import UsageError
from octlet.core.files import csv_of, sha256_of, write_bytes, write_text
from octlet.core.image import Gray
from octlet.core.labels import LABELS, index_of
from octlet.core.quality import measure
from octlet.data import corruption
from octlet.data.corruption import CORRUPTIONS, SEVERITIES, corrupt
from octlet.data.source import read_pixels
from octlet.data.split import SplitRecord, read_split
from octlet.evaluate.bootstrap import clusters_of, resample
from octlet.evaluate.figures import LIGHT, canvas, encoded, recolour
from octlet.evaluate.predictions import Predictions, merge, read_predictions, write_predictions
from octlet.evaluate.summary import Estimate, estimate
from octlet.runtime.predictor import Predictor

Floats = NDArray[np.float64]
Row = dict[str, object]

CLEAN = ("none", 0)
CONDITIONS = (CLEAN, *((name, severity) for name in CORRUPTIONS for severity in SEVERITIES))
MODELS = ("dense", "small")
DIFFERENCE = "small minus dense"
BATCH = 16


@dataclass(frozen=True)
class Fold:
    """A fold's split, its two model files and the folder of what each predicted, and of what is refused."""

    split: Path
    models: dict[str, Path]
    kept: dict[str, Path]

    def file(self, what: str, condition: tuple[str, int]) -> Path:
        """Return where a condition's predictions by a model, or its refused scans, are kept."""
        return self.kept[what] / f"{condition[0]}-{condition[1]}-{what}.csv"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("scans", type=Path)
    words.add_argument("splits", type=Path)
    words.add_argument("--dense", type=Path, nargs="+", required=True)
    words.add_argument("--small", type=Path, nargs="+", required=True)
    words.add_argument("--every", type=int, default=1)
    words.add_argument("--work", type=Path)
    given = words.parse_args()
    splits = sorted(given.splits.glob("fold-*.csv"))
    if not len(splits) == len(given.dense) == len(given.small) or given.every < 1:
        raise UsageError(f"{len(splits)} splits need as many model files of each kind, and --every 1 or more")
    work = given.work or given.out.with_suffix(".work")
    folds = [
        keyed(split, dict(zip(MODELS, models, strict=True)), work, given.every)
        for split, *models in zip(splits, given.dense, given.small, strict=True)
    ]
    jobs = [(fold, condition) for fold in folds for condition in CONDITIONS]
    for job in bar("corrupting and predicting")(range(len(jobs))):
        predict(*jobs[job], given.scans, given.every)
    rows = tabulate(folds, given.every)
    write_csv(given.out.with_suffix(".csv"), rows)
    write_bytes(given.out.with_suffix(".png"), draw(rows))
    print("\n".join(markdown(rows)))


# Predicting -------------------------------------------------------------------------------------------


def keyed(split: Path, models: dict[str, Path], work: Path, every: int) -> Fold:
    """Return a fold whose folders are named after all that decides what they will hold."""

    def folder(*files: Path) -> Path:
        known = "".join(map(sha256_of, (split, *files, Path(corruption.__file__))))
        return work / f"{split.stem}-every-{every}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"

    return Fold(split, models, {"refused": folder()} | {name: folder(file) for name, file in models.items()})


def tested(split: Path, every: int) -> list[SplitRecord]:
    """Return each N-th test scan of a split, its paths sorted."""
    found = sorted((each for each in read_split(split) if each.split == "test"), key=lambda each: each.path)
    return found[::every]


@lru_cache(maxsize=1)
def pixels_of(split: Path, scans: Path, every: int) -> list[Gray]:
    return [read_pixels(scans, record.path) for record in tested(split, every)]


@lru_cache(maxsize=len(MODELS))
def opened(model: Path) -> Predictor:
    return Predictor.open(model, threads=1)


def predict(fold: Fold, condition: tuple[str, int], scans: Path, every: int) -> None:
    """Write what each model says of a fold's corrupted scans, and which are refused, unless that is there."""
    missing = [what for what in fold.kept if not fold.file(what, condition).exists()]
    if not missing:
        return
    records = tested(fold.split, every)
    paths = [each.path for each in records]
    grays = zip(pixels_of(fold.split, scans, every), paths, strict=True)
    seen = [corrupted(gray, path, condition) for gray, path in grays]
    for name in missing:
        if name == "refused":
            faults = [path for gray, path in zip(seen, paths, strict=True) if measure(gray).fault is not None]
            write_text(fold.file(name, condition), "".join(f"{path}\n" for path in faults))
        else:
            said = probabilities_of(opened(fold.models[name]), seen, paths)
            labels = np.array([index_of(each.label) for each in records], np.int64)
            patients = tuple(each.patient for each in records)
            write_predictions(fold.file(name, condition), Predictions(tuple(paths), labels, patients, said))


def probabilities_of(predictor: Predictor, grays: Sequence[Gray], names: Sequence[str]) -> Floats:
    prepared = [predictor.prepare(gray, name) for gray, name in zip(grays, names, strict=True)]
    batches = [prepared[start : start + BATCH] for start in range(0, len(prepared), BATCH)]
    return np.concatenate([predictor.score(batch).probabilities for batch in batches])


def corrupted(gray: Gray, path: str, condition: tuple[str, int]) -> Gray:
    """Corrupt a scan by chance that depends on its path and on what is done to it, and on nothing else."""
    name, severity = condition
    if condition == CLEAN:
        return gray
    seed = zlib.crc32(path.encode()), list(CORRUPTIONS).index(name), severity
    return corrupt(gray, name, severity, np.random.default_rng(seed))


# Figures with intervals -------------------------------------------------------------------------------


def shares(
    right: NDArray[np.bool_], subsets: NDArray[np.bool_], patients: Sequence[str]
) -> Callable[[Floats], Floats]:
    """Return the map from patients' weights to how much of each subset is right, in each of k conditions.

    Args:
        right: (n, k), whether a scan was called by its label.
        subsets: (n, q), the scans that each share is of.
        patients: n names.

    Returns:
        a function from (clusters, b) weights to (b, k, q) shares.
    """
    cluster, clusters = clusters_of(patients)
    whole = np.zeros((clusters, subsets.shape[1]))
    np.add.at(whole, cluster, subsets)
    part = np.zeros((clusters, right.shape[1], subsets.shape[1]))
    np.add.at(part, cluster, right[:, :, None] & subsets[:, None, :])

    def of(weights: Floats) -> Floats:
        counts = (weights.T @ part.reshape(clusters, -1)).reshape(-1, *part.shape[1:])
        scans = (weights.T @ whole)[:, None, :]
        return np.divide(counts, scans, out=np.full(counts.shape, np.nan), where=scans > 0)

    return of


def subsets_of(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (n, 5): all scans, and those of each class."""
    classes = labels[:, None] == np.arange(len(LABELS))
    return np.column_stack([np.ones(len(labels), bool), classes])


def groups() -> tuple[list[tuple[str, object]], Floats]:
    """Return the rows of the table and which conditions each is the mean of, (rows, conditions)."""
    names: list[tuple[str, object]] = [*CONDITIONS]
    weights = [*np.eye(len(CONDITIONS))]
    for name in (*CORRUPTIONS, "all"):
        chosen = np.array([each[1] > 0 and name in (each[0], "all") for each in CONDITIONS], float)
        names.append((name, "mean"))
        weights.append(chosen / chosen.sum())
    return names, np.stack(weights)


def tabulate(folds: Sequence[Fold], every: int) -> list[Row]:
    """Return each condition and mean: both models and their paired difference, with intervals."""
    pooled = {
        name: [merge([read_predictions(fold.file(name, each)) for fold in folds]) for each in CONDITIONS]
        for name in MODELS
    }
    first = pooled["dense"][0]
    right = [np.column_stack([each.predicted == each.labels for each in pooled[name]]) for name in MODELS]
    names, mixing = groups()
    of = shares(np.hstack(right), subsets_of(first.labels), first.patients)

    def statistics(weights: Floats) -> Floats:
        """Return (b, 2 * 3 * rows): accuracy and balanced accuracy of each model and the difference."""
        found = of(weights).reshape(weights.shape[1], len(MODELS), len(CONDITIONS), -1)
        both = np.stack([found[..., 0], np.nanmean(found[..., 1:], axis=-1)], axis=1)  # (b, 2, 2, conditions)
        mixed = both @ mixing.T
        return np.concatenate([mixed, mixed[:, :, 1:] - mixed[:, :, :1]], axis=2).reshape(len(mixed), -1)

    clusters = clusters_of(first.patients)[1]
    values = statistics(np.ones((clusters, 1)))[0]
    drawn = resample(first.patients, statistics).T
    kinds = (*MODELS, DIFFERENCE)
    told = [
        estimate(value, each, clusters, is_share=kind != DIFFERENCE)
        for value, each, kind in zip(values, drawn, np.repeat([*kinds, *kinds], len(names)), strict=True)
    ]
    table = np.array(told, object).reshape(2, len(kinds), len(names))
    refused = mixing @ [refused_share(folds, each, len(first)) for each in CONDITIONS]
    return [
        row(*names[at], kind, table[:, number, at], float(refused[at]), len(first), clusters, every)
        for at in range(len(names))
        for number, kind in enumerate(kinds)
    ]


def refused_share(folds: Sequence[Fold], condition: tuple[str, int], n: int) -> float:
    return sum(len(fold.file("refused", condition).read_text().splitlines()) for fold in folds) / n


def row(
    name: str,
    severity: object,
    model: str,
    told: Sequence[Estimate],
    refused: float,
    n: int,
    patients: int,
    every: int,
) -> Row:
    accuracy, balanced = ({key: "" if v is None else f"{v:.4f}" for key, v in each.items()} for each in told)
    return {
        "corruption": name,
        "severity": severity,
        "model": model,
        "accuracy": accuracy["value"],
        "low": accuracy["low"],
        "high": accuracy["high"],
        "balanced_accuracy": balanced["value"],
        "balanced_low": balanced["low"],
        "balanced_high": balanced["high"],
        "refused": "" if model == DIFFERENCE else f"{refused:.4f}",
        "n": n,
        "patients": patients,
        "every": every,
    }


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    write_text(path, csv_of(rows))


def markdown(rows: Sequence[Row]) -> list[str]:
    """Return the clean scans and the means over severities as the table of docs/robustness.md."""
    told = {(r["corruption"], r["model"]): r for r in rows if r["severity"] in (0, "mean")}
    lines = [
        "| accuracy, % | dense | small | small minus dense | refused, % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in (CLEAN[0], *CORRUPTIONS, "all"):
        cells = []
        for model in (*MODELS, DIFFERENCE):
            form = "+.1f" if model == DIFFERENCE else ".1f"
            value, low, high = (
                100 * float(str(told[name, model][key])) for key in ("accuracy", "low", "high")
            )
            cells.append(f"{value:{form}} ({low:{form}} to {high:{form}})")
        refused = 100 * float(str(told[name, "small"]["refused"]))
        lines.append(f"| {'clean' if name == CLEAN[0] else name} | {' | '.join(cells)} | {refused:.1f} |")
    return lines


# The figure -------------------------------------------------------------------------------------------

STYLES = {"dense": (LIGHT.bar, "-", "o"), "small": (LIGHT.classes[0], (0, (5, 1.5)), "s")}


def draw(rows: Sequence[Row]) -> bytes:
    """Draw accuracy against severity, a panel for each corruption, both models with their bands."""
    figure = canvas(9.6, 6.2, LIGHT)
    panels = figure.subplots(2, 3, sharex=True, sharey=True).ravel()
    for axes, name in zip(panels, CORRUPTIONS, strict=True):
        for model, (colour, dashes, mark) in STYLES.items():
            own = [
                r for r in rows if r["model"] == model and (r["corruption"], r["severity"]) in of_panel(name)
            ]
            value, low, high = (
                [100 * float(str(r[key])) for r in own] for key in ("accuracy", "low", "high")
            )
            axes.fill_between(range(6), low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                range(6), value, color=colour, linestyle=dashes, marker=mark, markersize=4.5, label=model
            )
        axes.set_title(name, loc="left", fontsize=10, color=LIGHT.ink)
        axes.set(xlim=(-0.2, 5.2), ylim=(0, 101))
        axes.set_xticks(range(6), ["clean", *map(str, SEVERITIES)])
        axes.tick_params(colors=LIGHT.ink, labelsize=8)
        axes.grid(color=LIGHT.faint, linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    recolour(panels[0].legend(frameon=False, loc="lower left", fontsize=9).get_texts(), LIGHT)
    figure.supylabel("accuracy, %", fontsize=9, color=LIGHT.ink)
    sample = f"{rows[0]['n']} unseen scans of {rows[0]['patients']} patients"
    told = f"severity; {sample}; bands: 95 %"
    figure.supxlabel(told, fontsize=9, color=LIGHT.ink)
    return encoded(figure)


def of_panel(name: str) -> set[tuple[str, object]]:
    return {CLEAN, *((name, severity) for severity in SEVERITIES)}


if __name__ == "__main__":
    main()
