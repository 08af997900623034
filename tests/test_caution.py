"""benchmarks/caution.py: a factor is chosen on the other folds, and divides the odds of NORMAL."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from octlet.core.labels import LABELS
from octlet.data.split import SplitRecord, write_split
from octlet.evaluate.predictions import Predictions, write_predictions

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "caution.py"
# p(DME), p(NORMAL) of two folds of a DME, a CNV taken for one, and three NORMAL scans
FOLDS = (
    ([0.25, 0.9, 0.2, 0.3, 0.02], [0.75, 0.1, 0.8, 0.7, 0.98]),
    ([0.1, 0.95, 0.2, 0.45, 0.05], [0.9, 0.05, 0.8, 0.55, 0.95]),
)
TRUE = np.array([1, 0, 3, 3, 3])


@pytest.fixture
def place(tmp_path):
    parts, records = [], []
    for fold, (dme, normal) in enumerate(FOLDS):
        paths = [f"{LABELS[label]}-{fold}{k}-1.png" for k, label in enumerate(TRUE)]
        p = np.zeros((5, 4))
        p[:, 1], p[:, 3] = dme, normal
        parts.append((paths, p))
        records += [(fold, path, LABELS[label]) for path, label in zip(paths, TRUE, strict=True)]
    for fold in range(2):
        rows = [
            SplitRecord(path, label, path, "test" if own == fold else "train", 9, 9, "0" * 64, "0" * 64, path)
            for own, path, label in records
        ]
        write_split(tmp_path / "split" / f"fold-{fold}.csv", rows)
    paths = tuple(path for part, _ in parts for path in part)
    said = Predictions(paths, np.tile(TRUE, 2), paths, np.concatenate([p for _, p in parts]))
    write_predictions(tmp_path / "said.csv", said)
    return tmp_path


def run(place, *words):
    command = [sys.executable, SCRIPT, place / "out", place / "split", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_folds_factor_is_the_least_that_serves_the_others(place):
    ran = run(place, f"it={place / 'said.csv'}")
    assert ran.returncode == 0, ran.stderr
    without, strict, _ = csv.DictReader((place / "out.csv").read_text().splitlines())
    assert (without["urgent_called_normal"], without["factor_most"]) == ("2", "1.00")
    # the first fold's DME is called DME from a factor of 3 on, the second's from 9: each fold has the other's
    assert 3 <= float(strict["factor_least"]) < 3.1
    assert 9 <= float(strict["factor_most"]) < 9.2
    assert strict["urgent_called_normal"] == "1"  # the second fold's, whose factor is about 3
    # NORMAL scans whose odds are below the fold's factor go: 0.8 and 0.7 of the first, 0.55 of the second
    assert float(strict["normal_called_normal"]) == 3 / 6
    assert (place / "out.png").read_bytes().startswith(b"\x89PNG")


def test_scans_that_no_fold_tests_are_refused(place):
    (place / "split" / "fold-1.csv").unlink()
    ran = run(place, f"it={place / 'said.csv'}")
    assert ran.returncode
    assert "not every scan is tested in one of these folds" in ran.stderr
    assert not (place / "out.csv").exists()
