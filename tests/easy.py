"""Scans that are easy to learn, and the real command in this process."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from octlet.cli.main import main
from octlet.core.labels import LABELS

COUNTS = (24, 12, 8, 16)
# the class is a height: nothing may move it
STILL = [f"--set={name}=0" for name in ("label_smoothing", "shift", "zoom", "rotate")]


def band(number: int, rng: np.random.Generator) -> np.ndarray:
    """A scan whose class, 0 to 3, is the height of a bright band."""
    pixels = rng.integers(0, 60, (48, 64)).astype(np.uint8)
    pixels[6 + 10 * number :][:8] += 150
    return pixels


def write_bands(root: Path) -> None:
    """Write `COUNTS` such scans, each of a patient of its own, in the Kermany layout."""
    rng = np.random.default_rng(0)
    for number, (label, count) in enumerate(zip(LABELS, COUNTS, strict=True)):
        (root / "train" / label).mkdir(parents=True)
        for k in range(count):
            file = root / "train" / label / f"{label}-{1000 * number + k}-1.png"
            Image.fromarray(band(number, rng)).save(file)


def command(*words: object) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code and what it said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def result_of(*words: object) -> dict[str, Any]:
    """Run the command in this process; return the JSON document that it printed, and nothing else."""
    code, out, err = command(*words, "--json")
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


class Silent:
    """A training's `Watcher` that says nothing; with `stops` the first step is the last."""

    def __init__(self, *, stops: bool = False) -> None:
        self.stops = stops

    def step(self, done: int, total: int, loss: float) -> bool:
        return self.stops

    def epoch(self, row: dict[str, object], *, best: bool) -> None:
        pass
