"""`octlet quantize` and what takes its runs, through the real command: small nets on scans that are easy."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from easy import band, command, result_of
from test_export_layers import whole_steps

from octlet.compress.quant.graph import FakeQuantised
from octlet.compress.quant.run import load_quantised
from octlet.core.bundle import ONNX, open_bundle
from octlet.core.errors import ModelFileError
from octlet.core.image import normalise, prepare
from octlet.core.labels import LABELS
from octlet.export import package
from octlet.export.qdq import parity_of, to_qdq
from octlet.runtime.engines import onnxruntime
from octlet.runtime.verify import verify
from octlet.train.checkpoint import load_run, read_record, read_tensors

QAT = ["--method", "qat", "--epochs", "3", "--set", "quantize.calibration=16", "--lr", "1e-4"]


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_folding) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, quick_folding():
        patch.setattr(package, "simulated_scans", cache(package.simulated_scans))  # the same for every file
        yield


@pytest.fixture(scope="module")
def scans(easy_scans: Path) -> Path:
    return easy_scans


@pytest.fixture(scope="module")
def trained(easy_run: Path) -> Path:
    return easy_run


@pytest.fixture(scope="module")
def quantize(scans: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory):
    """Quantise the trained run into a folder of its own; return the folder and the result."""

    def run(*words: object) -> tuple[Path, dict[str, Any]]:
        out = tmp_path_factory.mktemp("quantised") / "run"
        return out, result_of("quantize", trained, "--data", scans, "--out", out, *words)

    return run


@pytest.fixture(scope="module")
def ptq(quantize) -> tuple[Path, dict[str, Any]]:
    return quantize("--method", "ptq", "--observer", "min-max", "--sensitivity", "--set", "calibration=16")


@pytest.fixture(scope="module")
def twin(ptq) -> FakeQuantised:
    return load_quantised(ptq[0]).twin


@pytest.fixture(scope="module")
def qat(quantize) -> tuple[Path, dict[str, Any]]:
    return quantize(*QAT)


@pytest.fixture(scope="module")
def linear(quantize) -> tuple[Path, dict[str, Any]]:
    return quantize("--method", "qat-linear", "--epochs", 2, "--lr", "1e-3")


@pytest.fixture(scope="module")
def exported(ptq, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("exported") / "ptq.octlet"
    return out, result_of("export", ptq[0], "--out", out, "--images", 500)


@pytest.fixture(scope="module")
def float_file(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "float.octlet"
    assert command("export", trained, "--out", out)[0] == 0
    return out


def losses(run: Path) -> list[tuple[float, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["train_loss"], row["val_loss"]) for row in rows]


def test_a_quantised_run_tells_how_it_was_made(ptq, trained):
    out, result = ptq
    assert (result["run"], result["method"], result["epochs"]) == (str(out), "ptq", 0)
    assert result["layers"] == [21, 21]
    assert 0.99 < result["weights_share"] < 1
    assert (
        set(result["float"])
        == set(result["quantised"])
        == {"val_loss", "val_accuracy", "val_balanced_accuracy"}
    )
    assert result["quantised"]["val_loss"] == pytest.approx(result["float"]["val_loss"], abs=0.2)
    meta = read_record(out)
    assert (meta["quantization"]["method"], meta["quantization"]["calibrated_on"]) == ("ptq", 16)
    assert meta["metrics"] == result["quantised"]
    assert meta["float"]["metrics"] == load_run(trained).meta["metrics"]
    assert meta["data"] == load_run(trained).meta["data"]
    assert json.loads((out / "config.json").read_text())["quantize"]["calibration"] == 16
    assert (out / "split.csv").read_bytes() == (trained / "split.csv").read_bytes()


def test_layers_are_ranked_by_what_their_rounding_alone_does(ptq, twin):
    out, result = ptq
    rows = list(csv.DictReader(io.StringIO((out / "sensitivity.csv").read_text())))
    assert [row["layer"] for row in rows] == [row["layer"] for row in result["sensitivity"]]
    assert sorted(row["layer"] for row in rows) == sorted(twin.layers)
    costs = [float(row["divergence"]) for row in rows]
    assert costs == sorted(costs, reverse=True)
    assert 0 <= costs[-1] < costs[0]
    sizes = {name: p.numel() for name, p in twin.graph.named_parameters()}
    assert all(int(row["weights"]) == sizes[row["layer"] + ".weight"] for row in rows)
    assert (out / "sensitivity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("observer", ["histogram", "percentile"])
def test_every_observer_finds_ranges_no_wider_than_the_values(observer, quantize, ptq):
    words = ("--method", "ptq", "--observer", observer, "--set", "calibration=16")
    out, result = quantize(*words, "--set", "quantize.percentile=99", "--weights-bits", 7)
    full, cut = (read_tensors(run / "checkpoint.safetensors")[0] for run in (ptq[0], out))
    tops = [name for name in full if name.endswith(".high")]
    assert all(cut[name] <= full[name] + 1e-6 for name in tops)
    assert any(cut[name] < full[name] - 1e-6 for name in tops)
    assert result["quantised"]["val_accuracy"] >= result["float"]["val_accuracy"] - 0.25
    assert read_record(out)["quantization"]["observer"] == observer
    assert read_record(out)["quantization"]["weights_bits"] == 7


def test_layers_that_are_excluded_stay_in_float_and_are_told(quantize):
    words = ("--method", "ptq", "--set", "calibration=8", "--exclude", "layer4.*", "--exclude", "fc")
    out, result = quantize(*words)
    assert result["layers"] == [15, 21]
    assert result["weights_share"] < 0.3  # the last stage has most of the weights
    quantised = load_quantised(out)
    assert quantised.excluded == [
        *(name for name in quantised.twin.layers if name.startswith("layer4")),
        "fc",
    ]


def test_a_quantised_file_is_small_and_computes_what_was_simulated(exported, float_file, twin):
    out, result = exported
    assert out.stat().st_size < float_file.stat().st_size / 3
    assert (result["operators"]["QLinearConv"], result["operators"]["QLinearAdd"]) == (21, 8)
    for parity in result["integers"].values():
        assert parity["images"] == 500
        assert parity["agreement"] >= 0.995
        assert parity["logits"] <= 0.05
    assert result["parameters"] == sum(p.numel() for p in twin.parameters())
    graph = onnx.load_from_string(open_bundle(out).read(ONNX)).graph
    small = sum(len(each.raw_data) for each in graph.initializer if each.data_type == onnx.TensorProto.INT8)
    weights = sum(p.numel() for p in twin.parameters() if p.ndim > 1)
    assert weights <= small <= 1.01 * weights  # a byte each
    assert verify(out).passed
    manifest = open_bundle(out).manifest
    assert manifest.training["quantization"]["method"] == "ptq"
    assert manifest.training["integers"] == result["integers"]
    assert manifest.training["layers"] == result["layers"]
    assert result["layers"]["values"] > 100_000
    assert result["layers"]["steps"] <= 1


def test_a_trained_run_is_loaded_with_biases_in_whole_steps(qat):
    for steps in whole_steps(to_qdq(load_quantised(qat[0]).twin, 32).onnx):
        assert (np.abs(steps - steps.round()) <= 0.01 + 3e-7 * np.abs(steps)).all()


def test_on_scans_it_was_trained_for_the_engine_gives_the_labels_that_were_simulated(exported, twin):
    rng = np.random.default_rng(8)
    labels = np.arange(600) % 4
    pixels = np.stack([prepare(band(label, rng), 32).pixels for label in labels])
    engine = onnxruntime.load(open_bundle(exported[0]).read(ONNX), 32, 1)
    simulated, computed = [], []
    with torch.inference_mode():
        for first in range(0, 600, 50):
            batch = normalise(pixels[first : first + 50])
            simulated.append(twin(torch.from_numpy(batch)).logits.numpy())
            computed.append(engine.run(batch).logits)
    found = parity_of(np.concatenate(simulated), np.concatenate(computed))
    assert found.agreement >= 0.995
    assert found.logits <= 0.05
    assert (np.concatenate(computed).argmax(1) == labels).mean() > 0.8


def test_a_quantised_file_is_verified_and_predicts(exported, scans):
    code, out, _ = command("verify", exported[0])
    assert code == 0, out
    paths = sorted((scans / "train" / "CNV").iterdir())[:4]
    told = result_of("predict", *paths, "--model", exported[0])
    assert json.dumps(told).count('"CNV"') >= 4, told


def test_training_with_rounding_keeps_what_was_learned(qat, ptq, tmp_path):
    out, result = qat
    assert (result["method"], result["epochs"], len(losses(out))) == ("qat", 3, 3)
    assert result["quantised"]["val_loss"] <= result["float"]["val_loss"] + 0.2
    config = json.loads((out / "config.json").read_text())
    assert (config["lr"], config["epochs"], config["keep"], config["size"]) == (1e-4, 3, "last", 32)
    tuned, plain = (read_tensors(run / "checkpoint.safetensors")[0] for run in (out, ptq[0]))
    assert set(tuned) == set(plain)
    assert not torch.equal(tuned["graph.layer1.0.conv1.weight"], plain["graph.layer1.0.conv1.weight"])
    assert (out / "curves.png").exists()
    told = result_of("export", out, "--out", tmp_path / "qat.octlet", "--images", 500)
    assert told["operators"]["QLinearConv"] == 21
    assert all(each["agreement"] >= 0.995 for each in told["integers"].values())


def test_a_killed_training_resumes_to_bitwise_the_same_losses(qat, scans, trained, tmp_path):
    out = tmp_path / "run"
    words = ["quantize", trained, "--data", scans, "--out", out, *QAT]
    whole = [sys.executable, "-m", "octlet", *map(str, words)]
    with subprocess.Popen(whole, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/3"):
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.read()
        assert process.wait() in (-signal.SIGKILL, 0)  # 0 if it was faster than the signal
    assert losses(out)  # epochs so short are not all saved
    changed = command(*words, "--resume", "--weights-bits", 7)
    assert changed[0] == 2
    assert "differ from the run's in quantize" in changed[2]
    code, _, err = command(*words, "--resume")
    assert code == 0, err
    assert "resuming after" in err
    assert losses(out) == losses(qat[0])
    one, other = (read_tensors(run / "checkpoint.safetensors")[0] for run in (out, qat[0]))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_neither_verb_resumes_the_others_run(qat, scans, trained, tmp_path):
    copied = tmp_path / "float"
    shutil.copytree(trained, copied)
    code, _, err = command("quantize", trained, "--data", scans, "--out", copied, *QAT, "--resume")
    assert (code, "quantize" in err) == (2, True)
    shutil.copytree(qat[0], tmp_path / "qat")
    config = json.loads((tmp_path / "qat" / "config.json").read_text())
    settings = [f"{key}={json.dumps(value)}" for key, value in config.items() if key != "quantize"]
    words = [word for setting in settings for word in ("--set", setting)]
    code, _, err = command("train", "--data", scans, "--out", tmp_path / "qat", *words, "--resume")
    assert (code, "quantize" in err) == (2, True)
    assert losses(tmp_path / "qat") == losses(qat[0])


def test_a_prior_shift_is_not_unlearned_and_belongs_before_the_rounding(quantize, scans, ptq, tmp_path):
    gentle = ["--method", "qat-linear", "--epochs", 1, "--lr", "1e-9"]
    (plain, _), (shifted, _) = quantize(*gentle), quantize(*gentle, "--prior-shift", 2)
    assert losses(shifted)[0][0] == pytest.approx(losses(plain)[0][0], rel=0.01)
    moved = load_run(shifted).net.fc.bias - load_run(plain).net.fc.bias
    shares = np.array([read_record(plain)["data"]["per_class"][label] for label in LABELS], float)
    np.testing.assert_allclose(moved.detach(), -2 * np.log(shares / shares.sum()), atol=1e-4)
    assert read_record(shifted)["prior_shift"] == 2
    for run, told in ((ptq[0], "belongs before the rounding"), (shifted, "already shifted, by 2")):
        code, _, err = command("export", run, "--prior-shift", 0.5, "--out", tmp_path / "model.octlet")
        assert (code, told in err) == (2, True)
    assert not (tmp_path / "model.octlet").exists()


def test_torchaos_linear_layer_lies_on_four_bits_and_all_else_is_float(linear, trained, tmp_path):
    out, result = linear
    assert (result["layers"], result["epochs"]) == ([1, 21], 2)
    assert result["weights_share"] < 0.001
    run = load_run(out)
    groups = run.net.fc.weight.detach().reshape(4, -1, 32)
    for group in groups.flatten(0, 1):
        scale = min((group.abs().max() / n for n in (7, 7.5, 8)), key=lambda s: off_grid(group, s))
        assert off_grid(group, scale) < 1e-3
        assert len(torch.unique(group)) <= 16
    after = run.net.state_dict()
    assert set(after) == set(load_run(trained).net.state_dict())
    assert all(len(torch.unique(t)) > 16 for name, t in after.items() if name.endswith("conv1.weight"))
    told = result_of("export", out, "--out", tmp_path / "linear.octlet")
    assert "integers" not in told
    assert verify(tmp_path / "linear.octlet").passed


def off_grid(group: torch.Tensor, scale: torch.Tensor) -> float:
    steps = group / scale
    return float((steps - steps.round()).abs().max())


def test_a_quantised_run_is_no_float_run(qat, ptq, linear, scans, tmp_path):
    for run in (qat[0], ptq[0], linear[0]):
        code, _, err = command("quantize", run, "--data", scans, "--method", "ptq", "--out", tmp_path / "run")
        assert (code, "a quantised run" in err) == (4, True), run
    with pytest.raises(ModelFileError, match="takes a float one"):
        load_run(qat[0])
    with pytest.raises(ModelFileError, match="not a quantised run"):
        load_quantised(linear[0])
    assert not (tmp_path / "run").exists()


def test_wrong_folders_end_with_their_codes(scans, trained, ptq, tmp_path):
    (tmp_path / "empty").mkdir()
    words = ("--data", scans, "--method", "ptq")
    assert command("quantize", tmp_path / "absent", *words)[0] == 3
    assert command("quantize", tmp_path / "empty", *words)[0] == 4
    damaged = tmp_path / "damaged"
    shutil.copytree(trained, damaged)
    os.truncate(damaged / "checkpoint.safetensors", 5000)
    assert command("quantize", damaged, *words)[0] == 4
    for out, told in (
        (["--out", ptq[0]], "not empty"),
        (["--out", tmp_path / "new", "--resume"], "nothing to"),
    ):
        code, _, err = command("quantize", trained, *words, *out)
        assert (code, told in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--weights-bits", "9"), "9 is not in the range"),
        (("--exclude", "layer9.*"), "no layer is called 'layer9.*'"),
        (("--method", "qat-linear", "--sensitivity"), "rounds one layer"),
        (("--set", "quantize.percentile=20"), "quantize.percentile = 20.0"),
        (("--set", "percentil=99"), "did you mean 'percentile'"),
        (("--set", "train.epoch=1"), "did you mean 'epochs'"),
        (("--set", "model.size=1"), "the tables are quantize and train"),
        (("--set", "exclude=fc"), "not of type tuple"),
    ],
)
def test_wrong_settings_end_with_2(words, told, scans, trained, tmp_path):
    out = tmp_path / "run"
    code, _, err = command("quantize", trained, "--data", scans, "--out", out, "--method", "ptq", *words)
    assert code == 2
    assert told in err
    assert not out.exists()


def test_another_size_is_the_size_of_the_run(quantize):
    out = quantize("--method", "ptq", "--set", "train.size=48", "--set", "calibration=8")[0]
    assert read_record(out)["size"] == read_record(out)["config"]["size"] == 48


def test_a_folder_is_named_after_the_run_and_the_method_and_the_result_printed(
    trained, scans, monkeypatch, tmp_path
):
    shutil.copytree(trained, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    code, out, err = command("quantize", ".", "--data", scans, "--method", "ptq", "--set", "calibration=8")
    assert code == 0, err
    assert read_record(tmp_path / "mine-ptq")["quantization"]["method"] == "ptq"
    assert "ptq, 21 of 21 layers rounded" in out
    assert "balanced accuracy" in out
    assert f"next: octlet export {tmp_path / 'mine-ptq'}" in err
