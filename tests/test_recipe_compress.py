"""Recipes with [[compress]] steps, through the real command."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from easy import command

from octlet.compress import distil
from octlet.core.bundle import open_bundle
from octlet.core.errors import GateError
from octlet.core.files import sha256_of
from octlet.data.split import read_split
from octlet.evaluate.predictions import Predictions
from octlet.export import package
from octlet.recipe import compress, gate
from octlet.recipe.branch import run_folder
from octlet.recipe.gate import judge
from octlet.recipe.settings import read_recipe
from octlet.train.checkpoint import load_run, read_record, save_run
from octlet.train.config import TrainConfig
from octlet.train.prior import shift_prior
from octlet.train.run import Feedback

DENSE = """
name = "easy"
[data]
path = "$EASY_SCANS"
[split]
val = 0.3
test = 0.2
[train]
model = "resnet18"
size = 32
batch = 8
lr = 3e-3
epochs = 10
label_smoothing = 0
shift = 0
zoom = 0
rotate = 0
[export]
prior_shift = 0.1
[evaluate]
resamples = 100
[gate]
max_loss = 100
"""
PRUNE = """
[[compress]]
step = "prune"
to_macs = 0.5
units = 1
steps = 1
round_to = 8
[compress.train]
epochs = 1
"""
DISTIL = """
[[compress]]
step = "distill"
[compress.train]
epochs = 2
lr = 1e-3
"""
CHAIN = f"""
{DENSE}{PRUNE}{DISTIL}
[[compress]]
step = "quantize"
calibration = 8
[compress.train]
epochs = 1
"""
STEPS = ["1-prune", "2-distill", "3-quantize"]
MODEL = ["compressed-export", "compressed-evaluate", "compare"]


@pytest.fixture(scope="module")
def run(easy_scans, quick_folding, tmp_path_factory):
    """Run a recipe's text in a folder; return the exit code, the result and what was said on stderr."""

    @cache
    def few_scans(_images: int, size: int) -> np.ndarray:
        return whole(64, size)

    def run(text: str, out: Path, *words: object) -> tuple[int, dict, str]:
        file = tmp_path_factory.mktemp("recipe") / "r.toml"
        file.write_text(text)
        with quick_folding():
            code, told, err = command("run", file, "--out", out, *words, "--json")
        return code, json.loads(told), err

    whole = package.simulated_scans
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EASY_SCANS", str(easy_scans))
        patch.setattr(package, "simulated_scans", few_scans)
        yield run


@pytest.fixture(scope="module")
def chain(run, tmp_path_factory) -> tuple[Path, dict, str]:
    """The folder of a whole chain, what it printed and what it said; do not write to it."""
    out = tmp_path_factory.mktemp("chain") / "out"
    code, result, err = run(CHAIN, out)
    assert code == 0, err
    return out, result, err


@pytest.fixture
def copied(chain, tmp_path) -> Path:
    """The chain's folder, to write to: files are replaced and never changed, so that links will do."""
    return Path(shutil.copytree(chain[0], tmp_path / "out", copy_function=os.link))


def done(result: dict) -> list[str]:
    return [row["stage"] for row in result["stages"] if row["status"] == "done"]


def record(file: Path) -> dict:
    return json.loads(file.read_text())


def test_a_chain_runs_every_step_and_its_gate_and_compares_what_comes_out(chain):
    out, result, err = chain
    steps = [name for step in STEPS for name in (step, f"{step}-gate")]
    assert done(result) == ["check", "split", "train", "export", "evaluate", *steps, *MODEL]
    dense, small = open_bundle(out / "model.octlet"), open_bundle(out / "compressed.octlet")
    assert small.manifest.name == "easy-compressed"
    assert dense.manifest.network != small.manifest.network == read_record(out / "1-prune")["spec"]
    assert [b.manifest.training["prior_shift"] for b in (dense, small)] == [0.1, 0.1]
    assert small.manifest.training["quantization"]["method"] == "qat"
    assert result["model"] == str(dense.path)
    assert result["compressed"]["model"] == str(small.path)
    assert f"next: octlet predict -m {small.path}" in err


def test_the_figures_of_both_models_and_their_difference_are_told(chain):
    out, result, _ = chain
    rows = list(csv.DictReader((out / "comparison" / "table.csv").open()))
    assert [row["name"] for row in rows] == ["dense", "compressed"]
    for row, metrics in zip(rows, (result["metrics"], result["compressed"]["metrics"]), strict=True):
        assert float(row["balanced_accuracy"]) == metrics["balanced_accuracy"]["value"]
    compared = result["comparison"]
    for key in ("accuracy", "balanced_accuracy"):
        assert compared["difference"][key]["value"] == pytest.approx(
            float(rows[1][key]) - float(rows[0][key])
        )
    sizes = [(out / name).stat().st_size for name in ("model.octlet", "compressed.octlet")]
    assert compared["size_ratio"] == sizes[0] / sizes[1] > 4
    assert compared["latency_ratio"] > 0
    assert Path(compared["report"]).read_text().lower().startswith("<!doctype html>")


