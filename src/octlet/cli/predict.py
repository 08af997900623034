"""`octlet predict`."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from octlet.cli.options import chosen, engine_option, model_option, threads_option
from octlet.cli.scans import Scan, ScanFiles
from octlet.cli.ui import json_option, next_step, print_json, say, table
from octlet.core.errors import InputError, UsageError
from octlet.core.files import write_text, writing_to
from octlet.core.image import Prepared
from octlet.core.labels import LABELS, NOTICE
from octlet.core.prediction import CSV_COLUMNS, UNCERTAIN, Prediction
from octlet.core.quality import Quality, measure
from octlet.runtime.heatmap import write_overlay
from octlet.runtime.predictor import Box, Grid, Predictor

if TYPE_CHECKING:  # imported where there is a volume: it takes time
    from octlet.clinical.eye import EyePrediction

BATCH = 8  # scans prepared in memory at a time
MOST_URGENT = 10  # B-scans of an eye that are printed


class _Ready(NamedTuple):
    scan: Scan
    prepared: Prepared
    quality: Quality


@dataclass
class _Results:
    files: ScanFiles
    predictions: list[Prediction] = field(default_factory=list)
    heatmaps: list[Path | None] = field(default_factory=list)
    volumes: list[int | None] = field(default_factory=list)

    def as_dicts(self) -> list[dict[str, Any]]:
        pairs = zip(self.predictions, self.heatmaps, strict=True)
        return [p.as_dict() | ({} if h is None else {"heatmap": str(h)}) for p, h in pairs]

    def eyes(self) -> "list[EyePrediction]":
        if not self.files.volumes:
            return []
        from octlet.clinical.eye import JudgedVolume, eyes_of

        judged: list[list[Prediction]] = [[] for _ in self.files.volumes]
        for prediction, volume in zip(self.predictions, self.volumes, strict=True):
            if volume is not None:
                judged[volume].append(prediction)
        pairs = zip(self.files.volumes, judged, self.files.sizes, strict=True)
        return eyes_of(JudgedVolume.of(volume, said, size) for volume, said, size in pairs)


@click.command()
@model_option
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write the predictions as CSV.")
@click.option(
    "--heatmap", type=click.Path(path_type=Path), metavar="DIR", help="Write where the class was seen."
)
@click.option(
    "--pseudonym",
    type=click.Path(path_type=Path),
    metavar="SALT_FILE",
    help="Name results by a salted hash of the patient's ID, not by files.",
)
@click.option(
    "--most-urgent",
    type=click.IntRange(min=0),
    default=MOST_URGENT,
    show_default=True,
    metavar="N",
    help="B-scans of each eye's volumes to print.",
)
@engine_option
@threads_option
@json_option
def command(
    model: Path,
    paths: tuple[Path, ...],
    csv_file: Path | None,
    heatmap: Path | None,
    pseudonym: Path | None,
    most_urgent: int,
    engine: str | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Classify scans with a model file.

    PATH is an image, a volume or a folder. Images are .bmp, .jpeg, .jpg, .png, .tif and .tiff files; volumes
    are DICOM, .vol, .e2e, .fda and .img files and TIFF files of several pages. Of a folder every one is
    taken, also of the folders in it; hidden files and folders and linked folders are left out. Files that
    cannot be read are listed, the others are predicted, and the exit code is 3.

    Of a volume every B-scan is predicted, FILE#1 being the first, and each eye by its B-scans together. DICOM
    needs pip install "octlet[clinical]". No patient's name or date is ever shown or written; the names of
    files are, unless --pseudonym is given.

    The model file is that of --model, or of the environment variable OCTLET_MODEL, or the one that comes
    with Octlet. Engine and threads are those that 'octlet benchmark --choose' has kept, or ONNX Runtime on
    every CPU.
    """
    _check_outputs(paths, csv_file, heatmap)
    predictor = _open(model, engine, threads)
    results = _predict(predictor, ScanFiles(paths, _salt(pseudonym)), heatmap)
    if csv_file is not None:
        _write_csv(csv_file, results.predictions)
    _print(results, predictor, most_urgent, as_json)
    errors = results.files.errors
    for error in errors:
        say(f"octlet: {error}")
    if errors:
        say(f"octlet: {len(errors)} unreadable, {len(results.predictions)} predicted")
        return InputError.exit_code
    next_step(f"octlet evaluate {quote(str(model))} LABELLED_FOLDER")
    return 0


def _check_outputs(paths: Sequence[Path], csv_file: Path | None, heatmap: Path | None) -> None:
    """Refuse what would be found out after an hour of work, or would write over or among the scans."""
    if csv_file is not None and (csv_file.suffix.lower() != ".csv" or csv_file.is_dir()):
        raise UsageError("--csv takes a file whose name ends in .csv", path=csv_file)
    if heatmap is None:
        return
    if heatmap.exists() and not heatmap.is_dir():
        raise UsageError("--heatmap takes a folder", path=heatmap)
    if any(path.is_dir() and heatmap.resolve().is_relative_to(path.resolve()) for path in paths):
        rule = "--heatmap lies in a folder of scans, where the next run would read the heatmaps"
        raise UsageError(rule, path=heatmap, remedy="give a folder elsewhere")


