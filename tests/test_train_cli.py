"""The real command on tiny real files: it learns, resumes bit by bit, survives kill -9 and Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from octlet.core.labels import LABELS
from octlet.train.checkpoint import load_run, read_tensors, write_tensors

SMALL = ["--model", "resnet18", "--size", "32", "--batch", "8", "--lr", "0.003"]
# the class is a height, so nothing may move it
for setting in ("label_smoothing=0", "shift=0", "zoom=0", "rotate=0"):
    SMALL += ["--set", setting]


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Forty easy scans: the class is the height of a bright band."""
    root = tmp_path_factory.mktemp("easy")
    rng = np.random.default_rng(0)
    for number in range(40):
        label = LABELS[number % 4]
        pixels = rng.integers(0, 60, (48, 64)).astype(np.uint8)
        pixels[6 + 10 * (number % 4) :][:8] += 150
        file = root / "train" / label / f"{label}-{100 + number // 2}{number % 4}-1.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("OCTLET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def split(scans, tmp_path_factory, octlet) -> Path:
    folder = tmp_path_factory.mktemp("split")
    assert octlet("data", "check", scans, "--out", folder).returncode == 0
    assert octlet("data", "split", folder / "index.csv").returncode == 0
    return folder / "split.csv"


def losses(run: Path) -> list[tuple[float, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["train_loss"], row["val_loss"]) for row in rows]


def train(octlet, scans, split, out, *more):
    return octlet("train", "--data", scans, "--split", split, "--out", out, *SMALL, *more)


@pytest.fixture(scope="module")
def whole(octlet, scans, split, tmp_path_factory) -> Path:
    """A run of four epochs without a stop."""
    out = tmp_path_factory.mktemp("whole") / "run"
    os.environ["OCTLET_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    result = train(octlet, scans, split, out, "--epochs", "4", "--set", "ema=0.5", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["epochs"] == 4
    assert "next: octlet export" in result.stderr
    return out


def test_a_run_folder_tells_all_of_the_run(whole):
    names = {path.name for path in whole.iterdir()}
    wanted = {"config.json", "environment.json", "split.csv", "metrics.jsonl", "curves.png"}
    assert names == wanted | {"checkpoint.safetensors", "last.safetensors"}
    config = json.loads((whole / "config.json").read_text())
    assert (config["epochs"], config["size"], config["ema"]) == (4, 32, 0.5)
    environment = json.loads((whole / "environment.json").read_text())
    assert {"octlet", "torch", "python", "git", "seed"} <= set(environment)
    meta = load_run(whole).meta
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["val_loss"])
    assert meta["epoch"] == best["epoch"]
    assert meta["metrics"]["val_loss"] == best["val_loss"]


def test_the_last_epoch_is_kept_where_asked(octlet, scans, split, tmp_path):
    out = tmp_path / "run"
    result = train(octlet, scans, split, out, "--epochs", "3", "--set", "keep=last", "--json")
    assert result.returncode == 0, result.stderr
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert json.loads(result.stdout)["kept"] == last
    assert load_run(out).meta["epoch"] == 3
    kept, _ = read_tensors(out / "checkpoint.safetensors")
    ended, _ = read_tensors(out / "last.safetensors")
    assert all(torch.equal(value, ended[f"net.{key}"]) for key, value in kept.items())


def test_every_scan_may_train_where_the_last_epoch_is_kept(octlet, scans, split, tmp_path):
    every = tmp_path / "every.csv"
    made = octlet("data", "split", split.parent / "index.csv", "--val", "0", "--test", "0", "--out", every)
    assert made.returncode == 0, made.stderr
    refused = train(octlet, scans, every, tmp_path / "no", "--epochs", "1")
    assert refused.returncode == 3
    assert "0 scans in 'val'" in refused.stderr
    assert "train.keep=last" in refused.stderr
    blind = tmp_path / "blind"
    result = train(octlet, scans, every, blind, "--epochs", "2", "--set", "keep=last")
    assert result.returncode == 0, result.stderr
    assert "judged by no validation scan" in result.stdout
    assert "val loss" not in result.stderr
    meta = load_run(blind).meta
    assert (meta["epoch"], meta["data"]["scans"], meta["metrics"]) == (2, 40, {})


