"""`make arm-count`: the instructions of one prediction on an emulated Cortex-A76."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from arm.counting import Count, Pace, modelled_latency, pace, parse, per_part, spread, total
from arm.userland import PROJECT, Userland, source_key
from octlet.cli.ui import say
from octlet.core.bundle import open_bundle
from octlet.core.errors import OctletError, UsageError
from octlet.core.files import sha256_of, write_bytes, write_text
from octlet.runtime.engine import readers
from octlet.runtime.verify import read_golden

HERE = Path(__file__).parent
TIMES = 2  # predictions that are counted, after one to warm up
_MILLION = 1e6


@dataclass(frozen=True)
class Subject:
    """A model file under a name, and what it takes: see `octlet cost`."""

    name: str
    file: Path
    size: int
    quantised: bool
    macs: int


@dataclass(frozen=True)
class Row:
    """One model file in one engine; instructions in millions a prediction.

    Attributes:
        model, engine, version: what was counted.
        size: side of the network's input, pixels.
        integers: whether the network runs in int8.
        mmacs: millions of multiply-accumulates.
        decode, preprocessing, network, answer: the parts: a JPEG to pixels, pixels to the network's input,
            the network, its output to a label with probabilities.
        total: their sum.
        dot, fmla, load_store: of the total; see `Count`.
        times_fewer: the first row's total over this one's.
        spread: by how much single predictions differed, 0.001 is 0.1 %.
        pi5_ms_modelled, ..._low, ..._high: MODELLED milliseconds on a Raspberry Pi 5, see `counting`.
    """

    model: str
    engine: str
    version: str
    size: int
    integers: bool
    mmacs: float
    decode: float
    preprocessing: float
    network: float
    answer: float
    total: float
    dot: float
    fmla: float
    load_store: float
    times_fewer: float
    spread: float
    pi5_ms_modelled: float
    pi5_ms_modelled_low: float
    pi5_ms_modelled_high: float


@dataclass(frozen=True)
class Counted:
    """The raw result of one model file in one engine."""

    subject: Subject
    engine: str
    version: str
    parts: Mapping[str, Count]
    spread: float


def subject(name: str, file: Path) -> Subject:
    """Ask `octlet cost` about a model file; UsageError with what it says where it cannot tell."""
    command = [sys.executable, "-m", "octlet", "cost", str(file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    if done.returncode:
        raise UsageError(told["error"]["message"], path=file, remedy="give another model file")
    return Subject(name, file, told["size"], told["quantised"], told["macs"])


def count(subjects: Sequence[Subject], engines: Iterable[str], userland: Userland) -> Iterator[Counted]:
    """Count every model file in each of the engines that can read it.

    What was counted before, with the same files and programs, is taken from there.
    """
    plugin = build_plugin(userland.folder)
    scan = write_scan(subjects[0].file, userland.folder)
    for each in subjects:
        for engine in (name for name in engines if name in readers(open_bundle(each.file))):
            version = engine_version(userland, engine)
            kept = userland.folder / "counts" / _key(each.file, engine, version, scan, userland)
            if not kept.exists():
                say(f"counting {each.name}, {engine}")
                write_text(kept, _count(each.file, engine, scan, userland, plugin, kept.with_suffix(".part")))
            marks = parse(kept.read_text())
            yield Counted(each, engine, version, per_part(marks), spread(marks))


def build_plugin(folder: Path) -> Path:
    """Compile the counter; UsageError without a C compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise UsageError("there is no C compiler to build the counter with", remedy="install gcc, or set CC")
    out = folder / "insn_count.so"
    words = ["-std=c11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden"]
    done = subprocess.run(
        [compiler, *words, "-o", out, HERE / "insn_count.c"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OctletError(f"the counter does not compile: {done.stderr[-300:]}", path=HERE / "insn_count.c")
    return out


def write_scan(model: Path, folder: Path) -> Path:
    """Write a model file's first golden JPEG, a simulated scan of 512 x 496, and return where."""
    vectors = read_golden(open_bundle(model))
    image = next(each.image for each in vectors if each.name.endswith((".jpeg", ".jpg")))
    write_bytes(folder / "scan.jpeg", image)
    return folder / "scan.jpeg"


def engine_version(userland: Userland, engine: str) -> str:
    """Return the version of an engine in the userland."""
    show = "import sys; from octlet.runtime.engine import ENGINES; print(ENGINES[sys.argv[1]].version)"
    done = subprocess.run(
        [userland.command("engines"), "-c", show, engine], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _key(model: Path, engine: str, version: str, scan: Path, userland: Userland) -> str:
    files = (model, scan, HERE / "insn_count.c", HERE / "guest_predict.py")
    known = (*map(sha256_of, files), source_key(), engine, version, userland.python)
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:32] + ".csv"


def _count(model: Path, engine: str, scan: Path, userland: Userland, plugin: Path, out: Path) -> str:
    """Predict under the counter; return what it wrote."""
    out.parent.mkdir(exist_ok=True)
    settings = {"QEMU_PLUGIN": f"{plugin},out={out}", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    words = [userland.command("engines"), HERE / "guest_predict.py", model, engine, scan, TIMES]
    done = subprocess.run(
        list(map(str, words)),
        env=os.environ | settings,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise OctletError(f"{engine} ended with {done.returncode} there: {said}", path=model)
    text = out.read_text()
    out.unlink()
    return text


def reference(counted: Sequence[Counted]) -> Counted:
    """Return what the pace is calibrated with: the largest int8 network, in LiteRT if it was counted there.

    LiteRT computes with XNNPACK, as most of the published runs do. UsageError without an int8 network.
    """
    integers = [each for each in counted if each.subject.quantised]
    if not integers:
        raise UsageError("no int8 model is among them to calibrate the model of the Pi 5 with")
    return max(integers, key=lambda each: (each.engine == "litert", each.subject.macs))


def rows(counted: Sequence[Counted]) -> tuple[list[Row], Pace]:
    """Return the table, and the pace behind its MODELLED columns; raises as `reference`."""
    known = reference(counted)
    rate = pace(known.parts["network"].all, known.subject.macs)
    first = total(counted[0].parts).all
    return [_row(each, first, rate) for each in counted], rate


def _row(each: Counted, first: int, rate: Pace) -> Row:
    of, whole = each.subject, total(each.parts)
    modelled = modelled_latency(each.parts, rate)
    return Row(
        model=of.name,
        engine=each.engine,
        version=each.version,
        size=of.size,
        integers=of.quantised,
        mmacs=of.macs / _MILLION,
        decode=each.parts["decode"].all / _MILLION,
        preprocessing=each.parts["preprocessing"].all / _MILLION,
        network=each.parts["network"].all / _MILLION,
        answer=each.parts["answer"].all / _MILLION,
        total=whole.all / _MILLION,
        dot=whole.dot / _MILLION,
        fmla=whole.fmla / _MILLION,
        load_store=whole.load_store / _MILLION,
        times_fewer=first / whole.all,
        spread=each.spread,
        pi5_ms_modelled=modelled.value,
        pi5_ms_modelled_low=modelled.low,
        pi5_ms_modelled_high=modelled.high,
    )


def subjects(words: Iterable[str]) -> list[Subject]:
    """Read NAME=FILE; UsageError where it is not, or a name comes twice."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not (name and equals and file) or name in found:
            remedy = "give NAME=model.octlet, each name once"
            raise UsageError(f"'{word}' does not name a model file", remedy=remedy)
        found[name] = Path(file)
    return [subject(name, file) for name, file in found.items()]
