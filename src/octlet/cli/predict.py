"""`octlet predict`."""

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import click

from octlet.cli.ui import json_option, next_step, print_json, say, table
from octlet.core.errors import InputError, UsageError
from octlet.core.files import write_text
from octlet.core.image import IMAGE_SUFFIXES, Gray, Prepared, read_scan
from octlet.core.labels import LABELS, NOTICE
from octlet.core.prediction import CSV_COLUMNS, Prediction
from octlet.runtime.choice import config_path, read_choice
from octlet.runtime.engine import ENGINES
from octlet.runtime.heatmap import overlay_names, write_overlay
from octlet.runtime.predictor import Box, Predictor

BATCH = 8  # scans in memory at a time

_Work = tuple[Path, str, Path | None]  # the file, its name as shown, where its heatmap goes


@dataclass(frozen=True)
class _Scan:
    name: str
    heatmap: Path | None
    gray: Gray
    prepared: Prepared


@dataclass
class _Results:
    predictions: list[Prediction] = field(default_factory=list)
    heatmaps: list[Path | None] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)

    def as_dicts(self) -> list[dict[str, Any]]:
        pairs = zip(self.predictions, self.heatmaps, strict=True)
        return [p.as_dict() | ({} if h is None else {"heatmap": str(h)}) for p, h in pairs]


@click.command()
@click.option("-m", "--model", envvar="OCTLET_MODEL", type=click.Path(path_type=Path), help="Model file.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write the predictions as CSV.")
@click.option(
    "--heatmap", type=click.Path(path_type=Path), metavar="DIR", help="Write where the class was seen."
)
@click.option("--engine", type=click.Choice(list(ENGINES)), help="What computes; your choice if not given.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; your choice if not given.")
@json_option
def command(
    model: Path | None,
    paths: tuple[Path, ...],
    csv_file: Path | None,
    heatmap: Path | None,
    engine: str | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Classify scans with a model file.

    PATH is an image or a folder. Of a folder every .bmp, .jpeg, .jpg, .png, .tif and .tiff file is taken,
    also of the folders in it; hidden files and folders and linked folders are left out. Files that cannot be
    read are listed, the others are predicted, and the exit code is 3.

    The model file is that of --model or of the environment variable OCTLET_MODEL. Engine and threads are
    those that 'octlet benchmark --choose' has kept, or ONNX Runtime on every CPU.
    """
    if model is None:
        raise UsageError("no model file is named", remedy="give -m model.octlet, or set OCTLET_MODEL")
    _check_outputs(paths, csv_file, heatmap)
    predictor = _open(model, engine, threads)
    results = _predict(predictor, paths, heatmap)
    if csv_file is not None:
        _write_csv(csv_file, results.predictions)
    _print(results, predictor, as_json)
    for error in results.errors:
        say(f"octlet: {error}")
    if results.errors:
        say(f"octlet: {len(results.errors)} unreadable, {len(results.predictions)} predicted")
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
    """Open a model file with what the command line says, and for the rest what the user has chosen."""
    choice = read_choice(config_path())
    return Predictor.open(model, engine=engine or choice.engine, threads=threads or choice.threads or None)


def _predict(predictor: Predictor, paths: Sequence[Path], heatmap: Path | None) -> _Results:
    results = _Results()
    files = list(_files(paths, results.errors))
    names = [_shown(file) for file in files]
    targets = [None if heatmap is None else heatmap / name for name in overlay_names(names)]
    work = list(zip(files, names, targets, strict=True))
    for batch in _progress([work[start : start + BATCH] for start in range(0, len(work), BATCH)]):
        _predict_batch(predictor, list(_load(predictor, batch, results.errors)), results)
    return results


def _progress(batches: list[list[_Work]]) -> Iterator[list[_Work]]:
    if len(batches) < 2 or not sys.stderr.isatty():
        yield from batches
        return
    with click.progressbar(batches, label="scans", file=sys.stderr) as shown:
        yield from shown


def _files(paths: Sequence[Path], errors: list[InputError]) -> Iterator[Path]:
    """Yield every file to predict; a folder without one is an error of its own."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = 0
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                    found += 1
                    yield Path(folder, name)
        if not found:
            errors.append(InputError("no image in this folder", path=_shown(path), remedy="check the path"))


def _shown(path: Path) -> str:
    """Return a path as one line of text: line ends, escapes and bytes that are no UTF-8 become U+FFFD."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(path))


def _load(predictor: Predictor, batch: Sequence[_Work], errors: list[InputError]) -> Iterator[_Scan]:
    for file, name, target in batch:
        try:
            gray = read_scan(file)
            yield _Scan(name, target, gray, predictor.prepare(gray, name))
        except InputError as error:
            errors.append(InputError(error.rule, path=name, remedy=error.remedy))


def _predict_batch(predictor: Predictor, scans: Sequence[_Scan], results: _Results) -> None:
    if not scans:
        return
    scores = predictor.score([scan.prepared for scan in scans])
    for scan, row, cam, box in zip(scans, scores.probabilities, scores.cam, scores.boxes, strict=True):
        prediction = Prediction.of(scan.name, row)
        if scan.heatmap is not None:
            _write_heatmap(scan.heatmap, scan, cam, predictor.size, box, prediction.label)
        results.predictions.append(prediction)
        results.heatmaps.append(scan.heatmap)


def _write_heatmap(path: Path, scan: _Scan, cam: Any, size: int, box: Box, label: str) -> None:
    try:
        write_overlay(path, scan.gray, cam, size, box, label)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", path=path, remedy="give another DIR"
        ) from error


def _write_csv(path: Path, predictions: Sequence[Prediction]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(prediction.as_row() for prediction in predictions)
    try:
        write_text(path, text.getvalue())
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", path=path, remedy="give another FILE"
        ) from error


def _print(results: _Results, predictor: Predictor, as_json: bool) -> None:
    if as_json:
        errors = [error.as_dict() for error in results.errors]
        predictions = results.as_dicts()
        model = predictor.identity
        print_json({"notice": NOTICE, "model": model, "predictions": predictions, "errors": errors})
    elif results.predictions:
        headers = ("file", "label", "urgency", *LABELS)
        shares = ([f"{p:.3f}" for p in each.probabilities.values()] for each in results.predictions)
        pairs = zip(results.predictions, shares, strict=True)
        click.echo(table(headers, [(each.file, each.label, each.urgency, *row) for each, row in pairs]))
        click.echo(f"\n{NOTICE}")