def test_the_dense_network_teaches_what_the_step_before_left(chain):
    out, _, _ = chain
    meta = read_record(out / "2-distill")
    assert [each["sha256"] for each in meta["teacher"]] == [sha256_of(out / "train/checkpoint.safetensors")]
    assert meta["student"]["sha256"] == sha256_of(out / "1-prune/checkpoint.safetensors")
    assert read_record(out / "3-quantize")["float"]["metrics"] == meta["metrics"]


def test_the_dense_network_may_teach_itself_on_poor_scans(run, tmp_path):
    poor = DISTIL + "degrade = 0.5\n"
    code, _, err = run(DENSE + poor, tmp_path / "out", "--set=train.epochs=1")
    assert code == 0, err
    meta, dense = read_record(tmp_path / "out/1-distill"), tmp_path / "out/train/checkpoint.safetensors"
    assert meta["student"]["sha256"] == meta["teacher"][0]["sha256"] == sha256_of(dense)
    assert meta["config"]["degrade"] == 0.5


def test_the_gate_measures_on_the_validation_scans(chain):
    out, _, err = chain
    found, rows = record(out / "1-prune/gate.json"), record(out / "1-prune/pruning.json")
    assert found["dense"] == pytest.approx(rows[0]["val_balanced_accuracy"])
    assert found["compressed"] == pytest.approx(rows[-1]["trained_val_balanced_accuracy"])
    assert found["difference"]["value"] == pytest.approx(found["compressed"] - found["dense"])
    assert found["n"] == sum(row.split == "val" for row in read_split(out / "split/split.csv"))
    assert [record(out / step / "gate.json")["step"] for step in STEPS] == STEPS
    assert f"  1-prune: balanced accuracy {found['compressed']:.3f} on {found['n']} validation scans" in err


def test_what_is_done_is_kept(run, chain):
    code, again, _ = run(CHAIN, chain[0])
    assert code == 0
    assert done(again) == []
    assert again["comparison"] == chain[1]["comparison"]


