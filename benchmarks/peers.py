r"""Octlet against other ways of running the same network: same scans, same machine, one run.

    OMP_NUM_THREADS=1 python benchmarks/peers.py OUT.csv SCANS SPLITS --work WORK \
        --float 'real/release/fold-{k}/model.octlet' \
        --row torch 'original path' 'real/seed/fold-{k}/model.octlet' \
        --row litert 'LiteRT, int8' 'real/dense-int8/fold-{k}/qat/model.octlet'

SPLITS is a folder with fold-0.csv, fold-1.csv ...; {k} stands for the fold. A fold's networks answer its
test scans, one at a time, and the folds are pooled. `--float` names the files that other tools round and run.
`--row` adds a row of other model files: in PyTorch, in an engine, or `octlet`, as `octlet predict` runs them,
with their second look. PyTorch computes the run that a file was exported from: the folder beside it of its
name, or train/. Networks that are made, and answers, are kept in WORK by their contents: what is there is not
made again. OUT.csv is written after every row; the same as a Markdown table is printed at the end, and put
into the file of `--page`. `--only` names the rows that are measured; without it all are. A fold that lacks a
row's model file is left out of that row. Times are measured anew, unless --no-times takes those of the last
run; they want a quiet machine.
"""

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in every child

import numpy as np
import peers_networks as networks
import peers_table as table
import peers_times as times
from numpy.typing import NDArray
from peers_ways import COMPILED, EAGER, load

from octlet.core.bundle import open_bundle
from octlet.core.errors import InputError, OctletError
from octlet.core.files import sha256_of
from octlet.core.image import Prepared, normalise
from octlet.core.labels import index_of
from octlet.data.cache import prepared_scans
from octlet.data.split import SplitRecord, check_leaks, read_split
from octlet.evaluate.predictions import Predictions, merge, read_predictions, write_predictions
from octlet.runtime.predictor import Predictor, softmax
from octlet.scoring import subset_of

CALIBRATION = 300  # training scans that rounding is calibrated on: NNCF's default number, for all the same
# what other people's tools raise where they cannot do it; a row of the table, not the end of the others
FAULTS = (OctletError, ImportError, OSError, RuntimeError, ValueError)

Make = Callable[[Path, networks.Calibration, Path], None]


@dataclass(frozen=True)
class Peer:
    """A row: what makes its network of a fold's model file, under what name it is kept, and what runs it."""

    name: str
    way: str
    models: str
    make: Make
    form: str
    shipped: bool = False  # runs as `octlet predict` runs it, and its file is the model file
    counted: bool = False  # runs the model file's own network, whose instructions may have been counted


@dataclass(frozen=True)
class Fold:
    """The scans of a fold."""

    number: int
    root: Path
    records: Sequence[SplitRecord]
    split: Path

    @cached_property
    def test(self) -> list[SplitRecord]:
        """The scans that no training of this fold has seen."""
        return subset_of(self.records, "test", self.split)

    def scans(self, rows: Sequence[SplitRecord], size: int) -> NDArray[np.float32]:
        """Return prepared scans as float32 (N, 1, size, size)."""
        return normalise(self.pixels(rows, size))

    def pixels(self, rows: Sequence[SplitRecord], size: int) -> NDArray[np.uint8]:
        """Return prepared scans as uint8 (N, size, size)."""
        return prepared_scans(self.root, [(row.path, row.sha256) for row in rows], size)

    def calibration(self, size: int) -> NDArray[np.float32]:
        """Return `CALIBRATION` training scans, or all where there are fewer, drawn with a fixed seed."""
        rows = subset_of(self.records, "train", self.split)
        drawn = np.random.default_rng(0).permutation(len(rows))[:CALIBRATION]
        return self.scans([rows[number] for number in drawn], size)


@dataclass(frozen=True)
class Made:
    """A fold's network of a peer: the model file that it comes from, and its own file or folder."""

    model: Path
    network: Path
    size: int
    key: str


