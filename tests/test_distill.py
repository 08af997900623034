"""`octlet distill`: teachers as one, against numpy and Pillow; the verb, through its real command line."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from easy import band, command, result_of
from PIL import Image

from octlet.compress.distil import DistilConfig
from octlet.compress.prune.sparsity import kernels, sparsify
from octlet.core.bundle import CARD, open_bundle
from octlet.core.errors import UsageError
from octlet.core.files import sha256_of
from octlet.core.labels import LABELS
from octlet.core.settings import as_dict
from octlet.data.split import SplitRecord, read_split, write_split
from octlet.models.resnet import Outputs, ResNet, build
from octlet.models.spec import NetSpec, UnitSpec
from octlet.train.checkpoint import load_run, read_record, read_tensors, save_run
from octlet.train.config import TrainConfig
from octlet.train.loop import probabilities_of, validate
from octlet.train.objective import Objective
from octlet.train.run import Feedback, RunPlace, carry_out, folds_of, record_of
from octlet.train.state import new_state

# the class is a height: nothing may move it
STILL = [f"--set=train.{name}=0" for name in ("label_smoothing", "shift", "zoom", "rotate")]
QUICK = ["--batch", 8, "--lr", 0.01, *STILL]


@pytest.fixture(scope="module", autouse=True)
def _no_curves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("octlet.train.run.draw_curves", lambda *_: None)  # most of the time of small nets
        yield


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty easy scans: the class is the height of a bright band."""
    root = tmp_path_factory.mktemp("easy")
    rng = np.random.default_rng(0)
    for number in range(60):
        label = LABELS[number % 4]
        file = root / "train" / label / f"{label}-{100 + number}-1.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(band(number % 4, rng)).save(file)
    return root


def small_net(seed: int, width: int = 8) -> ResNet:
    stages = ((UnitSpec((width, width), 1, False),), (UnitSpec((2 * width, 2 * width), 2, True),))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(NetSpec("v1.5", width, stages)).eval()


