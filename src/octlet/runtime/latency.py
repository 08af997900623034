"""How long networks take for one scan, measured in turn on one machine, and how they compare."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from octlet.core.bundle import Bundle
from octlet.core.errors import UsageError
from octlet.runtime.engine import Array, Engine, load_engine

ROUNDS, WARM_UP = 21, 3

# With one thread a ratio tells of the networks' work; more threads would also measure how it is shared out.
THREADS = 1
HOW = {"rounds": ROUNDS, "warm_up": WARM_UP, "threads": THREADS}  # for the record of a measurement


@dataclass(frozen=True)
class Latency:
    """What one scan takes in each engine, in the order given; the first is the reference.

    Attributes:
        medians: in seconds.
        seconds: of every counted call, one row for each engine.
    """

    medians: tuple[float, ...]
    seconds: tuple[tuple[float, ...], ...] = ()

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times faster than the reference each is: its median over theirs, 1 for itself."""
        return tuple(self.medians[0] / median for median in self.medians)


def measure(
    engines: Sequence[Engine],
    sizes: Sequence[int],
    *,
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Latency:
    """Time engines on one random scan each, side by side: every round runs all of them in turn.

    So a machine that slows down slows all of them, and the ratios stand. Only the network is timed, not the
    decoding of a scan. `sizes` are the sides of the engines' inputs in pixels; engines of one size see the
    same float32 (1, 1, S, S), uniform in -1..1 and drawn from `seed`. The first `warm_up` rounds are not
    counted. `clock` returns seconds.

    Raises UsageError without an engine or a round to count, and what the engines raise.
    """
    if not engines or rounds < 1:
        raise UsageError("a latency needs an engine and a round", remedy="give at least one of each")
    inputs = {size: _scan(size, seed) for size in sizes}
    seconds: list[list[float]] = [[] for _ in engines]
    for number in progress(range(warm_up + rounds)):
        for engine, size, own in zip(engines, sizes, seconds, strict=True):
            start = clock()
            engine.run(inputs[size])
            elapsed = clock() - start
            if number >= warm_up:
                own.append(elapsed)
    return Latency(tuple(map(statistics.median, seconds)), tuple(map(tuple, seconds)))


def measure_files(
    bundles: Sequence[Bundle], progress: Callable[[Iterable[int]], Iterable[int]] = iter
) -> Latency:
    """Load model files with `THREADS` thread each and `measure` them; raises what `load_engine` raises."""
    engines = [load_engine(bundle, threads=THREADS) for bundle in bundles]
    return measure(engines, [bundle.manifest.preprocessing.size for bundle in bundles], progress=progress)


def _scan(size: int, seed: int) -> Array:
    uniform = np.random.default_rng(seed).uniform(-1, 1, size=(1, 1, size, size))
    return uniform.astype(np.float32)
