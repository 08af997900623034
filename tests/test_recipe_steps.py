"""What a recipe may say of its steps."""

from pathlib import Path

import pytest
from easy import command

from octlet.core.errors import UsageError
from octlet.recipe.branch import Voice
from octlet.recipe.settings import read_recipe
from octlet.recipe.stages import build_stages
from octlet.train.run import Feedback

PRUNE = """
[[compress]]
step = "prune"
to_macs = 0.5
steps = 1
[compress.train]
epochs = 1
"""
HEAD = "[data]\nphantoms = 8\n"
QUIET = Voice(print, lambda _: iter, Feedback())


def read(folder: Path, text: str, *overrides: str):
    (folder / "r.toml").write_text(text)
    return read_recipe(folder / "r.toml", overrides)


def names(folder: Path, text: str, *overrides: str) -> list[str]:
    recipe = read(folder, text, *overrides)
    return [stage.name for stage in build_stages(recipe, folder / "out", QUIET)]


def test_the_usual_chain_is_one_line_and_none_is_none(tmp_path):
    plain = ["phantom", "check", "split", "train", "export", "evaluate"]
    steps = [name for step in ("1-prune", "2-distill", "3-quantize") for name in (step, f"{step}-gate")]
    usual = [*plain, *steps, "compressed-export", "compressed-evaluate", "compare"]
    assert names(tmp_path, HEAD) == plain
    assert names(tmp_path, 'compress = "default"\n' + HEAD) == usual
    assert names(tmp_path, HEAD, "compress=default") == usual
    assert names(tmp_path, HEAD + PRUNE, "compress=[]") == plain


def test_settings_of_steps_and_their_trainings_are_read_and_overridden(tmp_path, monkeypatch):
    monkeypatch.setenv("SEED_WEIGHTS", "w.safetensors")
    student = (
        '[[compress]]\nstep = "distill"\n[compress.train]\nmodel = "resnet18"\nweights = "$SEED_WEIGHTS"\n'
    )
    text = HEAD + student + PRUNE
    first, second = read(tmp_path, text, "compress.2.to_macs=0.1", "compress.1.train.epochs=7").compress
    assert (first.name, first.is_fresh, second.name, second.is_fresh) == ("1-distill", True, "2-prune", False)
    assert first.training == {"model": "resnet18", "weights": "w.safetensors", "epochs": 7}
    assert (second.config.to_macs, second.config.steps, second.training) == (0.1, 1, {"epochs": 1})
    usual = read(tmp_path, HEAD, "compress=default", "compress.1.to_macs=0.3", "gate.max_loss=2.5")
    assert [step.kind for step in usual.compress] == ["prune", "distill", "quantize"]
    assert (usual.compress[0].config.to_macs, usual.gate.max_loss) == (0.3, 2.5)


def step(kind: str, *lines: str, train: str = "") -> str:
    return "\n".join(["[[compress]]", f'step = "{kind}"', *lines, "[compress.train]", train, ""])


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (step("quantize") + step("prune"), "compress.2: prune takes no quantised network"),
        (step("quantize") + step("quantize"), "make 'quantize' the last step"),
        (
            step("prune", "to_mac = 0.2"),
            "compress.1: unknown setting 'prune.to_mac' (did you mean 'to_macs'?)",
        ),
        (
            step("prune", train="epoch = 2"),
            "compress.1: unknown setting 'train.epoch' (did you mean 'epochs'?)",
        ),
        (step("prune", "to_macs = 7"), "compress.1: prune.to_macs = 7.0"),
        (step("prun"), "compress.1: step = 'prun' (one of 'prune', 'distill', 'quantize')"),
        ("[[compress]]\nto_macs = 0.5\n", "compress.1: it names no step"),
        ('[compress]\nstep = "prune"\n', "compress is a list of tables"),
        ('[[compress]]\nstep = "prune"\ntrain = 3\n', "compress.1.train is a table"),
        (step("distill"), "would be its own teacher"),
        (step("prune") + step("distill", train='model = "resnet18"'), "a fresh student takes nothing"),
        (step("prune", train='model = "resnet18"'), "leave out train.model"),
        (step("quantize", train='weights = "w"'), "leave out train.weights"),
        (step("quantize", "prior_shift = 0.5"), "set export.prior_shift"),
        (step("prune") + step("prune", 'what = "weights"', 'rewind = "weights"'), "only the dense network"),
        ("[gate]\nmax_loss = -1\n", "gate.max_loss = -1.0"),
        ("[gate]\nmax_loss = nan\n", "gate.max_loss = nan"),
        ("[gate]\nmax_los = 1\n", "did you mean 'max_loss'"),
    ],
)
def test_steps_that_cannot_be_end_with_2_before_anything_runs(steps, told, tmp_path):
    (tmp_path / "r.toml").write_text(HEAD + steps)
    code, _, err = command("run", tmp_path / "r.toml", "--out", tmp_path / "out")
    assert code == 2
    assert told in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("override", ["compress.0.to_macs=1", "compress.2.to_macs=1", "compress.1=3"])
def test_an_override_names_a_step_that_is_there(override, tmp_path):
    with pytest.raises(UsageError, match=r"names no setting of a step; there are 1, counted from 1"):
        read(tmp_path, HEAD + PRUNE, override)
    with pytest.raises(UsageError, match="compress is a list of tables, not 'prune'"):
        read(tmp_path, HEAD, "compress=prune")
