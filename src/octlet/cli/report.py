"""`octlet report`."""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from shlex import quote

import click

from octlet.cli.options import chosen, engine_option, model_option, threads_option
from octlet.cli.scans import Scan, ScanFiles
from octlet.cli.ui import json_option, next_step, print_json, say
from octlet.clinical.eye import JudgedVolume, eye_of, eyes_of
from octlet.clinical.pseudonym import read_salt
from octlet.core.errors import InputError, UsageError
from octlet.core.files import write_text, writing_to
from octlet.core.labels import NOTICE
from octlet.core.prediction import Prediction
from octlet.report.eye import Eye, Seen, look, pressing
from octlet.report.facts import facts_of
from octlet.report.page import page
from octlet.runtime.heatmap import overlay_names
from octlet.runtime.predictor import Predictor

_PATH = click.Path(path_type=Path)


@click.command()
@model_option
@click.argument("paths", nargs=-1, required=True, type=_PATH, metavar="PATH...")
@click.option("--out", type=_PATH, required=True, metavar="DIR", help="Where the pages go.")
@click.option("--by-folder", is_flag=True, help="Take the images of a folder for those of one eye.")
@click.option("--title", default="", help="Heading of every page, in place of the file's name.")
@click.option("--date", metavar="DAY", help="YYYY-MM-DD, or 'today'; none if not given.")
@click.option(
    "--pseudonym",
    type=_PATH,
    metavar="SALT_FILE",
    help="Name eyes by a salted hash of the patient's ID, not by files.",
)
@engine_option
@threads_option
@json_option
def command(
    model: Path,
    paths: tuple[Path, ...],
    out: Path,
    by_folder: bool,
    title: str,
    date: str | None,
    pseudonym: Path | None,
    engine: str | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Write a page to hand on for each eye.

    PATH is an image, a volume or a folder, as for 'octlet predict'. An image is an eye of one scan; with
    --by-folder the images of a folder are one eye. Volumes of one eye are put together where their files
    tell that.

    A page is one HTML file, and one sheet of A4 when a browser prints it: scan and heatmap, probabilities,
    what cannot be ruled out, quality, the model and its known performance. Without --date the same scans give
    the same bytes. No patient's name is on it unless it is in the file's name or in --title.
    """
    if out.exists() and not out.is_dir():
        raise UsageError("--out takes a folder", path=out)
    day = _day(date)
    salt = None if pseudonym is None else read_salt(pseudonym)
    choice = chosen(engine, threads)
    predictor = Predictor.open(model, engine=choice.engine, threads=choice.threads or None)
    found = _Found(ScanFiles(paths, salt), by_folder)
    for index in range(len(found.files.files)):
        for scan in found.files.read(index):
            found.add(index, scan, predictor)
    eyes = found.eyes()
    pages = _write(out, eyes, predictor, title, day)
    return _tell(pages, eyes, found.files.errors, predictor, as_json)


def _day(date: str | None) -> str:
    if date is None:
        return ""
    try:
        today = datetime.datetime.now().astimezone().date()
        return (today if date == "today" else datetime.date.fromisoformat(date)).isoformat()
    except ValueError as error:
        raise UsageError(f"--date {date} is no day", remedy="give YYYY-MM-DD, or 'today'") from error


@dataclass
class _Group:
    """The B-scans of a volume, a folder or an image: what was said of all, and the most pressing in full."""

    name: str
    single: bool
    predictions: list[Prediction] = field(default_factory=list)
    seen: tuple[Seen, ...] = ()


@dataclass
class _Found:
    files: ScanFiles
    by_folder: bool
    groups: dict[object, _Group] = field(default_factory=dict)

    def add(self, index: int, scan: Scan, predictor: Predictor) -> None:
        """Judge a scan of the file with this index."""
        try:
            prepared = predictor.prepare(scan.gray)
        except InputError as error:
            self.files.fail(scan.name, error)
            return
        group = self._group(index, scan)
        seen = look(predictor, scan.gray, prepared, PurePath(scan.name).name)  # folders may tell who it is
        group.predictions.append(seen.prediction)
        group.seen = pressing(group.seen, [seen])

    def _group(self, index: int, scan: Scan) -> _Group:
        if scan.volume is not None:
            return self.groups.setdefault(scan.volume, _Group(self.files.volumes[scan.volume].file, False))
        if not self.by_folder:
            return self.groups.setdefault(scan.name, _Group(scan.name, True))
        folder = str(PurePath(scan.name).parent)
        return self.groups.setdefault(folder, _Group(folder, False))

    def eyes(self) -> list[Eye]:
        """Return every eye, the most pressing of several volumes first, then images in their order."""
        return [*self._of_volumes(), *self._of_images()]

    def _of_volumes(self) -> Iterator[Eye]:
        numbers = [key for key in self.groups if isinstance(key, int)]
        judged = [
            JudgedVolume.of(
                self.files.volumes[number], self.groups[number].predictions, self.files.sizes[number]
            )
            for number in numbers
        ]
        seen = {self.groups[number].name: self.groups[number].seen for number in numbers}
        for whole in eyes_of(judged):
            name = PurePath(whole.files[0]).name + (
                f" and {len(whole.files) - 1} more" if len(whole.files) > 1 else ""
            )
            yield Eye(name, pressing([each for file in whole.files for each in seen[file]]), whole)

    def _of_images(self) -> Iterator[Eye]:
        for key, group in self.groups.items():
            if isinstance(key, int):
                continue
            whole = None
            if not group.single:
                judged = JudgedVolume(group.name, None, None, tuple(group.predictions))
                whole = eye_of([judged])
            yield Eye(PurePath(group.name).name, group.seen, whole)


def _write(out: Path, eyes: Sequence[Eye], predictor: Predictor, title: str, day: str) -> list[Path]:
    facts = facts_of(predictor)
    names = overlay_names(eye.name or "eye" for eye in eyes)
    pages = [out / f"{name.removesuffix('.heatmap.png')}.html" for name in names]
    for path, eye in zip(pages, eyes, strict=True):
        with writing_to(path):
            write_text(path, page(eye, facts, title=title, date=day))
    return pages


def _tell(
    pages: Sequence[Path],
    eyes: Sequence[Eye],
    errors: Sequence[InputError],
    predictor: Predictor,
    as_json: bool,
) -> int:
    pairs = list(zip(pages, eyes, strict=True))
    if as_json:
        told = [
            {
                "page": str(path),
                "eye": eye.name,
                "label": eye.label,
                "urgency": eye.urgency,
                "abstain": eye.abstain,
            }
            for path, eye in pairs
        ]
        faults = [error.as_dict() for error in errors]
        print_json({"notice": NOTICE, "model": predictor.identity, "reports": told, "errors": faults})
    else:
        for path, eye in pairs:
            click.echo(f"{path}  {eye.urgency}: {eye.abstain or eye.label}")
        click.echo(NOTICE)
    for error in errors:
        say(f"octlet: {error}")
    if errors:
        return InputError.exit_code
    next_step(f"open {quote(str(pages[0]))} in a browser, and print it")
    return 0