def test_it_learns(whole):
    assert losses(whole)[-1][0] < 0.6 * losses(whole)[0][0]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_resumes_to_bitwise_the_same_losses(how, octlet, scans, split, whole, tmp_path):
    out = tmp_path / "run"
    words = ["train", "--data", scans, "--split", split, "--out", out, *SMALL, "--epochs", "4"]
    words += ["--set", "ema=0.5"]
    command = [sys.executable, "-m", "octlet", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/4"):
                process.send_signal(how)
                break
        process.stderr.read()
        code = process.wait()
    if how == signal.SIGINT:
        assert code in (0, 130)  # 0 if it was faster than the signal
    assert len(losses(out)) >= (2 if how == signal.SIGINT else 1)  # epochs so short are not all saved
    result = octlet(*words, "--resume")
    assert result.returncode == 0, result.stderr
    assert losses(out) == losses(whole)
    assert not list(out.glob(".*.part")) or how == signal.SIGKILL


def test_a_stop_inside_an_epoch_loses_nothing(octlet, scans, split, whole, tmp_path):
    """With save_minutes=0 every step is saved; the place of the stop is the operating system's choice."""
    out = tmp_path / "run"
    words = ["train", "--data", scans, "--split", split, "--out", out, *SMALL, "--epochs", "4"]
    words += ["--set", "ema=0.5", "--set", "save_minutes=0"]
    command = [sys.executable, "-m", "octlet", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/4"):
                break
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        process.wait()
    result = octlet(*words, "--resume")
    assert result.returncode == 0, result.stderr
    assert losses(out) == losses(whole)


def test_a_finished_or_changed_run_is_not_overwritten(octlet, scans, split, whole, tmp_path):
    again = train(octlet, scans, split, whole, "--epochs", "4", "--set", "ema=0.5")
    assert again.returncode == 2
    assert "not empty" in again.stderr
    changed = train(octlet, scans, split, whole, "--epochs", "5", "--set", "ema=0.5", "--resume")
    assert changed.returncode == 2
    assert "differ from the run's in epochs" in changed.stderr
    other = tmp_path / "other.csv"
    other.write_text(split.read_text().replace(",val,", ",test,", 1))
    moved = train(octlet, scans, other, whole, "--epochs", "4", "--set", "ema=0.5", "--resume")
    assert moved.returncode == 2
    assert "the split is not the run's" in moved.stderr


def test_a_run_from_before_a_setting_came_is_continued_with_its_default(
    octlet, scans, split, whole, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    tensors, record = read_tensors(out / "last.safetensors")
    del record["config"]["degrade"]
    write_tensors(out / "last.safetensors", tensors, record)
    words = ("--epochs", "4", "--set", "ema=0.5", "--resume")
    assert train(octlet, scans, split, out, *words, "--set", "save_minutes=1").returncode == 0
    assert losses(out) == losses(whole)
    other = train(octlet, scans, split, out, *words, "--set", "degrade=0.5")
    assert "differ from the run's in degrade" in other.stderr


def test_a_leaking_split_is_refused(octlet, scans, split, tmp_path):
    lines = split.read_text().splitlines()
    header, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
    patient, place = header.index("patient"), header.index("split")
    trained = next(row for row in rows if row[place] == "train")
    tested = next(row for row in rows if row[place] == "test")
    tested[patient] = trained[patient]
    leaking = tmp_path / "leak.csv"
    leaking.write_text("\n".join([lines[0], *(",".join(row) for row in rows)]) + "\n")
    result = train(octlet, scans, leaking, tmp_path / "run", "--epochs", "1")
    assert result.returncode == 3
    assert f"patient {trained[patient]} crosses splits" in result.stderr


def test_the_test_fold_is_never_read(octlet, scans, split, tmp_path):
    """Wrong labels in the test fold leave training as it is."""
    lines = split.read_text().splitlines()
    relabelled = [line.replace(",CNV,", ",DRUSEN,") if ",test," in line else line for line in lines]
    assert relabelled != lines
    other = tmp_path / "other.csv"
    other.write_text("\n".join(relabelled) + "\n")
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(octlet, scans, split, one, "--epochs", "1").returncode == 0
    assert train(octlet, scans, other, two, "--epochs", "1").returncode == 0
    assert losses(one) == losses(two)


def test_without_a_split_one_is_made_and_said(octlet, scans, tmp_path):
    result = octlet("train", "--data", scans, "--out", tmp_path / "run", *SMALL, "--epochs", "1")
    assert result.returncode == 0, result.stderr
    assert "splitting them by patient" in result.stderr
    assert (tmp_path / "run-data" / "split.csv").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "epoch=3"], "did you mean 'epochs'"),
        (["--set", "balanced=1"], "not of type bool"),
        (["--set", "device=cuda"], "no CUDA device"),
        (["--batch", "1"], "train.batch"),
    ],
)
def test_wrong_settings_end_with_2(octlet, scans, split, tmp_path, words, told):
    result = train(octlet, scans, split, tmp_path / "run", *words)
    assert result.returncode == 2
    assert told in result.stderr