def _open(model: Path, engine: str | None, threads: int | None) -> Predictor:
    choice = chosen(engine, threads)
    return Predictor.opening(model, engine=choice.engine, threads=choice.threads or None)


def _salt(pseudonym: Path | None) -> bytes | None:
    if pseudonym is None:
        return None
    from octlet.clinical.pseudonym import read_salt

    return read_salt(pseudonym)


def _predict(predictor: Predictor, files: ScanFiles, heatmap: Path | None) -> _Results:
    results = _Results(files)
    scans = (scan for index in _progress(len(files.files)) for scan in files.read(index))
    while batch := list(islice(scans, BATCH)):
        _predict_batch(predictor, list(_prepare(predictor, batch, files)), heatmap, results)
    return results


def _progress(count: int) -> Iterator[int]:
    if count < 2 or not sys.stderr.isatty():
        yield from range(count)
        return
    with click.progressbar(range(count), label="files", file=sys.stderr) as shown:
        yield from shown


def _prepare(predictor: Predictor, batch: Sequence[Scan], files: ScanFiles) -> Iterator[_Ready]:
    """Do what a scan needs no engine for: at the first batch that is still being loaded."""
    for scan in batch:
        try:
            yield _Ready(scan, predictor.prepare(scan.gray), measure(scan.gray))
        except InputError as error:
            files.fail(scan.name, error)


def _predict_batch(
    predictor: Predictor, scans: Sequence[_Ready], heatmap: Path | None, results: _Results
) -> None:
    if not scans:
        return
    scores = predictor.score([each.prepared for each in scans])
    for row, ((scan, _, quality), cam, box) in enumerate(zip(scans, scores.cam, scores.boxes, strict=True)):
        prediction = predictor.judge(scan.gray, scan.name, scores, row, quality=quality)
        target = None if heatmap is None else heatmap / scan.heatmap
        if target is not None:
            _write_heatmap(target, scan, cam, predictor.grid, box, prediction.label)
        results.predictions.append(prediction)
        results.heatmaps.append(target)
        results.volumes.append(scan.volume)


def _write_heatmap(path: Path, scan: Scan, cam: Any, grid: Grid, box: Box, label: str) -> None:
    with writing_to(path, "give another DIR"):
        write_overlay(path, scan.gray, cam, grid, box, label)


def _write_csv(path: Path, predictions: Sequence[Prediction]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(prediction.as_row() for prediction in predictions)
    with writing_to(path, "give another FILE"):
        write_text(path, text.getvalue())


def _print(results: _Results, predictor: Predictor, most: int, as_json: bool) -> None:
    eyes = results.eyes()
    if as_json:
        document = {
            "notice": NOTICE,
            "model": predictor.identity,
            "eyes": [eye.as_dict() for eye in eyes],
            "predictions": results.as_dicts(),
            "errors": [error.as_dict() for error in results.files.errors],
        }
        print_json(document)
        return
    images = [p for p, volume in zip(results.predictions, results.volumes, strict=True) if volume is None]
    by_name = {each.file: each for each in results.predictions}
    for eye in eyes:
        _print_eye(eye, [by_name[name] for name in eye.most_urgent], most)
    if images:
        click.echo(_table(images) + "\n")
        _print_reasons(images)
    if results.predictions:
        click.echo(NOTICE)


def _print_reasons(predictions: Sequence[Prediction]) -> None:
    """Say why the first scans that are refused or uncertain are so."""
    doubtful = [each for each in predictions if each.abstain]
    for each in doubtful[:MOST_URGENT]:
        click.echo(f"{each.file}: {each.explanation}")
    if len(doubtful) > MOST_URGENT:
        click.echo(f"and {len(doubtful) - MOST_URGENT} more: --json and --csv show them")
    if doubtful:
        click.echo("")


def _print_eye(eye: "EyePrediction", predictions: Sequence[Prediction], most: int) -> None:
    """Print an eye: what was found, why, and where to look first."""
    side = {"R": "right eye", "L": "left eye", None: "eye"}[eye.eye]
    more = f" and {len(eye.files) - 1} more" if len(eye.files) > 1 else ""
    click.echo(f"{eye.files[0]}{more}, {side}: {_verdict(eye.label, eye.abstain)}, {eye.urgency}")
    click.echo(f"  {eye.explanation}")
    click.echo(f"  {eye.scans} B-scans, {eye.refused} of them left out")
    if most:
        click.echo("\n" + _table(predictions[:most]))
    if len(predictions) > most:
        click.echo(f"and {len(predictions) - most} more: --most-urgent, --json and --csv show them")
    click.echo("")


def _table(predictions: Sequence[Prediction]) -> str:
    headers = ("file", "label", "urgency", *LABELS)
    rows = [
        (
            p.file,
            _verdict(p.label, p.abstain),
            p.urgency,
            *(f"{share:.3f}" for share in p.probabilities.values()),
        )
        for p in predictions
    ]
    return table(headers, rows)


def _verdict(label: str, abstain: str | None) -> str:
    """Return a label, or what is said instead of it: a refusal must not be read past."""
    if abstain == UNCERTAIN:
        return f"{UNCERTAIN} ({label})"
    return label if abstain is None else abstain
