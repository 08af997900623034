"""How fast each engine runs one model file on this machine, and what it takes to start."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octlet.core.bundle import Bundle
from octlet.core.errors import GateError, ModelFileError, OctletError, UsageError
from octlet.core.files import sha256_of
from octlet.runtime import latency
from octlet.runtime.engine import ENGINES, entry_for, load_engine, readers
from octlet.runtime.machine import Condition, Machine, read_condition, read_machine
from octlet.runtime.startup import Startup, end_of, python, start
from octlet.runtime.verify import read_golden

ROUNDS = 100  # the fewest of which the 99th percentile is not simply the slowest
COLD_STARTS = 3

Progress = Callable[[str], Callable[[Iterable[int]], Iterable[int]]]


@dataclass(frozen=True)
class Row:
    """One engine with one number of threads.

    Attributes:
        engine, version, threads: what ran.
        calls: that were counted, each of one scan.
        p50_ms, p95_ms, p99_ms: milliseconds that so many percent of the calls did not exceed.
        scans_per_second: calls over the sum of their times.
        load_s: seconds to make the engine ready; see `octlet.runtime.startup`. With the most threads only,
            like the next two.
        cold_start_s: median seconds of a whole `octlet predict` of one scan.
        peak_bytes: most memory of a process that verifies the model file; None where it is not told.
        celsius, throttled: of the CPU after the last call; see `octlet.runtime.machine`.
    """

    engine: str
    version: str | None
    threads: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    scans_per_second: float
    load_s: float | None
    cold_start_s: float | None
    peak_bytes: int | None
    celsius: float | None
    throttled: int | None


@dataclass(frozen=True)
class Benchmark:
    """Every row of one model file on one machine.

    Attributes:
        model: its name and the SHA-256 of its file.
        machine: that it ran on.
        conditions: of the machine, before and after each number of threads.
        rows: by number of threads, then engine.
        left_out: engine -> why it was not timed.
    """

    model: dict[str, str]
    machine: Machine
    conditions: tuple[Condition, ...]
    rows: tuple[Row, ...]
    left_out: dict[str, str]

    @property
    def fastest(self) -> Row:
        """The row of the smallest median; of equal ones that with the fewest threads."""
        return min(self.rows, key=lambda row: (row.p50_ms, row.threads))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What held the CPU back while it was measured: the figures are then not those of a sound machine."""
        since = self.conditions[0].since_boot
        names = dict.fromkeys(
            name
            for condition in self.conditions
            for name in (*condition.now, *(each for each in condition.since_boot if each not in since))
        )
        return tuple(names)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        fastest = self.fastest
        return {
            "model": self.model,
            "machine": self.machine.as_dict(),
            "conditions": [condition.as_dict() for condition in self.conditions],
            "warnings": list(self.warnings),
            "rows": [asdict(row) for row in self.rows],
            "left_out": self.left_out,
            "fastest": {"engine": fastest.engine, "threads": fastest.threads},
        }


def thread_counts(cpus: int) -> tuple[int, ...]:
    """Return 1 to `cpus`, of more than four only powers of two and all."""
    if cpus <= 4:
        return tuple(range(1, cpus + 1))
    return (*(2**k for k in range(math.ceil(math.log2(cpus)))), cpus)


def percentile(seconds: Sequence[float], share: float) -> float:
    """Return the least time that a `share`, 0 to 1, of the calls does not exceed: the nearest rank."""
    return sorted(seconds)[max(math.ceil(share * len(seconds)), 1) - 1]


def run_benchmark(
    bundle: Bundle,
    engines: Sequence[str] = (),
    threads: Sequence[int] = (),
    *,
    rounds: int = ROUNDS,
    progress: Progress = lambda label: iter,
) -> Benchmark:
    """Time engines on one model file: for each number of threads they take turns (`octlet.runtime.latency`).

    Before, each is started in a process of its own, where it replays the golden vectors: one that crashes or
    computes something else is left out.

    Args:
        bundle: the model file.
        engines: names; all that are installed and read the file if none is given.
        threads: numbers of threads, each 1 or more; `thread_counts` of the machine if none is given.
        rounds: calls to count for each engine and number of threads.
        progress: label -> a wrapper of a counting iterable.

    Raises:
        UsageError: an engine that was named is unknown or not installed, or `rounds` is under 1.
        ModelFileError: the file is for none of the engines, or none can compute it.
        GateError: no engine computes here what the exporting machine did.
        OctletError: no engine runs here without a crash.
    """
    machine = read_machine()
    counts = sorted(set(threads or thread_counts(machine.cpus)))
    names, left_out = _chosen(bundle, engines)
    started = _started(bundle, names, counts[-1], left_out)
    cold = _cold_starts(bundle, list(started), counts[-1], progress("cold starts"))
    conditions, rows = [read_condition()], list[Row]()
    for count in counts:
        timed = _timed(bundle, list(started), count, rounds, progress)
        conditions.append(read_condition())
        for name, seconds in timed.items():
            start_up = (started[name], cold[name]) if count == counts[-1] else None
            rows.append(_row(name, count, seconds, start_up, conditions[-1]))
    model = {"name": bundle.manifest.name, "sha256": sha256_of(bundle.path)}
    return Benchmark(model, machine, tuple(conditions), tuple(rows), left_out)


