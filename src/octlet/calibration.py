"""Fit how far to rely on a model file, on scans that it has not seen, and write that into the file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octlet.core.bundle import CARD, Bundle, Manifest, write_bundle
from octlet.core.errors import InputError, UsageError
from octlet.core.files import sha256_of, writing_to
from octlet.core.labels import LABELS, index_of
from octlet.core.layout import MEASURES
from octlet.core.quality import measure
from octlet.core.trust import Calibration, Layout, Prototypes, Thresholds, distances, off_centre
from octlet.data.index import Progress
from octlet.data.source import open_source, read_pixels
from octlet.data.split import SplitRecord, check_leaks, read_split
from octlet.evaluate.calibration import expected_calibration_error
from octlet.evaluate.held_out import HeldOut, pool, read_held_out, write_held_out
from octlet.evaluate.trust import (
    confidence_limit,
    conformal_thresholds,
    distance_limit,
    fit_temperature,
    layout_of_many,
    prototypes,
)
from octlet.export.card import FOLDS, TEST, with_notes, with_trust
from octlet.runtime.predictor import Predictor, softmax
from octlet.scoring import subset_of

BATCH = 16
PERFORMANCE = ("accuracy", "balanced_accuracy", "macro_auc", "urgent_auc", "urgent_called_normal_rate")
_INTERVAL = ("value", "low", "high")
COVERAGE, DOUBT, REFUSAL = 0.95, 0.1, 0.02


@dataclass(frozen=True)
class Plan:
    """What to fit on.

    Attributes:
        data: folder of labelled scans.
        split: CSV file of `octlet data split`; its training scans make the prototypes.
        subset: of the split, the scans to fit on.
        pooled: files of held-out scores to fit on instead.
        coverage: of each class, the share of scans whose set shall hold their class, 0 to 1.
        doubt: share of scans like those of training whose label may be called uncertain, 0 to 1.
        refusal: share of scans like those of training that may be refused, 0 to 1: half of it for their
            distance from what the network knows, half for their layout.
        performance: metrics.json of an evaluation on test scans, for the file to tell of itself.
        expected: metrics.json of a cross-validation, for a model that was trained on all of its scans.
        notes: Markdown for the model card.
    """

    data: Path
    split: Path
    subset: str = "val"
    pooled: tuple[Path, ...] = ()
    coverage: float = COVERAGE
    doubt: float = DOUBT
    refusal: float = REFUSAL
    performance: Path | None = None
    expected: Path | None = None
    notes: Path | None = None


def calibrate(
    predictor: Predictor, plan: Plan, *, out: Path | None, scores: Path | None, progress: Progress = iter
) -> dict[str, Any]:
    """Fit, and write a calibrated model file, the scores that it was fitted on, or both.

    Args:
        predictor: the model file, in any engine.
        plan: what to fit on.
        out: the new model file, which may be the old one.
        scores: CSV file for the held-out scores.
        progress: a wrapper of a counting iterable.

    Returns:
        Plain JSON types: calibration, thresholds, layout, what they were fitted on, and the files written.

    Raises:
        UsageError: a training or test set to fit on, an output of another name, or nothing to write.
        InputError: a scan, split or file of scores that cannot be read, a class without training scans, or a
            test scan among the pooled scores.
    """
    _check(plan, out, scores)
    records = read_split(plan.split)
    check_leaks(records)
    root = open_source(plan.data).root
    train = _run(predictor, root, subset_of(records, "train", plan.split), progress)
    known = Known(*prototypes(train.embeddings, train.labels), *layout_of_many(train.layouts))
    if plan.pooled:
        held = _pooled(plan.pooled, records)
    else:
        held = known.held_out(_run(predictor, root, subset_of(records, plan.subset, plan.split), progress))
    told: dict[str, Any] = {"scans": len(held.paths), "patients": len(set(held.patients))}
    if scores is not None:
        write_held_out(scores, held)
        told["scores"] = str(scores)
    if out is not None:
        manifest = fitted(predictor.bundle.manifest, held, plan, known)
        _write(out, predictor.bundle, manifest, plan.notes)
        told |= {"model": str(out), "sha256": sha256_of(out), "bytes": out.stat().st_size}
        told |= {key: asdict(getattr(manifest, key)) for key in ("calibration", "thresholds", "layout")}
    return told


def _check(plan: Plan, out: Path | None, scores: Path | None) -> None:
    if out is None and scores is None:
        raise UsageError("nothing to write", remedy="give --out MODEL.octlet, --scores FILE.csv, or both")
    if out is not None and (out.suffix != ".octlet" or out.is_dir()):
        raise UsageError("a model file's name ends in .octlet", path=out, remedy="for example model.octlet")
    if plan.pooled and scores is not None:
        raise UsageError("--scores writes what is computed, --from reads it", remedy="give one of them")
    if plan.subset == "train" or (plan.subset == "test" and out is not None):
        rule = f"thresholds are not fitted on {plan.subset} scans"
        raise UsageError(rule, remedy="take val, or write --scores only and pool those of other folds")
    for name, share in (("coverage", plan.coverage), ("doubt", plan.doubt), ("refusal", plan.refusal)):
        if not 0 < share < 1:
            raise UsageError(f"--{name} is {share}", remedy="above 0 and below 1")


class _Seen(NamedTuple):
    """Scans: logits (n, 4) and embeddings (n, D), float32, and how each is laid out, float64 (n, m)."""

    records: Sequence[SplitRecord]
    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    layouts: NDArray[np.float64]

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.array([index_of(record.label) for record in self.records], np.int64)


class Known(NamedTuple):
    """The training scans in short.

    Attributes:
        centres: (4, D), each class's mean embedding.
        scale: (D,), the deviation about it.
        usual: (m,), the mean layout.
        spread: (m,), the deviation about it.
    """

    centres: NDArray[np.float64]
    scale: NDArray[np.float64]
    usual: NDArray[np.float64]
    spread: NDArray[np.float64]

    def held_out(self, seen: _Seen) -> HeldOut:
        """Return what was said of scans, and how far they are from these."""
        paths = tuple(each.path for each in seen.records)
        patients = tuple(each.patient for each in seen.records)
        far = distances(seen.embeddings, self.centres, self.scale)
        odd = off_centre(seen.layouts, self.usual, self.spread)
        return HeldOut(paths, seen.labels, patients, seen.logits.astype(np.float64), far, odd)

    def layout(self, held: HeldOut, refusal: float) -> Layout:
        """Return what a model file says of layouts, its limit set by held-out scans."""
        usual, spread = (
            dict(zip(MEASURES, each.tolist(), strict=True)) for each in (self.usual, self.spread)
        )
        return Layout(usual, spread, refusal, distance_limit(held.layouts, refusal))


def _run(predictor: Predictor, root: Path, records: Sequence[SplitRecord], progress: Progress) -> _Seen:
    """Return what the network and the layout's measures say of scans; a bad scan ends it: InputError."""
    outputs, layouts = [], []
    for start in progress(range(0, len(records), BATCH)):
        batch = records[start : start + BATCH]
        grays = [read_pixels(root, each.path) for each in batch]
        ready = [predictor.prepare(gray, each.path) for gray, each in zip(grays, batch, strict=True)]
        outputs.append(predictor.look(ready))
        layouts += [measure(gray).layout for gray in grays]
    logits, embeddings = ([getattr(each, name) for each in outputs] for name in ("logits", "embedding"))
    return _Seen(records, np.concatenate(logits), np.concatenate(embeddings), np.array(layouts))


