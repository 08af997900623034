"""Predictions and scans for the verbs that score, and what these verbs say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from octlet.cli.main import main
from octlet.core.labels import LABELS
from octlet.evaluate.predictions import Predictions


def simulated(seed: int = 0, n: int = 60, skill: float = 1.0, prefix: str = "") -> Predictions:
    """Predictions of n scans of at most 25 patients, whose labels and patients no seed changes."""
    rng = np.random.default_rng(0)
    labels, patients = rng.integers(4, size=n), rng.integers(25, size=n)
    scores = np.random.default_rng([seed, 1]).normal(size=(n, 4))
    scores[np.arange(n), labels] += skill
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return Predictions(tuple(f"{prefix}{row}.png" for row in range(n)), labels, tuple(map(str, patients)), p)


def write_noise(root: Path) -> Path:
    """Write twelve scans of six patients under class folders."""
    rng = np.random.default_rng(0)
    for number, label in enumerate(LABELS * 3):
        file = root / label / f"{label}-{number % 6}-{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 200, size=(80, 96), dtype=np.uint8)).save(file)
    return root


def said(capsys: Any, *args: object) -> tuple[int, dict[str, Any]]:
    """Run a verb with --json and return its exit code and its one document."""
    code = main([*map(str, args), "--json"])
    return code, json.loads(capsys.readouterr().out)
