"""From the counters of one process to the instructions of a prediction, and to a MODELLED latency."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from arm.guest_predict import PARTS
from octlet.core.errors import OctletError
from octlet.runtime.pi5 import CORES, HERTZ, PUBLISHED, PublishedRun

SERIAL = ("decode", "preprocessing", "answer")  # on one core; the network takes all four


@dataclass(frozen=True)
class Count:
    """Instructions, of all kinds and of some.

    Attributes:
        all: every instruction.
        dot: SDOT and UDOT, 16 multiply-accumulates of int8 each (8 in the short form).
        fmla: FMLA on vectors, 4 multiply-accumulates of float32 each.
        load_store: loads, stores and prefetches.
    """

    all: int
    dot: int
    fmla: int
    load_store: int


def parse(text: str) -> list[Count]:
    """Read what insn_count.c wrote, one count a mark, each since the start of the process.

    Raises OctletError where it is cut short or malformed.
    """
    try:
        counts = [Count(*map(int, line.split(","))) for line in text.splitlines()]
    except (TypeError, ValueError) as error:
        raise OctletError(f"the counters are malformed: {error}", remedy="count again") from error
    if len(counts) < 1 + len(PARTS) or (len(counts) - 1) % len(PARTS):
        rule = f"{len(counts)} marks, not one and {len(PARTS)} for each prediction"
        raise OctletError(rule, remedy="did the emulated program end early?")
    return counts


def per_part(marks: Sequence[Count]) -> dict[str, Count]:
    """Return what each part of a prediction took: the median, by each counter, over the predictions.

    Args:
        marks: one at the start, then one after each part of each prediction.
    """
    taken = [
        Count(*(after - before for before, after in zip(_values(first), _values(second), strict=True)))
        for first, second in pairwise(marks)
    ]
    parts = {name: [_values(count) for count in taken[k :: len(PARTS)]] for k, name in enumerate(PARTS)}
    return {
        name: Count(*(int(statistics.median_low(column)) for column in zip(*counts, strict=True)))
        for name, counts in parts.items()
    }


def spread(marks: Sequence[Count]) -> float:
    """Return by how much whole predictions differ: the largest over the smallest number, less 1."""
    ends = [mark.all for mark in marks[:: len(PARTS)]]
    totals = [after - before for before, after in pairwise(ends)]
    return max(totals) / min(totals) - 1


def total(parts: Mapping[str, Count]) -> Count:
    """Return the sum over the parts of a prediction."""
    return Count(*map(sum, zip(*map(_values, parts.values()), strict=True)))


def _values(count: Count) -> tuple[int, int, int, int]:
    return count.all, count.dot, count.fmla, count.load_store


@dataclass(frozen=True)
class Pace:
    """Instructions that one core of a Pi 5 finishes in a cycle, as published runs make it likely.

    Attributes:
        value: of the run most like ours; low and high: of the least and the most efficient run.
    """

    value: float
    low: float
    high: float


def pace(instructions: float, macs: float, runs: Sequence[PublishedRun] = PUBLISHED) -> Pace:
    """Calibrate the pace: published seconds of known multiply-accumulates, in counted instructions.

    A published network is taken to need as many instructions a multiply-accumulate as the reference does:
    then it finished ``macs_run * instructions / macs`` of them, in ``seconds * CORES * HERTZ`` cycles.

    Args:
        instructions: of the reference network alone, dense and int8.
        macs: its multiply-accumulates.
        runs: the first gives the value.
    """
    rates = [run.macs * instructions / macs / (run.seconds * CORES * HERTZ) for run in runs]
    return Pace(rates[0], min(rates), max(rates))


@dataclass(frozen=True)
class Latency:
    """A MODELLED latency in milliseconds."""

    value: float
    low: float
    high: float


def modelled_latency(parts: Mapping[str, Count], rate: Pace) -> Latency:
    """Return what a Pi 5 is modelled to take: ``(network / CORES + the rest) / (HERTZ * pace)``.

    The network is spread evenly over the cores, the rest runs on one; every instruction takes as long as the
    average one of an int8 network.
    """
    serial = sum(parts[name].all for name in SERIAL)
    cycles = parts["network"].all / CORES + serial
    return Latency(*(1e3 * cycles / (HERTZ * each) for each in (rate.value, rate.high, rate.low)))
