"""`octlet prune` through the real command, and what takes its runs."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from easy import command, result_of

from octlet.compress.prune.sparsity import sparsity_of
from octlet.core.bundle import CARD, open_bundle
from octlet.train.checkpoint import LAST, load_run, read_record

GENTLE = ["--epochs", 1, "--lr", "1e-3", "--set", "round_to=8"]
CUT = ["--to-macs", 0.3, "--steps", 2, *GENTLE]


@pytest.fixture(scope="module")
def prune(easy_scans: Path, easy_run: Path, tmp_path_factory: pytest.TempPathFactory):
    """Prune the easy run into a folder of its own; return the folder and the result."""

    def run(*words: object) -> tuple[Path, dict]:
        out = tmp_path_factory.mktemp("pruned") / "run"
        return out, result_of("prune", easy_run, "--data", easy_scans, "--out", out, *words)

    return run


@pytest.fixture(scope="module")
def cut(prune) -> tuple[Path, dict]:
    return prune(*CUT)


def test_the_network_ends_with_the_macs_that_were_asked_for(cut, easy_run):
    out, result = cut
    assert 0.24 < result["macs_share"] <= 0.3
    first, middle, last = result["steps"]
    assert middle["macs"] / first["macs"] == pytest.approx(0.3**0.5, rel=0.15)
    assert last["macs"] < middle["macs"] < first["macs"]
    dense, small = load_run(easy_run).net, load_run(out).net
    assert small.spec != dense.spec
    assert all(w % 8 == 0 for stage in small.spec.stages for unit in stage for w in unit.widths)
    assert result["parameters"] == sum(p.numel() for p in small.parameters())


def test_a_pruned_run_tells_where_it_comes_from(cut, easy_run):
    out, result = cut
    meta, dense = read_record(out), read_record(easy_run)
    assert meta["pruning"]["first"]["spec"] == dense["spec"]
    assert meta["pruning"]["macs"] == result["macs"]
    assert meta["pruning"]["to_macs"] == 0.3
    assert meta["data"] == dense["data"]
    assert meta["metrics"]["val_accuracy"] == result["pruned"]["val_accuracy"]


def test_every_step_is_on_record_and_is_a_run(cut):
    out, result = cut
    rows = list(csv.DictReader((out / "pruning.csv").open()))
    assert [int(row["macs"]) for row in rows] == [row["macs"] for row in result["steps"]]
    assert list(rows[0]) == list(rows[1])
    assert rows[0]["trained_val_accuracy"] == ""
    for k in (1, 2):
        assert load_run(out / f"step-{k}").meta["pruning"]["step"] == k
        assert not (out / f"step-{k}" / LAST).exists()
        assert not (out / f"step-{k}" / "pruned.safetensors").exists()
    assert (out / "pruning.png").read_bytes().startswith(b"\x89PNG")
    assert torch.equal(load_run(out).net.fc.weight, load_run(out / "step-2").net.fc.weight)


def test_a_pruned_run_exports_and_quantises(cut, easy_scans, tmp_path, quick_folding):
    out, _ = cut
    model = tmp_path / "small.octlet"
    assert result_of("export", out, "--out", model)["model"] == str(model)
    bundle = open_bundle(model)
    assert bundle.manifest.network == load_run(out).meta["spec"]
    assert bundle.manifest.training["pruning"]["to_macs"] == 0.3
    assert "Pruned, in steps, towards 0.3 of its multiply-accumulates." in bundle.read(CARD).decode()
    with quick_folding():
        words = ["--method", "ptq", "--set", "calibration=8", "--out", tmp_path / "int8"]
        told = result_of("quantize", out, "--data", easy_scans, *words)
        assert told["layers"][0] == told["layers"][1]
        exported = result_of("export", tmp_path / "int8", "--out", tmp_path / "int8.octlet", "--images", 200)
    assert exported["operators"]["QLinearConv"] == 21


def test_a_pruned_run_is_pruned_on_and_remembers_the_dense_one(cut, easy_scans, easy_run, tmp_path):
    words = ["--to-macs", 0.8, "--steps", 1, *GENTLE, "--teacher", easy_run]
    result_of("prune", cut[0], "--data", easy_scans, "--out", tmp_path / "again", *words)
    first = read_record(tmp_path / "again")["pruning"]["first"]
    assert first["spec"] == read_record(easy_run)["spec"]


def test_units_go_whole(prune):
    out, result = prune("--to-macs", 1, "--units", 1, "--steps", 1, *GENTLE)
    assert [row["units"] for row in result["steps"]] == [8, 3]
    assert [len(stage) for stage in load_run(out).net.spec.stages] == [0, 1, 1, 1]
    assert result["macs_share"] < 1


def test_taylor_ranks_across_the_network_within_the_floor(prune):
    words = ["--importance", "taylor", "--scope", "global", "--set", "floor=0.5", "--set", "batches=2"]
    out, result = prune("--to-macs", 0.5, "--steps", 1, *GENTLE, *words)
    assert result["macs_share"] <= 0.5
    spec = load_run(out).net.spec
    widths = [w / (64 * 2**i) for i, stage in enumerate(spec.stages) for unit in stage for w in unit.widths]
    assert min(widths) >= 0.5
    assert len(set(widths)) > 2


@pytest.fixture(scope="module")
def sparse(prune) -> tuple[Path, dict]:
    return prune("--unstructured", "--sparsity", 0.8, "--steps", 2, "--epochs", 1, "--lr", "1e-3")


def test_single_weights_become_zero_and_stay_so_through_the_training(sparse):
    out, result = sparse
    assert result["sparsity"] == pytest.approx(0.8, abs=1e-4)
    assert sparsity_of(load_run(out).net) == pytest.approx(0.8, abs=1e-4)
    assert [row["sparsity"] for row in result["steps"]] == pytest.approx([0, 1 - 0.2**0.5, 0.8], abs=1e-4)
    assert result["macs_share"] == 1
    assert 0.15 < result["zipped_share"] < 0.45


def test_the_report_says_that_zeros_save_no_time(easy_run, easy_scans, tmp_path):
    words = ["--unstructured", "--sparsity", 0.5, "--steps", 1, "--epochs", 1, "--out", tmp_path / "run"]
    code, out, err = command("prune", easy_run, "--data", easy_scans, *words)
    assert code == 0, err
    assert "50.0% of the weights are zero" in out
    assert "runs no faster" in out
    assert "next: octlet quantize" in err


def test_rewinding_begins_again_from_the_first_weights_that_are_left(prune, easy_run):
    words = ["--unstructured", "--sparsity", 0.3, "--steps", 1, "--epochs", 1]
    begun, _ = prune(*words, "--rewind", "weights", "--lr", "1e-9")
    on, _ = prune(*words, "--lr", "1e-9")
    from octlet.train.config import TrainConfig
    from octlet.train.run import Feedback, fresh_net

    config = read_record(easy_run)["config"]
    fresh, _ = fresh_net(TrainConfig(**config), Feedback())
    weights = load_run(begun).net.layer2[0].conv1.weight.detach()
    held = weights != 0
    torch.testing.assert_close(weights[held], fresh.layer2[0].conv1.weight.detach()[held], atol=1e-6, rtol=0)
    assert torch.equal(held, load_run(on).net.layer2[0].conv1.weight != 0)


def test_rewinding_the_rate_takes_the_settings_of_the_first_training(prune, easy_run):
    out, _ = prune("--unstructured", "--steps", 1, "--rewind", "rate", "--epochs", 1)
    config, first = read_record(out)["config"], read_record(easy_run)["config"]
    assert config["lr"] == first["lr"] == 0.003
    assert config["schedule"] == first["schedule"]


def test_a_killed_pruning_goes_on_and_keeps_the_steps_that_are_done(cut, easy_run, easy_scans, tmp_path):
    out = tmp_path / "run"
    words = ["prune", easy_run, "--data", easy_scans, "--out", out, *CUT]
    run = [sys.executable, "-u", "-m", "octlet", *map(str, words)]
    with subprocess.Popen(run, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 2 of 2"):
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    done = json.loads((out / "pruning.json").read_text())
    assert len(done) == 2
    kept = (out / "step-1" / "checkpoint.safetensors").stat().st_mtime_ns
    was = json.loads((out / "config.json").read_text())
    del was["degrade"]  # as before there was such a setting: it had its default
    (out / "config.json").write_text(json.dumps(was))
    again = result_of(*words, "--resume")
    assert (out / "step-1" / "checkpoint.safetensors").stat().st_mtime_ns == kept
    assert again["steps"] == cut[1]["steps"]
    for a, b in zip(load_run(out).net.parameters(), load_run(cut[0]).net.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (["--to-macs", 0.001, "--steps", 1], 5, "so few MACs"),
        (["--to-macs", 2], 2, "prune.to_macs = 2.0"),
        (["--sparsity", 0.5], 2, "--sparsity means nothing without --unstructured"),
        (["--unstructured", "--to-macs", 0.5], 2, "--to-macs means nothing with --unstructured"),
        (["--set", "importanse=taylor"], 2, "did you mean 'importance'"),
        (["--set", "export.name=x"], 2, "the tables are prune and train"),
        (["--set", "rewind=rate"], 2, "goes with single weights"),
    ],
)
def test_what_cannot_be_done_is_refused(words, exit_code, said, easy_run, easy_scans, tmp_path):
    words = ["prune", easy_run, "--data", easy_scans, "--out", tmp_path / "run", *words]
    code, _, err = command(*words)
    assert code == exit_code
    assert said in err


def test_a_folder_that_holds_another_pruning_is_left_alone(cut, easy_run, easy_scans):
    words = ["prune", easy_run, "--data", easy_scans, "--out", cut[0]]
    assert "not empty" in command(*words, *CUT)[2]
    code, _, err = command(*words, *CUT, "--importance", "taylor", "--resume")
    assert code == 2
    assert "differ from the run's in prune" in err
    assert result_of(*words, *CUT, "--resume") == cut[1]  # nothing was left to do
