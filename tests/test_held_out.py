"""benchmarks/held_out.py: the test scans of a run's own split, as a plain forward pass judges them."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from octlet.core.image import normalise
from octlet.core.labels import LABELS
from octlet.data.cache import prepared_scans
from octlet.data.split import SplitRecord, read_split, write_split
from octlet.data.stages import check_scans, split_index
from octlet.evaluate.predictions import read_predictions
from octlet.train.checkpoint import load_run, save_run
from octlet.train.run import fingerprint_of

HELD_OUT = Path(__file__).parent.parent / "benchmarks" / "held_out.py"
TAU = 0.5


@pytest.fixture
def split(tiny_run: Path, easy_scans: Path, tmp_path: Path) -> list[SplitRecord]:
    """The split of tmp_path/run-0, a run that says that it was trained on it."""
    check_scans(easy_scans, tmp_path / "check")
    split_index(tmp_path / "check" / "index.csv", tmp_path / "split.csv", shares={"val": 0.2, "test": 0.3})
    rows = read_split(tmp_path / "split.csv")
    trained = load_run(tiny_run)
    counts = {label: 10 * (i + 1) for i, label in enumerate(LABELS)}
    data = {"fingerprint": fingerprint_of(rows), "per_class": counts}
    save_run(tmp_path / "run-0", trained.net, trained.meta | {"data": data})
    write_split(tmp_path / "run-0" / "split.csv", rows)
    return rows


def test_the_test_scans_are_judged_by_a_shifted_forward_pass(
    split: list[SplitRecord], easy_scans: Path, tmp_path: Path
) -> None:
    rows = sorted((row for row in split if row.split == "test"), key=lambda row: row.path)
    trained = load_run(tmp_path / "run-0")
    shares = np.arange(1, len(LABELS) + 1) / 10  # of 10, 20, 30 and 40 training scans
    files = [(row.path, row.sha256) for row in rows]

    def judged(size: int, turn: bool) -> np.ndarray:
        inputs = torch.from_numpy(normalise(np.asarray(prepared_scans(easy_scans, files, size))))
        with torch.no_grad():
            logits = trained.net.eval()(inputs.flip(3) if turn else inputs).logits.double().numpy()
        odds = np.exp(logits) / shares**TAU
        return odds / odds.sum(1, keepdims=True)

    own = trained.meta["size"]
    plain, turned, larger = judged(own, False), judged(own, True), judged(2 * own, False)
    cases = [(1, [], plain), (2, [], plain), (1, ["--mirror"], (plain + turned) / 2)]
    for times, more, wanted in [*cases, (1, ["--size", str(2 * own)], larger)]:
        out = tmp_path / f"{times}{len(more)}.csv"
        runs = [str(tmp_path / "run-{k}")] * times  # a network is the ensemble of itself
        command = [sys.executable, HELD_OUT, out, easy_scans, "--prior-shift", str(TAU), *more, *runs]
        subprocess.run(command, check=True)
        found = read_predictions(out)
        assert found.paths == tuple(row.path for row in rows)
        assert found.patients == tuple(row.patient for row in rows)
        assert [LABELS[label] for label in found.labels] == [row.label for row in rows]
        np.testing.assert_allclose(found.probabilities, wanted, atol=2e-5)


def swap_tested(rows: list[SplitRecord]) -> list[SplitRecord]:
    """Return the split with validation scans for test scans."""
    return [replace(row, split={"val": "test", "test": "val"}.get(row.split, row.split)) for row in rows]


def test_a_fold_that_is_not_there_is_left_out_and_no_fold_is_an_error(
    split: list[SplitRecord], easy_scans: Path, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "run-0", tmp_path / "run-2")
    write_split(tmp_path / "run-2" / "split.csv", swap_tested(split))
    command = [sys.executable, HELD_OUT, tmp_path / "out.csv", easy_scans]
    done = subprocess.run([*command, tmp_path / "run-{k}"], check=True, capture_output=True, text=True)
    assert f"{tmp_path / 'run-0'}, {tmp_path / 'run-2'}\n" in done.stdout
    tested = {row.path for row in split if row.split != "train"}
    assert set(read_predictions(tmp_path / "out.csv").paths) == tested
    for missing in ("none-{k}", "none"):
        done = subprocess.run([*command, tmp_path / missing], check=False, capture_output=True, text=True)
        assert done.returncode
        assert "no such run folder" in done.stderr


def test_runs_of_different_splits_are_refused(
    split: list[SplitRecord], easy_scans: Path, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "run-0", tmp_path / "other-0")
    write_split(tmp_path / "other-0" / "split.csv", swap_tested(split))
    runs = [str(tmp_path / name) for name in ("run-{k}", "other-{k}")]
    command = [sys.executable, HELD_OUT, tmp_path / "out.csv", easy_scans, *runs]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode
    assert "its split is not that of" in done.stderr
    assert not (tmp_path / "out.csv").exists()
