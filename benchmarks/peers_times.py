"""How long the rows of `peers.py` take beside each other: a scan in the network, a start, and the memory."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers_networks import bytes_of
from peers_ways import load

from octlet.core.files import write_json
from octlet.runtime import latency

HERE = Path(__file__).parent
START_ROUNDS = 7

Found = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """What is timed, weighed and looked up of a row."""

    name: str
    way: str
    model: Path
    network: Path
    file: Path  # what it is to carry about
    size: int
    shipped: bool
    counted: bool

    @property
    def label(self) -> str:
        """The name, and what its network was made of: times of another network are not its own."""
        return f"{self.name}: {self.network.parent.name}/{self.network.name}"

    @property
    def bytes(self) -> int:
        """What it weighs."""
        return bytes_of(self.file)

    def command(self, scan: Path) -> list[str]:
        """Return the command that answers one scan from a standing start."""
        if self.shipped:
            words = ["-m", "octlet", "predict", "-m", self.model, "--threads", 1, "--engine", self.way, scan]
        else:
            words = [HERE / "peers_ways.py", self.way, self.network, self.size, scan]
        return [sys.executable, *map(str, words)]


def kept(work: Path) -> Found:
    """Return what `measure` found last; nothing where it never ran."""
    file = work / "times.json"
    return json.loads(file.read_text()) if file.exists() else {}


def measure(subjects: Sequence[Subject], reference: str, scan: Path, work: Path) -> Found:
    """Return, and keep in `work`, how many times faster than the reference each subject is.

    For each label `faster` and `start_faster`, [median, lower quartile, upper quartile] of the rounds'
    ratios, and `peak_mb`, the median; nothing without the reference.
    """
    names = [each.name for each in subjects]
    if reference not in names:
        return {}
    first = names.index(reference)
    starts = _starts([each.command(scan) for each in subjects])  # first, while this process is small
    engines = [load(each.way, each.network, each.size) for each in subjects]
    took = latency.measure(engines, [each.size for each in subjects], progress=_told).seconds
    found: Found = {}
    for subject, start, own in zip(subjects, starts, took, strict=True):
        seconds, peaks = ([each[what] for each in start] for what in ("seconds", "peak_mb"))
        found[subject.label] = {
            "faster": _ratios(took[first], own),
            "start_faster": _ratios([each["seconds"] for each in starts[first]], seconds),
            "peak_mb": statistics.median(peaks),
        }
    write_json(work / "times.json", found)
    return found


def _ratios(reference: Sequence[float], own: Sequence[float]) -> list[float]:
    each = [theirs / ours for theirs, ours in zip(reference, own, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    return [middle, low, high]


def _starts(commands: list[list[str]]) -> list[list[dict[str, float]]]:
    asked = json.dumps({"rounds": START_ROUNDS, "commands": commands})
    command = [sys.executable, str(HERE / "peers_start.py")]
    # an installed package has its bytecode compiled; let a checkout keep it too
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, input=asked, stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    turns: list[list[dict[str, float]]] = json.loads(done.stdout)
    return turns


def _told(rounds: Any) -> Any:
    for number in rounds:
        print(f"latency, round {number + 1} of {len(rounds)}", file=sys.stderr)
        yield number
