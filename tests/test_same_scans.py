"""benchmarks/same_scans.py: figures on the scans that all predictions have."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from octlet.core.labels import LABELS
from octlet.evaluate.predictions import Predictions, write_predictions

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "same_scans.py"
TRUE = np.arange(24) % 4


def said(path: Path, calls: np.ndarray, rows: np.ndarray) -> Path:
    paths = tuple(f"{LABELS[label]}-{k}-1.png" for k, label in enumerate(TRUE))
    patients = tuple(f"patient {k}" for k in range(len(TRUE)))
    write_predictions(path, Predictions(paths, TRUE, patients, np.eye(4)[calls] * 0.6 + 0.1).select(rows))
    return path


def test_only_scans_that_all_have_count_and_files_of_one_name_are_pooled(tmp_path):
    rng = np.random.default_rng(4)
    one, other = (np.where(rng.random(24) < 0.3, rng.integers(0, 4, 24), TRUE) for _ in range(2))
    halves = [said(tmp_path / f"{k}.csv", one, np.arange(24)[part]) for k, part in HALVES]
    shared = np.arange(6, 20)
    less = said(tmp_path / "less.csv", other, shared[::-1])
    words = [f"one={','.join(map(str, halves))}", f"other={less}"]
    ran = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "out.csv", *words], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["one", "other"]
    for row, calls in zip(rows, (one, other), strict=True):
        assert row["n"] == "14"
        assert row["accuracy"] == f"{accuracy_score(TRUE[shared], calls[shared]):.4f}"
        assert row["balanced_accuracy"] == f"{balanced_accuracy_score(TRUE[shared], calls[shared]):.4f}"
        missed = (TRUE[shared] < 2) & (calls[shared] == 3)
        assert row["urgent_called_normal"] == str(missed.sum())
    first, second = (float(row["balanced_accuracy"]) for row in rows)
    assert abs(float(rows[1]["difference"]) - (second - first)) < 2e-4
    assert float(rows[0]["difference"]) == 0


HALVES = ((0, slice(0, 11)), (1, slice(11, 24)))