@pytest.fixture(scope="module")
def split(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> list[SplitRecord]:
    folder = tmp_path_factory.mktemp("split")
    assert command("data", "check", scans, "--out", folder)[0] == 0
    assert command("data", "split", folder / "index.csv")[0] == 0
    return read_split(folder / "split.csv")


@pytest.fixture(scope="module")
def teacher(scans: Path, split: list[SplitRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small network that has learned the easy scans, without their test fold."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    still = {"label_smoothing": 0.0, "shift": 0.0, "zoom": 0.0, "rotate": 0.0}
    config = TrainConfig(model="small", size=32, epochs=12, batch=8, lr=0.02, **still)
    net = small_net(4, 16)
    place = RunPlace(out, as_dict(config), split, resume=False)
    state = new_state(net, config, torch.device("cpu"))
    folds = folds_of(config, scans, split, Feedback())
    carry_out(state, folds, config, place, record_of(config, net, split), Objective(), Feedback())
    assert read_record(out)["metrics"]["val_accuracy"] > 0.8
    return out


def run_of(folder: Path, split: list[SplitRecord], net: ResNet, **more: Any) -> Path:
    """A run folder of `net`, as if it had been trained."""
    record = record_of(TrainConfig(size=32, seed=5), net, split) | {"epoch": 1, "metrics": {}}
    save_run(folder, net, record | more)
    write_split(folder / "split.csv", split)
    return folder


@pytest.fixture(scope="module")
def small(split: list[SplitRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network of a few thousand weights that has learned nothing: what the students go on from."""
    return run_of(tmp_path_factory.mktemp("small") / "small", split, small_net(1))


@pytest.fixture(scope="module")
def distill(scans: Path, teacher: Path, small: Path, tmp_path_factory: pytest.TempPathFactory):
    """Distil into a folder of its own; return the folder and the result."""

    def run(
        *words: object, teachers: tuple[Path, ...] = (), student: bool = True
    ) -> tuple[Path, dict[str, Any]]:
        out = tmp_path_factory.mktemp("distilled") / "run"
        base = ["--student", small] if student else []
        told = result_of(
            "distill", *(teachers or (teacher,)), "--data", scans, "--out", out, *base, *QUICK, *words
        )
        return out, told

    return run


Distill = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def distilled(distill: Distill) -> tuple[Path, dict[str, Any]]:
    return distill("--epochs", 3, "--match", "cam")


def losses(run: Path) -> list[tuple[float, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["train_loss"], row["val_loss"]) for row in rows]


# Teachers as one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"weight": 1.1},
        {"weight": float("nan")},
        {"temperature": 0.0},
        {"match_weight": -1.0},
        {"weight": 0.0},
        {"weight": 0.0, "match": "cam", "match_weight": 0.0},
    ],
)
def test_settings_that_teach_nothing_or_nonsense_are_refused(bad):
    with pytest.raises(UsageError, match=r"distill\."):
        DistilConfig(**bad)
    DistilConfig(weight=0.0, match="features")


# The verb -----------------------------------------------------------------------------------------------


def test_a_students_run_tells_who_taught_it(distilled, teacher, small):
    out, told = distilled
    meta, taught = read_record(out), load_run(teacher)
    (who,) = meta["teacher"]
    assert who["sha256"] == sha256_of(teacher / "checkpoint.safetensors")
    assert (who["run"], who["model"], who["size"]) == ("run", "small", 32)
    assert who["parameters"] == sum(p.numel() for p in taught.net.parameters())
    assert who["metrics"] == taught.meta["metrics"]
    assert meta["distill"] == asdict(DistilConfig(match="cam"))
    assert meta["student"]["run"] == "small"
    assert meta["data"] == taught.meta["data"]
    assert NetSpec.from_dict(meta["spec"]) == load_run(small).net.spec
    assert meta["metrics"] == told["student"]
    assert told["teacher"]["val_accuracy"] == taught.meta["metrics"]["val_accuracy"]
    assert told["teacher"]["val_loss"] == pytest.approx(taught.meta["metrics"]["val_loss"], abs=1e-3)
    assert (told["epochs"], len(losses(out)), told["teachers"]) == (3, 3, meta["teacher"])
    assert json.loads((out / "config.json").read_text())["distill"]["match"] == "cam"
    assert (out / "split.csv").read_bytes() == (teacher / "split.csv").read_bytes()
    assert torch.equal(load_run(small).net.fc.weight, small_net(1).fc.weight)  # where it began is left alone


def test_a_student_learns_what_its_teacher_says_even_where_the_labels_say_otherwise(
    distill, teacher, scans, split, tmp_path
):
    """The teacher calls every class by the next one's name."""
    net = load_run(teacher).net
    with torch.no_grad():
        net.fc.weight.copy_(net.fc.weight.roll(1, 0))
        net.fc.bias.copy_(net.fc.bias.roll(1, 0))
    wrong = run_of(tmp_path / "wrong", split, net)
    out, told = distill("--epochs", 15, "--weight", 1, "--set", "train.keep=last", teachers=(wrong,))
    assert told["teacher"]["val_accuracy"] < 0.2
    fold = folds_of(TrainConfig(size=32), scans, split, Feedback())[0]
    said = probabilities_of(load_run(out).net, fold, TrainConfig(amp="off"), torch.device("cpu")).argmax(1)
    assert (said == (fold.labels + 1) % 4).mean() > 0.9


@pytest.mark.parametrize("match", ["cam", "features"])
def test_what_is_matched_comes_nearer(match, distill):
    words = ("--weight", 0, "--match", match, "--epochs", 6, "--set", "train.speckle=0")
    (idle, _), (drawn, _) = distill(*words, "--match-weight", 1e-6), distill(*words, "--match-weight", 50)
    assert losses(drawn)[0][0] > losses(idle)[0][0] + 1  # it is added to the labels' loss
    assert losses(drawn)[-1][0] < 0.7 * losses(drawn)[0][0]


def test_a_fresh_student_of_another_size_from_two_teachers(distill, teacher, split, tmp_path):
    second = run_of(tmp_path / "second", split, small_net(2, 12), size=64)
    words = ["--model", "resnet18", "--size", 64, "--epochs", 1, "--match", "cam", "--weight", 0.5]
    out, told = distill(*words, teachers=(teacher, second), student=False)
    assert [each["run"] for each in told["teachers"]] == ["run", "second"]
    assert (told["weights"], read_record(out)["size"], "student" in read_record(out)) == (None, 64, False)


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ([], 64),
        (["--set", "train.views=2", "--set", "distill.mirror=true"], 64),
        (["--set", "distill.teacher_size=96"], 96),
    ],
)
def test_a_smaller_student_is_taught_by_what_the_teacher_sees_at_its_own_size_or_another(
    more, size, distill, split, scans, tmp_path, monkeypatch
):
    large, shown = run_of(tmp_path / "large", split, small_net(2, 12), size=64), {}
    plain = ResNet.forward

    def forward(net: ResNet, batch: torch.Tensor) -> Outputs:
        shown.setdefault(net.spec.stem, set()).add(batch.shape[-1])
        return plain(net, batch)

    monkeypatch.setattr(ResNet, "forward", forward)
    _, told = distill("--size", 32, "--epochs", 1, *more, teachers=(large,))
    assert shown == {12: {size}, 8: {32}}
    if not more:  # its figures beside the student's are its own ones
        config = TrainConfig(size=64, amp="off")
        fold = folds_of(config, scans, split, Feedback())[1]
        own = validate(load_run(large).net, fold, config, torch.device("cpu"))
        assert told["teacher"]["val_loss"] == pytest.approx(own["loss"], rel=0.01)


def test_weights_that_were_pruned_to_zero_stay_zero(scans, teacher, split, tmp_path):
    net = small_net(1)
    sparsify(net, 0.6)
    sparse = run_of(tmp_path / "sparse", split, net, pruning={"what": "weights"})
    words = ["--student", sparse, "--out", tmp_path / "run", *QUICK, "--epochs", 2, "--set", "train.ema=0.5"]
    result_of("distill", teacher, "--data", scans, *words)
    after = load_run(tmp_path / "run").net
    for (name, one), (_, other) in zip(kernels(net), kernels(after), strict=True):
        assert torch.equal(one == 0, other == 0), name
        assert not torch.equal(one, other)
    assert read_record(tmp_path / "run")["pruning"] == {"what": "weights"}


def test_it_says_how_it_went_and_what_comes_next(scans, teacher, small, tmp_path):
    base = tmp_path / "copy"
    shutil.copytree(small, base)
    words = ["distill", teacher, "--data", scans, "--student", base, *QUICK, "--size", 64, "--epochs", 1]
    code, out, err = command(*words)
    assert code == 0, err
    assert "on the validation fold" in out
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["loss", "accuracy", "balanced"]
    assert f"next: octlet export {tmp_path / 'copy-distilled'}" in err
    code, out, err = command("export", tmp_path / "copy-distilled", "--out", tmp_path / "student.octlet")
    assert code == 0, err
    assert "Taught by" in open_bundle(tmp_path / "student.octlet").read(CARD).decode()


@pytest.mark.parametrize("kind", ["split", "fingerprint", "twice", "quantised", "student"])
def test_who_may_not_teach_is_refused(kind, scans, teacher, split, tmp_path):
    """No scan that a teacher or a student's beginning has learned from may test the student."""
    other = run_of(tmp_path / "other", split, small_net(3))
    words, told = [teacher, other], f"its split is not that of {teacher}"
    rows = (other / "split.csv").read_text()
    if kind in ("split", "student"):
        (other / "split.csv").write_text(rows.replace(",val,", ",test,", 1))
    if kind == "student":
        words = [teacher, "--student", other]
    if kind == "fingerprint":  # the teacher learned from more than its split says today
        (other / "split.csv").write_text(rows.replace(",train,", ",test,", 1))
        words, told = [other], "was not trained on the training scans of its split.csv"
    if kind == "twice":
        words, told = [teacher, teacher], "given twice"
    if kind == "quantised":
        run_of(other, split, small_net(3), quantization={"method": "qat-linear"})
        words, told = [other], "a quantised run; this takes a float one"
    code, _, err = command("distill", *words, "--data", scans, "--out", tmp_path / "run", "--epochs", 1)
    assert code == {"twice": 2, "quantised": 4}.get(kind, 3)
    assert told in err
    assert str(other if kind != "twice" else teacher) in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "distill.wieght=1"], "did you mean 'weight'"),
        (["--set", "temprature=3"], "did you mean 'temperature'"),
        (["--set", "train.epoch=3"], "did you mean 'epochs'"),
        (["--set", "prune.steps=3"], "tables are distill and train"),
        (["--weight", "1.5"], "distill.weight = 1.5"),
        (["--set", "distill.teacher_size=8"], "distill.teacher_size = 8 is neither 0 nor"),
        (["--match-weight", "3"], "needs --match"),
        (["--match", "logits"], "'logits' is not one of"),
        (["--student", "SMALL", "--model", "resnet18"], "train.model is given"),
        (["--student", "SMALL", "--set", "train.weights='a'"], "train.weights is given"),
    ],
)
def test_wrong_settings_end_with_2(words, told, scans, teacher, small, tmp_path):
    words = [str(small) if word == "SMALL" else word for word in words]
    code, _, err = command("distill", teacher, "--data", scans, "--out", tmp_path / "run", *words)
    assert code == 2
    assert told in err


def test_a_stopped_distillation_resumes_bitwise(distilled, scans, teacher, small, split, tmp_path):
    out = tmp_path / "run"
    words = ["distill", teacher, "--data", scans, "--out", out, "--student", small, *QUICK]
    words += ["--epochs", 3, "--match", "cam"]
    whole = [sys.executable, "-m", "octlet", *map(str, words)]
    with subprocess.Popen(whole, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/3"):
                process.send_signal(signal.SIGTERM)
                break
        process.stderr.read()
        assert process.wait() in (130, 0)  # 0 if it was faster than the signal
    other = run_of(tmp_path / "other", split, small_net(3))
    changed = command("distill", other, *words[2:], "--resume")
    assert changed[0] == 2
    assert "differ from the run's in teachers" in changed[2]
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    code, _, err = command("distill", moved, *words[2:], "--resume")
    assert code == 0, err
    assert losses(out) == losses(distilled[0])
    one, two = (read_tensors(run / "checkpoint.safetensors")[0] for run in (out, distilled[0]))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