def _pooled(files: Sequence[Path], records: Sequence[SplitRecord]) -> HeldOut:
    held = pool([read_held_out(file) for file in files])
    tested = {record.path for record in records if record.split == "test"}
    if both := sorted(tested.intersection(held.paths)):
        rule = f"{len(both)} test scans stand in the pooled scores, {both[0]} first"
        raise InputError(rule, remedy="leave out the fold that the model is to be tested on")
    return held


def fitted(manifest: Manifest, held: HeldOut, plan: Plan, known: Known) -> Manifest:
    """Return a manifest with its trust fitted on held-out scores."""
    temperature = fit_temperature(held.logits, held.labels)
    before, after = (softmax(held.logits, each) for each in (1.0, temperature))
    errors = [round(expected_calibration_error(each, held.labels), 6) for each in (before, after)]
    counts = np.bincount(held.labels, minlength=len(LABELS)).tolist()
    thresholds = Thresholds(
        coverage=plan.coverage,
        lowest=conformal_thresholds(after, held.labels, plan.coverage),
        scans=dict(zip(LABELS, counts, strict=True)),
        doubt=plan.doubt,
        confidence=confidence_limit(after.max(axis=1), plan.doubt),
        refusal=plan.refusal / 2,
        distance=distance_limit(held.distances, plan.refusal / 2),
    )
    calibration = Calibration(temperature, len(held.paths), *errors)
    known_of = {TEST: plan.performance, FOLDS: plan.expected}
    metrics = manifest.metrics | {key: _tested(file) for key, file in known_of.items() if file is not None}
    return replace(
        manifest,
        metrics=metrics,
        calibration=calibration,
        thresholds=thresholds,
        prototypes=Prototypes.of(known.centres, known.scale),
        layout=known.layout(held, plan.refusal / 2),
    )


def _tested(file: Path) -> dict[str, Any]:
    """Return the figures of an evaluation, each with its interval; InputError where the file is none."""
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        figures = {name: {part: summary[name][part] for part in _INTERVAL} for name in PERFORMANCE}
        figures |= {name: _by_class(summary["per_class"], name) for name in ("sensitivity", "specificity")}
        counts = {"scans": int(summary["n"]), "patients": int(summary["patients"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        rule = "not the metrics.json of an evaluation"
        raise InputError(rule, path=file, remedy="give the one that 'octlet evaluate' wrote") from error
    return counts | figures


def _by_class(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {label: {"value": summary[label][name], **summary[label]["intervals"][name]} for label in LABELS}


def _write(out: Path, bundle: Bundle, manifest: Manifest, notes: Path | None) -> None:
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    card = with_trust(files[CARD].decode(), manifest)
    if notes is not None:
        card = with_notes(card, _text_of(notes))
    files[CARD] = card.encode()
    with writing_to(out):
        write_bundle(out, manifest, files)


def _text_of(notes: Path) -> str:
    try:
        return notes.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read these notes: they are a text in UTF-8", path=notes) from error
