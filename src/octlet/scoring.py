"""From a model file and labelled scans, or from predictions files, to what is evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import InputError, UsageError
from octlet.core.files import sha256_of, writing_to
from octlet.core.image import Gray, Prepared
from octlet.core.labels import LABELS, index_of
from octlet.core.prediction import Prediction
from octlet.data.index import Progress
from octlet.data.source import Item, is_unknown, open_source, read_pixels
from octlet.data.split import SplitRecord, check_leaks, read_split
from octlet.evaluate.bootstrap import RESAMPLES
from octlet.evaluate.doubt import doubt_of
from octlet.evaluate.folds import mean_of_folds, shared_patients
from octlet.evaluate.predictions import Predictions, check_names, merge, read_predictions
from octlet.evaluate.report import write_evaluation
from octlet.evaluate.summary import summarise
from octlet.runtime.predictor import Predictor

BATCH = 16


@dataclass(frozen=True)
class Request:
    """The labelled scans that are asked for: a folder, and which of its scans."""

    folder: Path | None
    split: Path | None
    subset: str
    threads: int | None


@dataclass(frozen=True)
class Scored:
    """Predictions, what made them (`name` and `sha256` at least), and the scans that could not be read.

    `said` is what a calibrated model file judged of each scan; without one it is empty. `folds` are the parts
    that were pooled.
    """

    predictions: Predictions
    identity: dict[str, Any]
    unreadable: tuple[InputError, ...] = ()
    said: tuple[Prediction, ...] = ()
    folds: tuple[Predictions, ...] = ()


def is_predictions(source: Path) -> bool:
    """Tell predictions from a model file, by the name's ending."""
    return source.suffix.lower() == ".csv"


def load(source: Path, request: Request, progress: Progress = iter) -> Scored:
    """Read predictions, or run a model file on the requested scans.

    Raises UsageError where a model file comes without a folder, and what reading and running raise.
    """
    if is_predictions(source):
        return Scored(read_predictions(source), {"name": str(source), "sha256": sha256_of(source)})
    if request.folder is None:
        raise UsageError("a model file needs labelled scans", path=source, remedy="give their folder as DIR")
    predictor = Predictor.open(source, threads=request.threads)
    root, items = _requested(request.folder, request.split, request.subset)
    predictions, said, unreadable = _run(predictor, root, items, progress)
    return Scored(predictions, {**predictor.identity, **_told(request)}, tuple(unreadable), tuple(said))


def pool(parts: Sequence[Scored]) -> Scored:
    """Merge the test folds of a cross-validation; raises InputError where a scan stands in two."""
    if len(parts) == 1:
        return parts[0]
    files = {part.identity["name"]: part.identity["sha256"] for part in parts}
    identity = {"name": f"{len(parts)} pooled folds", "files": files}
    folds = tuple(part.predictions for part in parts)
    return Scored(merge(folds), identity, folds=folds)


def notes_on(scored: Scored) -> list[str]:
    """Return what a reader must know of the scans and patients behind the figures."""
    n, unknown = len(scored.predictions), sum(map(is_unknown, scored.predictions.patients))
    notes = []
    if unknown:
        notes.append(
            f"{unknown} of {n} scans have no known patient and count as a patient each; if patients have "
            "several of them, the intervals are too narrow."
        )
    if crossed := shared_patients(scored.folds):
        notes.append(f"patients in several folds: {crossed}. No mean of the folds is given.")
    if scored.unreadable:
        notes.append(f"{len(scored.unreadable)} scans could not be read and are not counted.")
    return notes


def evaluate_to(folder: Path, scored: Scored, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Measure, write the evaluation's folder (see `write_evaluation`) and return what metrics.json holds.

    Raises UsageError where the folder cannot be written to.
    """
    notes = notes_on(scored)
    summary = {
        **summarise(scored.predictions, seed=seed, resamples=resamples),
        **_of_folds(scored.folds, resamples, seed),
        **_doubt(scored, resamples, seed),
        "model": scored.identity,
        "unreadable": [error.as_dict() for error in scored.unreadable],
        "notes": notes,
    }
    with writing_to(folder):
        write_evaluation(folder, scored.predictions, summary, model=scored.identity, notes=notes)
    return summary


def _of_folds(folds: Sequence[Predictions], resamples: int, seed: int) -> dict[str, Any]:
    if not folds or shared_patients(folds):
        return {}
    return {"mean_of_folds": mean_of_folds(folds, seed=seed, resamples=resamples)}


def _doubt(scored: Scored, resamples: int, seed: int) -> dict[str, Any]:
    if not scored.said:
        return {}
    labels = [LABELS[number] for number in scored.predictions.labels]
    patients = scored.predictions.patients
    return {"doubt": doubt_of(labels, patients, scored.said, resamples=resamples, seed=seed)}


def _told(request: Request) -> dict[str, str]:
    told = {"scans": str(request.folder)}
    return told if request.split is None else {**told, "split": str(request.split), "subset": request.subset}


def _requested(
    folder: Path, split: Path | None, subset: str
) -> tuple[Path, Sequence[Item] | Sequence[SplitRecord]]:
    source = open_source(folder)
    if split is None:
        return source.root, source.items
    records = read_split(split)
    check_leaks(records)
    return source.root, subset_of(records, subset, split)


def subset_of(records: Sequence[SplitRecord], name: str, split: Path) -> list[SplitRecord]:
    """Return a split's scans of one set; InputError, naming its file, where there is none."""
    chosen = [record for record in records if record.split == name]
    if not chosen:
        known = ", ".join(sorted({record.split for record in records}))
        raise InputError(f"no scan with split '{name}'", path=split, remedy=f"it holds {known or 'none'}")
    return chosen


def _run(
    predictor: Predictor, root: Path, items: Sequence[Item] | Sequence[SplitRecord], progress: Progress
) -> tuple[Predictions, list[Prediction], list[InputError]]:
    check_names([item.path for item in items], [item.patient for item in items])  # not after an hour's work
    used: list[Item | SplitRecord] = []
    rows: list[NDArray[np.float64]] = []
    said: list[Prediction] = []
    unreadable: list[InputError] = []
    for start in progress(range(0, len(items), BATCH)):
        read = [
            (item, *scan)
            for item in items[start : start + BATCH]
            if (scan := _read(predictor, root, item, unreadable))
        ]
        if not read:
            continue
        scores = predictor.score([prepared for _, _, prepared in read])
        used.extend(item for item, _, _ in read)
        rows.append(scores.probabilities)
        if predictor.trust is not None:
            said += [
                predictor.judge(gray, item.path, scores, row) for row, (item, gray, _) in enumerate(read)
            ]
    if not used:
        remedy = f"the first of {len(unreadable)}: {unreadable[0]}" if unreadable else ""
        raise InputError("no scan could be read", path=root, remedy=remedy)
    labels = np.array([index_of(item.label) for item in used], np.int64)
    paths, patients = tuple(item.path for item in used), tuple(item.patient for item in used)
    return Predictions(paths, labels, patients, np.concatenate(rows)), said, unreadable


def _read(
    predictor: Predictor, root: Path, item: Item | SplitRecord, unreadable: list[InputError]
) -> tuple[Gray, Prepared] | None:
    try:
        gray = read_pixels(root, item.path)
        return gray, predictor.prepare(gray, item.path)
    except InputError as error:
        unreadable.append(error)
        return None
