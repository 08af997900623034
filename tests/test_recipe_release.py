"""A whole recipe with folds and a release, through the real command."""

import csv
import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from easy import command

from octlet.core.bundle import open_bundle
from octlet.core.errors import UsageError
from octlet.recipe.branch import Voice
from octlet.recipe.release import check_release
from octlet.recipe.settings import read_recipe
from octlet.recipe.stages import build_stages
from octlet.train.checkpoint import BEST
from octlet.train.run import Feedback


def write(folder: Path, text: str) -> Path:
    file = folder / "r.toml"
    file.write_text(text)
    return file


TINY = """
name = "tiny"
[data]
phantoms = 48
[split]
folds = 2
val = 0.2
[train]
model = "resnet18"
size = 32
epochs = 1
batch = 8
keep = "last"
[calibrate]
coverage = 0.6
[evaluate]
resamples = 100
[release]
model = "small.octlet"
notes = "{notes}"
"""


@pytest.fixture(scope="module")
def octlet():
    """The command in this process, which need not start anew: `octlet` of conftest elsewhere."""

    def run(*words: object) -> "CompletedProcess[str]":
        return CompletedProcess(words, *command(*words))

    return run


@pytest.fixture(scope="module")
def tiny(octlet, tmp_path_factory):
    """A whole recipe that has run, as (the command's words, its folder, what it said); keep it as it is."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "notes.md").write_text("Made for a test.\n")
    recipe = write(folder, TINY.format(notes=folder / "notes.md"))
    words = ["run", recipe, "--out", folder / "out", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCTLET_CACHE", str(folder / "cache"))
        first = octlet(*words)
        assert first.returncode == 0, first.stderr
        yield words, folder / "out", first


def stages(result) -> dict[str, str]:
    return {row["stage"]: row["status"] for row in json.loads(result.stdout)["stages"]}


def done(result) -> list[str]:
    return [name for name, status in stages(result).items() if status == "done"]


FINAL = ["final/split", "final/train", "final/export", "final/calibrate"]


def test_a_recipe_runs_from_scans_to_report(octlet, tiny):
    _, out, first = tiny
    result = json.loads(first.stdout)
    branch = ["train", "export", "evaluate"]
    folds = [f"fold-{k}/{stage}" for k in (0, 1) for stage in branch]
    held = ["fold-0/held-out", "fold-1/held-out"]
    assert done(first) == ["phantom", "check", "split", *folds, "pool", *held, *FINAL]
    assert result["metrics"]["n"] == 48  # every scan was tested once
    assert Path(result["report"]).read_text().lower().startswith("<!doctype html>")
    assert "next: octlet predict -m" in first.stderr
    prediction = octlet("predict", "-m", result["model"], out / "scans", "--json")
    assert prediction.returncode == 0
    said = json.loads(prediction.stdout)["predictions"]
    assert len(said) == 48
    assert all(isinstance(each["set"], list) for each in said)  # the model file was calibrated


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_release_is_trained_on_every_scan_and_tells_what_the_folds_did(tiny):
    _, out, first = tiny
    assert json.loads(first.stdout)["release"] == str(out / "small.octlet")
    assert {row["split"] for row in rows(out / "final" / "split.csv")} == {"train"}
    held = [rows(out / f"fold-{k}" / "held-out.csv") for k in (0, 1)]
    tested = [rows(out / "split" / f"fold-{k}.csv") for k in (0, 1)]
    for scores, split in zip(held, tested, strict=True):
        assert {row["path"] for row in scores} == {row["path"] for row in split if row["split"] == "test"}
    bundle = open_bundle(out / "small.octlet")
    manifest, pooled = bundle.manifest, json.loads((out / "evaluation" / "metrics.json").read_text())
    assert (manifest.name, manifest.training["data"]["scans"]) == ("small", 48)
    told = manifest.metrics["cross_validation"]
    assert told["accuracy"]["value"] == pooled["accuracy"]["value"]
    assert told["sensitivity"]["DME"]["value"] == pooled["per_class"]["DME"]["sensitivity"]
    assert "test" not in manifest.metrics
    assert manifest.trust is not None
    assert manifest.trust.calibration.scans == 48
    card = bundle.read("README.md").decode()
    assert "Expected, from a cross-validation on 48 scans" in card
    assert "| sensitivity DRUSEN |" in card
    assert "that it was not trained on; 95" not in card
    assert "## Notes\nMade for a test.\n" in card


def test_other_notes_train_nothing_again(octlet, tiny):
    words, out, _ = tiny
    Path(words[1]).with_name("notes.md").write_text("Made again.\n")
    assert done(octlet(*words)) == ["final/calibrate"]
    assert "Made again." in open_bundle(out / "small.octlet").read("README.md").decode()


def test_what_is_done_is_not_done_again(octlet, tiny):
    words = [*tiny[0], "--set", "evaluate.resamples=120"]
    # the figures that the release states are others
    assert done(octlet(*words)) == ["fold-0/evaluate", "fold-1/evaluate", "pool", "final/calibrate"]
    one = stages(octlet(*words, "--only", "fold-1"))
    assert "fold-0/train" not in one
    assert set(one.values()) == {"kept"}
    other = done(octlet(*words, "--set", "calibrate.coverage=0.7"))
    again = [f"fold-{k}/{stage}" for k in (0, 1) for stage in ("export", "evaluate")]
    # the same predictions: nothing to pool
    assert other == [*again, "fold-0/held-out", "fold-1/held-out", "final/calibrate"]


CHAIN = """
[[compress]]
step = "prune"
[[compress]]
step = "quantize"
"""


def test_the_release_of_a_chain_is_the_small_network(tmp_path):
    recipe = read_recipe(write(tmp_path, TINY.format(notes="") + CHAIN))
    silent = Voice(lambda _: None, lambda _: iter, Feedback())
    named = {stage.name: stage for stage in build_stages(recipe, tmp_path / "out", silent)}
    wanted = [
        "split",
        "train",
        "1-prune",
        "2-quantize",
        "export",
        "calibrate",
    ]  # and no gate: no scan is left
    assert [name for name in named if name.startswith("final/")] == [f"final/{name}" for name in wanted]
    assert tmp_path / "out" / "fold-0" / "compressed.octlet" in named["fold-0/held-out"].inputs
    assert tmp_path / "out" / "final" / "2-quantize" / BEST in named["final/export"].inputs
    shifts = [named[name].settings["prior_shift"] for name in ("final/export", "fold-0/compressed-export")]
    assert shifts == [0, 0]
    figures = tmp_path / "out" / "compressed-evaluation" / "metrics.json"
    assert figures in named["final/calibrate"].inputs


def test_the_small_network_alone_looks_twice(tmp_path):
    text = TINY.format(notes="") + CHAIN + "[export]\nsecond_look = 0.7\n"
    silent = Voice(lambda _: None, lambda _: iter, Feedback())
    named = {each.name: each for each in build_stages(read_recipe(write(tmp_path, text)), tmp_path, silent)}
    exports = ("final/export", "fold-0/compressed-export", "fold-0/export")
    assert [named[name].settings["second_look"] for name in exports] == [0.7, 0.7, 0]
    with pytest.raises(UsageError, match="second_look"):
        read_recipe(write(tmp_path, text.replace("0.7", "1.7")))


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("split.folds=0", "no folds"),
        ("split.take=1", "some folds"),
        ("calibrate.coverage=0", "doubt"),
        ('train.keep="best"', "picks an epoch"),
        ("train.patience=2", "picks an epoch"),
    ],
)
def test_a_release_that_no_fold_speaks_for_is_refused(tmp_path, override, rule):
    file = write(tmp_path, TINY.format(notes=""))
    code, out, _ = command("run", file, "--out", tmp_path / "out", "--set", override, "--json")
    assert code == 2
    assert rule in json.loads(out)["error"]["message"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("table", ['model = "a/b.octlet"', 'model = "a.onnx"', 'notes = "n.md"'])
def test_a_release_needs_the_name_of_a_model_file(tmp_path, table):
    with pytest.raises(UsageError, match="release"):
        read_recipe(write(tmp_path, f"[data]\nphantoms = 9\n[release]\n{table}\n"))


def test_a_release_of_a_fresh_student_must_keep_its_last_epoch(tmp_path):
    student = '[[compress]]\nstep = "distill"\n[compress.train]\nmodel = "resnet18"\n'
    text = TINY.format(notes="").replace('notes = ""\n', "")
    with pytest.raises(UsageError, match="nothing picks an epoch"):
        check_release(read_recipe(write(tmp_path, text + student)))
    check_release(read_recipe(write(tmp_path, text + student + 'keep = "last"\n')))