def main(words: Sequence[str] | None = None) -> None:
    asked = _asked(words)
    work: Path = asked.work
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((work / "inductor").resolve()))
    folds = list(read_folds(asked.splits, asked.scans))
    peers = list(rows_of(asked))
    if unknown := set(asked.only) - {peer.name for peer in peers}:
        raise SystemExit(f"--only names no row: {', '.join(sorted(unknown))}")
    peers = [peer for peer in peers if not asked.only or peer.name in asked.only]
    rows = [table.Row(peer.name, peer.way) for peer in peers]
    made: dict[str, Made] = {}
    left = TimeLeft(len(peers) * len(folds))
    for number, peer in enumerate(peers):
        try:
            answered = list(answers(peer, folds, work, left))
            made[peer.name] = answered[0][1]
            rows[number] = table.measured(
                rows[number], [each[0].number for each in answered], merge_of(answered)
            )
        except FAULTS as error:
            rows[number] = replace(rows[number], note=f"skipped: {table.first_line(error)}")
        table.write(asked.out, rows)
    rows = [table.against(row, rows, REFERENCE) for row in rows]
    subjects = [subject(peer, made[peer.name]) for peer in peers if peer.name in made]
    found = (
        times.kept(work) if asked.no_times else times.measure(subjects, REFERENCE, first_scan(folds), work)
    )
    rows = [table.with_times(row, subjects, found, asked.counts, REFERENCE) for row in rows]
    table.write(asked.out, rows)
    shown = table.markdown(rows)
    print(shown)
    if asked.page is not None:
        table.into_page(asked.page, shown)


REFERENCE = "torch eager fp32"


