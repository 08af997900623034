"""Recipes with [[teacher]] tables: several dense networks that teach together."""

import json
from pathlib import Path

import pytest
import torch
from easy import command

from octlet.core.errors import UsageError
from octlet.core.files import sha256_of
from octlet.recipe.branch import Voice
from octlet.recipe.settings import Recipe, read_recipe
from octlet.recipe.stages import build_stages
from octlet.train.checkpoint import BEST, load_run, read_record
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
epochs = 2
[evaluate]
resamples = 100
[gate]
max_loss = 100
"""
TEACHERS = """
[[teacher]]
seed = 1
[[teacher]]
size = 48
mixup = 0.5
"""
DISTIL = """
[[compress]]
step = "distill"
weight = 1
[compress.train]
epochs = 1
views = 2
mixup = 0.5
"""
RUNS = ["train", "teacher-1", "teacher-2"]


def read(folder: Path, text: str, *overrides: str) -> Recipe:
    (folder / "r.toml").write_text(text)
    return read_recipe(folder / "r.toml", overrides)


@pytest.fixture(autouse=True)
def scans(easy_scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASY_SCANS", str(easy_scans))


def stages(folder: Path, out: Path, *words: str) -> dict[str, str]:
    """Run the chain as far as the student, and return what was done and what was kept."""
    only = [word for name in [*RUNS, "1-distill"] for word in ("--only", name)]
    code, told, err = command("run", folder / "r.toml", "--out", out, *only, *words, "--json")
    assert code == 0, err
    return {row["stage"]: row["status"] for row in json.loads(told)["stages"] if row["stage"] not in MADE}


MADE = ("check", "split", "export", "evaluate", "1-distill-gate", "compressed-export", "compressed-evaluate")


def test_all_of_them_teach_the_student_and_a_changed_one_is_trained_again(tmp_path):
    recipe = read(tmp_path, DENSE + TEACHERS + DISTIL)
    assert [each.training.size for each in recipe.teacher] == [32, 48]
    out = tmp_path / "out"
    names = [*RUNS, "1-distill"]
    first = stages(tmp_path, out, "--set", "compress.1.train.degrade=0.2")
    assert [name for name, status in first.items() if status == "done"][:4] == names
    taught = [each["sha256"] for each in read_record(out / "1-distill")["teacher"]]
    assert taught == [sha256_of(out / name / BEST) for name in RUNS]
    assert [read_record(out / name)["config"]["seed"] for name in RUNS] == [0, 1, 0]
    assert [read_record(out / name)["config"]["mixup"] for name in RUNS] == [0, 0, 0.5]
    again = stages(tmp_path, out, "--set", "compress.1.train.degrade=0.2", "--set", "teacher.2.lr=2e-3")
    assert [again[name] for name in names] == ["kept", "kept", "done", "done"]


GROWN = """
[[teacher]]
goes_on = true
size = 48
epochs = 1
"""


def test_one_that_goes_on_begins_with_the_network_of_train_and_a_step_may_name_who_teaches(tmp_path):
    read(
        tmp_path,
        DENSE + GROWN + DISTIL + "[[compress]]\nstep = 'distill'\nteachers = [1]\ntrain = {epochs = 1}",
    )
    out = tmp_path / "out"
    only = [word for name in ("train", "teacher-1", "1-distill", "2-distill") for word in ("--only", name)]
    lessons = (
        "--set",
        "compress.1.train.degrade=0.2",
        "--set",
        "compress.1.teachers=[0]",
        "--set",
        "teacher.1.lr=1e-9",
    )
    code, _, err = command("run", tmp_path / "r.toml", "--out", out, *only, *lessons)
    assert code == 0, err
    runs = {name: load_run(out / name) for name in ("train", "teacher-1")}
    begun, grown = (runs[name].net.state_dict() for name in runs)
    for key, value in begun.items():  # a rate of nothing moves nothing but the statistics of batches
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(grown[key], value, atol=1e-6, rtol=0)
    assert runs["teacher-1"].meta["size"] == 48
    taught = [[each["sha256"] for each in read_record(out / f"{k}-distill")["teacher"]] for k in (1, 2)]
    assert taught == [[sha256_of(out / name / BEST)] for name in ("train", "teacher-1")]
    again, _, err = command(
        "run", tmp_path / "r.toml", "--out", out, *only, *lessons, "--set", "train.lr=2e-3"
    )
    assert again == 0, err
    assert sha256_of(out / "previous" / "teacher-1-1" / BEST) != sha256_of(out / "teacher-1" / BEST)


def test_a_release_trains_them_on_every_scan_too(tmp_path):
    text = DENSE.replace("val = 0.3\ntest = 0.2", "folds = 2\nval = 0.2") + TEACHERS + DISTIL
    text += '[calibrate]\ncoverage = 0.8\n[release]\nmodel = "m.octlet"\n'
    found = build_stages(
        read(tmp_path, text, "train.keep=last", "compress.1.train.keep=last"), tmp_path, voice()
    )
    names = [stage.name for stage in found]
    for folder in ("fold-0", "fold-1", "final"):
        wanted = [f"{folder}/{name}" for name in [*RUNS, "1-distill"]]
        assert [name for name in names if name in wanted] == wanted
    lesson = next(stage for stage in found if stage.name == "final/1-distill")
    assert {tmp_path / "final" / name / BEST for name in RUNS} < set(lesson.inputs)
    with pytest.raises(UsageError, match="nothing picks an epoch"):
        build_stages(read(tmp_path, text, "train.keep=last", "teacher.2.keep=best"), tmp_path, voice())


def voice() -> Voice:
    return Voice(lambda _: None, lambda _: iter, Feedback())


@pytest.mark.parametrize(
    ("text", "overrides", "told"),
    [
        ("[teacher]\nseed = 1\n" + DISTIL, [], "teacher is a list of tables"),
        ("[[teacher]]\nsizes = 1\n" + DISTIL, [], "unknown setting 'teacher.sizes' (did you mean 'size'?)"),
        ("[[teacher]]\nseed = 0\n" + DISTIL, [], "would be the same network"),
        (TEACHERS + "[[teacher]]\nseed = 1\n" + DISTIL, [], "would be the same network"),
        (TEACHERS, [], "no step learns from [[teacher]] 1"),
        (
            TEACHERS + DISTIL + "[[compress]]\nstep='prune'\nteachers=[1]",
            [],
            "unknown setting 'prune.teachers'",
        ),
        (TEACHERS + DISTIL, ["compress.1.teachers=[0, 1]"], "no step learns from [[teacher]] 2"),
        (
            TEACHERS + DISTIL,
            ["compress.1.teachers=[1, 3]"],
            "compress.1: teachers = [1, 3] are not some of the 3",
        ),
        (TEACHERS + DISTIL, ["compress.1.teachers=[-1]"], "are not some of the 3"),
        (TEACHERS + DISTIL, ["compress.1.teachers=[1, 2, 1]"], "each once"),
        (TEACHERS + DISTIL, ["compress.1.teachers=1"], "teachers = 1 is no list of numbers"),
        (TEACHERS + DISTIL, ["compress.1.teachers=[true]"], "is no list of numbers"),
        (TEACHERS + DISTIL, ["compress.1.teachers=[0]"], "would be its own teacher"),
        ("[[teacher]]\ngoes_on = 1\n" + DISTIL, [], "teacher.goes_on = 1 is not of type bool"),
        ("[[teacher]]\ngoes_on = true\nmodel = 'resnet34'\n" + DISTIL, [], "has no model of its own"),
        ("[[teacher]]\ngoes_on = true\nweights = 'x'\n" + DISTIL, [], "has no weights of its own"),
        (TEACHERS + DISTIL, ["teacher.3.lr=1"], "names no setting of a teacher; there are 2"),
        (TEACHERS + DISTIL, ["teacher.0.lr=1"], "names no setting of a teacher"),
        (TEACHERS + DISTIL, ["teacher.1=1"], "names no setting of a teacher"),
        (DISTIL, [], "would be its own teacher"),
        (TEACHERS + DISTIL, ["teacher=[]"], "would be its own teacher"),
    ],
)
def test_teachers_that_cannot_be_end_with_2_before_anything_runs(text, overrides, told, tmp_path):
    (tmp_path / "r.toml").write_text(DENSE + text)
    words = [word for each in overrides for word in ("--set", each)]
    code, _, err = command("run", tmp_path / "r.toml", "--out", tmp_path / "out", *words)
    assert code == 2
    assert told in err
    assert not (tmp_path / "out").exists()


def test_overrides_reach_them(tmp_path):
    recipe = read(tmp_path, DENSE + TEACHERS + DISTIL, "teacher.1.epochs=7", "train.lr=1e-2")
    assert [each.training.epochs for each in recipe.teacher] == [7, 2]
    assert [each.training.lr for each in recipe.teacher] == [1e-2, 1e-2]
    assert read(tmp_path, DENSE + TEACHERS, "teacher=[]").teacher == ()