def _chosen(bundle: Bundle, named: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the engines to start; without names, also why the others are left out."""
    able = readers(bundle)
    if named:
        for name in named:
            entry_for(bundle, name)  # raises what is wrong with a name
        return list(dict.fromkeys(named)), {}
    if not able:
        held = ", ".join(bundle.manifest.engines)
        raise ModelFileError(f"holds networks for {held} only, none known here", path=bundle.path)
    left_out = {
        name: f"not installed: {kind.install}" if name in able else "the model file holds nothing for it"
        for name, kind in ENGINES.items()
        if name not in able or not kind.installed
    }
    names = [name for name in able if name not in left_out]
    if not names:
        entry_for(bundle, able[0])  # raises that it is not installed
    return names, left_out


def _started(
    bundle: Bundle, names: Sequence[str], threads: int, left_out: dict[str, str]
) -> dict[str, Startup]:
    """Start each engine; what cannot be used goes to `left_out`. Raises the first fault if nothing stays."""
    found: dict[str, Startup] = {}
    faults: list[OctletError] = []
    for name in names:
        try:
            found[name] = _sound(start(bundle.path, name, threads), bundle)
        except OctletError as error:
            faults.append(error)
            left_out[name] = error.rule
    if not found:
        raise faults[0]
    return found


def _sound(started: Startup, bundle: Bundle) -> Startup:
    if started.failed:
        rule = f"computes something else here: {', '.join(started.failed)}"
        raise GateError(rule, path=bundle.path, remedy="do not use it here; 'octlet verify' says more")
    return started


def _cold_starts(
    bundle: Bundle, names: Sequence[str], threads: int, progress: Callable[[Iterable[int]], Iterable[int]]
) -> dict[str, float]:
    """Return the median seconds of whole commands that predict one golden scan; the engines take turns."""
    vector = read_golden(bundle)[0]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="octlet-") as folder:
        scan = Path(folder, vector.name)
        scan.write_bytes(vector.image)
        words = ["-m", "octlet", "predict", "-m", str(bundle.path), str(scan)]
        for _ in progress(range(COLD_STARTS)):
            for name, own in seconds.items():
                begin = time.perf_counter()
                _predict([*words, "--engine", name, "--threads", str(threads)])
                own.append(time.perf_counter() - begin)
    return {name: statistics.median(own) for name, own in seconds.items()}


def _predict(words: Sequence[str]) -> None:
    done = python(*words)
    if done.returncode:
        raise UsageError(f"the command of a cold start {end_of(done)}", remedy="see 'octlet doctor'")


def _timed(
    bundle: Bundle, names: Sequence[str], threads: int, rounds: int, progress: Progress
) -> dict[str, tuple[float, ...]]:
    """Return the seconds of every counted call. Only these engines are in memory meanwhile."""
    loaded = [load_engine(bundle, name, threads) for name in names]
    sizes = [bundle.manifest.preprocessing.size] * len(loaded)
    shown = progress(f"{threads} thread{'s' if threads > 1 else ''}")
    found = latency.measure(loaded, sizes, rounds=rounds, progress=shown)
    return dict(zip(names, found.seconds, strict=True))


def _row(
    engine: str,
    threads: int,
    seconds: Sequence[float],
    start_up: tuple[Startup, float] | None,
    condition: Condition,
) -> Row:
    started, cold_start = start_up or (None, None)
    return Row(
        engine=engine,
        version=ENGINES[engine].version,
        threads=threads,
        calls=len(seconds),
        p50_ms=1e3 * percentile(seconds, 0.5),
        p95_ms=1e3 * percentile(seconds, 0.95),
        p99_ms=1e3 * percentile(seconds, 0.99),
        scans_per_second=len(seconds) / sum(seconds),
        load_s=started.load_seconds if started else None,
        cold_start_s=cold_start,
        peak_bytes=started.peak_bytes if started else None,
        celsius=condition.celsius,
        throttled=condition.throttled,
    )
