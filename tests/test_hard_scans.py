"""benchmarks/hard_scans.py: what every network calls otherwise than its label."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np

from octlet.core.labels import LABELS
from octlet.evaluate.predictions import Predictions, write_predictions

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "hard_scans.py"
TRUE = np.array([0, 1, 2, 3, 1, 0, 2, 3])
#         the fifth scan, a DME, is NORMAL to all; the sixth, a CNV, is DRUSEN to two of three
CALLS = np.array([[0, 1, 2, 3, 3, 2, 2, 3], [0, 1, 2, 3, 3, 2, 2, 3], [0, 1, 2, 3, 3, 0, 2, 3]])


def test_scans_are_counted_by_the_networks_that_get_them_wrong(tmp_path):
    paths = tuple(f"{LABELS[label]}-{k}-1.png" for k, label in enumerate(TRUE))
    for k, calls in enumerate(CALLS):
        said = Predictions(paths, TRUE, tuple("abcdefgh"), np.eye(4)[calls] * 0.6 + 0.1)
        write_predictions(tmp_path / f"{k}.csv", said.select(np.roll(np.arange(8), k)))  # in another order
    words = [f"{k}={tmp_path / f'{k}.csv'}" for k in range(3)]
    ran = subprocess.run([sys.executable, SCRIPT, tmp_path / "hard", *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = list(csv.DictReader((tmp_path / "hard.csv").read_text().splitlines()))
    kept = [(row["path"], row["wrong"], row["called_normal"], row["most_called"]) for row in rows]
    assert kept == [("DME-4-1.png", "3", "3", "NORMAL"), ("CNV-5-1.png", "2", "0", "DRUSEN")]
    assert [rows[1][f"p_{label}"] for label in LABELS] == ["0.300", "0.100", "0.500", "0.100"]
    assert "called wrong by none: 6\nby at least nine of ten: 1; by all: 1\n" in ran.stdout
    assert "urgent called NORMAL by all: 1; by the network with the fewest: 1" in ran.stdout
    assert "accuracy 75.0%, balanced 75.0%" in ran.stdout
    assert (tmp_path / "hard.png").read_bytes().startswith(b"\x89PNG")