def test_both_models_stand_in_the_table(run, chain, tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(CHAIN)
    code, told, err = command("run", file, "--out", chain[0])
    assert code == 0, err
    head = next(line for line in told.splitlines() if line.startswith("test: "))
    assert [word.strip() for word in head.split("  ") if word][1:] == [
        "dense (95 % interval)",
        "compressed",
        "difference",
    ]
    value = chain[1]["compressed"]["metrics"]["macro_auc"]["value"]
    assert any(f"{value:.3f}" in line for line in told.splitlines() if line.startswith("macro auc"))
    assert f"{chain[1]['comparison']['size_ratio']:.1f} times smaller" in told


BROKEN = PRUNE.replace("0.5", "0.02").replace("epochs = 1", "epochs = 1\nlr = 1e-9")


def test_a_step_that_evidently_loses_stops_the_chain_and_is_not_trained_again(run, copied):
    text = DENSE + BROKEN + PRUNE.replace("0.5", "0.9")
    for _ in range(2):  # a gate that failed is not done
        code, result, err = run(text, copied, "--set", "gate.max_loss=1")
        assert code == 5
        assert "1-prune: balanced accuracy" in result["error"]["message"]
        assert result["error"]["file"] == str(copied / "1-prune")
        assert not (copied / "2-prune").exists()
        found = record(copied / "1-prune/gate.json")
        assert not found["passed"]
        assert found["difference"]["high"] < -0.01
    assert "1-prune: up to date" in err
    code, result, err = run(text, copied)
    assert code == 0, err
    assert done(result) == ["1-prune-gate", "2-prune", "2-prune-gate", *MODEL]
    assert record(copied / "1-prune/gate.json")["passed"]
    manifest = open_bundle(copied / "compressed.octlet").manifest
    assert manifest.training["prior_shift"] == 0.1  # by the export, where nothing is rounded
    asked = record(copied / "2-prune/config.json")
    assert asked["teacher"] == sha256_of(copied / "train" / "checkpoint.safetensors")


@pytest.mark.parametrize(("high", "passed"), [(-0.04, True), (-0.06, False), (None, False)])
def test_only_an_interval_that_lies_wholly_below_stops_a_chain(high, passed, monkeypatch, tmp_path):
    difference = {"value": -0.2, "low": -0.3, "high": high}
    told = {"difference": {"balanced_accuracy": difference}, "discordant": {"changed_call": 3}}
    said = Predictions(("a",), np.zeros(1, np.int64), ("p",), np.array([[1.0, 0, 0, 0]]))
    monkeypatch.setattr(gate, "_both", lambda *_: (said, said))
    monkeypatch.setattr(gate, "compare", lambda *_, **__: told)
    settings = {"max_loss": 5.0, "resamples": 100, "seed": 0, "feedback": Feedback()}
    with nullcontext() if passed else pytest.raises(GateError, match="all of that is a loss of more than"):
        gate.judge(tmp_path, tmp_path, tmp_path, [], TrainConfig(), **settings)
    assert record(tmp_path / "gate.json")["passed"] is passed


def test_a_killed_step_goes_on(run, copied, easy_scans, tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(DENSE + PRUNE.replace("steps = 1", "steps = 2"))
    words = [sys.executable, "-u", "-m", "octlet", "run", str(file), "--out", str(copied)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 2 of 2"):
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    kept = (copied / "1-prune/step-1/checkpoint.safetensors").stat().st_mtime_ns
    code, _, err = run(file.read_text(), copied)
    assert code == 0, err
    assert "1-prune: continuing" in err
    assert "step 1 of 2" not in err
    assert (copied / "1-prune/step-1/checkpoint.safetensors").stat().st_mtime_ns == kept
    assert len(record(copied / "1-prune/pruning.json")) == 3


def test_a_changed_last_step_runs_alone_and_goes_on_where_ctrl_c_stopped_it(run, copied, monkeypatch):
    def interrupted(*args, feedback, **named):
        def step(*_) -> None:
            signal.raise_signal(signal.SIGINT)

        return distil.distil_run(*args, feedback=replace(feedback, step=step), **named)

    text, words = DENSE + PRUNE + DISTIL, ["--set", "compress.2.train.lr=5e-4"]
    before = sha256_of(copied / "model.octlet")
    with monkeypatch.context() as patch:
        patch.setattr(compress, "distil_run", interrupted)
        code, result, _ = run(text, copied, *words)
    assert code == 130
    assert result["error"]["remedy"] == "run the same command again to go on"
    assert result["error"]["file"] == str(copied / "2-distill")
    code, result, err = run(text, copied, *words)
    assert code == 0, err
    assert "2-distill: continuing\n" in err
    assert "resuming after 0 of 2 epochs" in err
    assert done(result) == ["2-distill", "2-distill-gate", *MODEL]
    assert read_record(copied / "2-distill")["config"]["lr"] == 5e-4
    assert read_record(copied / "previous" / "2-distill-1")["config"]["lr"] == 1e-3
    assert "quantization" not in open_bundle(copied / "compressed.octlet").manifest.training
    assert sha256_of(copied / "model.octlet") == before


def test_a_folder_without_a_save_is_cleared_and_one_with_it_is_kept(tmp_path):
    run = tmp_path / "2-distill"
    for resume in (True, False):
        run.mkdir(exist_ok=True)
        (run / "config.json").touch()
        with run_folder(run, resume):
            assert run.exists() == resume


def test_folds_are_compared_one_by_one_and_pooled(run, tmp_path):
    text = DENSE + PRUNE
    words = [f"--set={each}" for each in ("split.folds=2", "split.take=1", "train.epochs=1")]
    code, result, err = run(text, tmp_path / "out", *words)
    assert code == 0, err
    own = [f"fold-0/{name}" for name in ("train", "export", "evaluate", "1-prune", "1-prune-gate", *MODEL)]
    assert done(result) == ["check", "split", *own, "pool", "compressed-pool", "compare"]
    assert result["compressed"]["model"] == str(tmp_path / "out/fold-0/compressed.octlet")
    pooled, fold = (
        record(tmp_path / "out" / place / "comparison/comparison.json") for place in ("", "fold-0")
    )
    assert pooled["n"] == fold["n"] == result["compressed"]["metrics"]["n"]
    assert pooled["comparisons"] == fold["comparisons"]


def test_a_prior_shift_is_given_to_the_dense_network_as_well(chain, easy_scans, tmp_path, monkeypatch):
    dense = chain[0] / "train"
    shifted = load_run(dense)
    shift_prior(shifted, 50.0, dense)
    save_run(tmp_path, shifted.net, shifted.meta)
    monkeypatch.setenv("EASY_SCANS", str(easy_scans))
    (tmp_path / "r.toml").write_text(DENSE)
    config = read_recipe(tmp_path / "r.toml").train
    rows = read_split(chain[0] / "split/split.csv")
    settings = {"max_loss": 100, "resamples": 100, "seed": 0, "feedback": Feedback()}
    assert judge(dense, tmp_path, easy_scans, rows, config, **settings)["changed_call"] == 0
    save_run(tmp_path, shifted.net, {**shifted.meta, "prior_shift": 0.0})
    assert judge(dense, tmp_path, easy_scans, rows, config, **settings)["changed_call"] > 0


# What a recipe says -----------------------------------------------------------------------------------------