def _asked(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("splits", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--float", metavar="FILE", required=True)
    parser.add_argument("--row", metavar=("WAY", "NAME", "FILE"), nargs=3, action="append", default=[])
    parser.add_argument("--counts", type=Path, help="what `make arm-count` wrote")
    parser.add_argument("--page", type=Path, help="a Markdown file that shows the table")
    parser.add_argument("--only", metavar="NAME", action="append", default=[])
    parser.add_argument("--no-times", action="store_true")
    return parser.parse_args(words)


def rows_of(asked: argparse.Namespace) -> Iterator[Peer]:
    """Yield the rows of the table in its order: PyTorch's, what else runs the float network, others."""
    added = [row_of(*words) for words in asked.row]
    model = asked.float
    yield from (peer for peer in added if peer.way == EAGER)
    yield Peer(REFERENCE, EAGER, model, networks.float_run, RUN)
    yield Peer("torch.compile fp32", COMPILED, model, networks.float_run, RUN)
    yield Peer("ONNX Runtime fp32", "onnxruntime", model, networks.onnx, "onnx", counted=True)
    yield Peer("ONNX Runtime static int8", "onnxruntime", model, networks.static, "static.onnx")
    yield Peer("OpenVINO fp32", "openvino", model, networks.onnx, "onnx", counted=True)
    yield Peer("OpenVINO, NNCF int8", "openvino", model, networks.nncf, "nncf/network.xml")
    yield Peer("LiteRT fp32", "litert", model, networks.litert, "tflite", counted=True)
    yield from (peer for peer in added if peer.way != EAGER)


RUN = "run/checkpoint.safetensors"
# what is made of a model file for each way of running it; `octlet`: in ONNX Runtime, as `octlet predict` does
FORMS: dict[str, tuple[Make, str]] = {
    EAGER: (networks.float_run, RUN),
    "onnxruntime": (networks.onnx, "onnx"),
    "openvino": (networks.onnx, "onnx"),
    "litert": (networks.litert, "tflite"),
    "octlet": (networks.onnx, "onnx"),
}


def row_of(way: str, name: str, file: str) -> Peer:
    """Return the row of `--row`; ends with a message where there is no such way."""
    if way not in FORMS:
        raise SystemExit(f"--row {way}: not one of {', '.join(FORMS)}")
    make, form = FORMS[way]
    shipped = way == "octlet"
    engine = "onnxruntime" if shipped else way
    return Peer(name, engine, file, make, form, shipped=shipped, counted=way != EAGER)


def read_folds(splits: Path, scans: Path) -> Iterator[Fold]:
    """Yield the folds of a folder of splits; raises InputError where there is none, or one leaks."""
    files = sorted(splits.glob("fold-*.csv"))
    if not files:
        raise InputError("no fold-0.csv here", path=splits, remedy="give the folder of the splits")
    for file in files:
        records = read_split(file)
        check_leaks(records)
        yield Fold(int(file.stem.rpartition("-")[2]), scans, records, file)


Answered = tuple[Fold, Made, Predictions]


def answers(peer: Peer, folds: Sequence[Fold], work: Path, left: "TimeLeft") -> Iterator[Answered]:
    """Yield what a peer says of the test scans of each fold whose model file is there."""
    there = [fold for fold in folds if Path(peer.models.format(k=fold.number)).is_file()]
    left.drop(len(folds) - len(there))
    if not there:
        raise InputError("no such model file", path=peer.models)
    for done, fold in enumerate(there):
        try:
            began = time.perf_counter()
            made = make(peer, fold, work)
            by = "octlet" if peer.shipped else peer.way  # which looks twice where its file asks for it
            file = work / "predictions" / f"{made.key}-{by}-fold-{fold.number}.csv"
            if not file.exists():
                write_predictions(file, predict(peer, made, fold))
        except FAULTS:
            left.drop(len(there) - done)
            raise
        left.tell(f"{peer.name}, fold {fold.number}", time.perf_counter() - began)
        yield fold, made, read_predictions(file)


def make(peer: Peer, fold: Fold, work: Path) -> Made:
    """Make a fold's network, unless it is there: its name is the content that it is made of."""
    model = Path(peer.models.format(k=fold.number))
    key = hashlib.sha256((sha256_of(model) + sha256_of(fold.split)).encode()).hexdigest()[:12]
    size = open_bundle(model).manifest.preprocessing.size
    network = work / "networks" / f"{key}.{peer.form}"
    if not network.exists():
        peer.make(model, lambda: fold.calibration(size), network)
    return Made(model, network, size, f"{key}.{Path(peer.form).parts[0]}")


def predict(peer: Peer, made: Made, fold: Fold) -> Predictions:
    """Compute the fold's test scans one at a time, as a device does; a model file may look twice."""
    rows, whole = fold.test, (0, 0, made.size, made.size)
    if peer.shipped:
        look = Predictor.open(made.model, threads=1).look
        outputs = [look([Prepared(each, whole)]) for each in fold.pixels(rows, made.size)]
    else:
        engine, scans = load(peer.way, made.network, made.size), fold.scans(rows, made.size)
        outputs = [engine.run(scans[i : i + 1]) for i in range(len(scans))]
    logits = np.concatenate([each.logits for each in outputs])
    labels = np.array([index_of(row.label) for row in rows], np.int64)
    return Predictions(tuple(r.path for r in rows), labels, tuple(r.patient for r in rows), softmax(logits))


def merge_of(answered: Sequence[Answered]) -> Predictions:
    return merge([predictions for _, _, predictions in answered])


def subject(peer: Peer, made: Made) -> times.Subject:
    """Return what is timed, weighed and looked up of a row: its first fold."""
    file = made.model if peer.shipped else made.network
    return times.Subject(
        peer.name, peer.way, made.model, made.network, file, made.size, peer.shipped, peer.counted
    )


def first_scan(folds: Sequence[Fold]) -> Path:
    return (folds[0].root / folds[0].test[0].path).resolve()


class TimeLeft:
    """Tells on stderr what is done, and how long the rest will take at the pace so far."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began = total, 0, time.perf_counter()

    def drop(self, count: int) -> None:
        """Leave out what will not be done."""
        self._total -= count

    def tell(self, what: str, seconds: float) -> None:
        """Count one fold of a row as done."""
        self._done += 1
        rest = (time.perf_counter() - self._began) / self._done * (self._total - self._done)
        print(
            f"{self._done} of {self._total}: {what}, {seconds:.0f} s; {rest / 60:.0f} min left",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
