import json
from pathlib import Path

import pytest

from octlet.core.errors import InputError, UsageError
from octlet.recipe.runner import Stage, run_stages
from octlet.recipe.settings import read_recipe

RECIPES = Path(__file__).parent.parent / "recipes"


class Kitchen:
    """Two stages over real files: `dough` writes a file of its flour, `bread` bakes it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.calls: list[tuple[str, bool]] = []
        self.broken = False

    def stages(self, flour: str = "rye", heat: int = 200) -> list[Stage]:
        out, source = self.out, self.out / "mill.txt"

        def knead(again: bool) -> None:
            self.calls.append(("dough", again))
            (out / "dough.txt").write_text(flour[:3] + source.read_text())

        def bake(again: bool) -> None:
            self.calls.append(("bread", again))
            if self.broken:
                raise KeyboardInterrupt
            (out / "bread.txt").write_text(f"{(out / 'dough.txt').read_text()} at {heat}")

        return [
            Stage("dough", {"flour": flour}, [source], [out / "dough.txt"], knead),
            Stage("bread", {"heat": heat}, [out / "dough.txt"], [out / "bread.txt"], bake),
        ]

    def run(self, **changes: object) -> list[str]:
        self.calls.clear()
        run_stages(self.stages(**changes), self.out, lambda _: None)  # type: ignore[arg-type]
        return [name for name, _ in self.calls]


@pytest.fixture
def kitchen(tmp_path):
    (tmp_path / "mill.txt").write_text("")
    return Kitchen(tmp_path)


def test_what_is_done_is_skipped(kitchen):
    assert kitchen.run() == ["dough", "bread"]
    assert kitchen.run() == []


def test_a_changed_setting_runs_just_what_depends_on_it(kitchen):
    kitchen.run()
    assert kitchen.run(heat=220) == ["bread"]
    assert kitchen.run(flour="wheat", heat=220) == ["dough", "bread"]
    assert kitchen.run(flour="wheatmeal", heat=220) == ["dough"]  # another setting, but the same dough


def test_a_changed_or_missing_file_counts_as_well(kitchen):
    kitchen.run()
    (kitchen.out / "mill.txt").write_text("+")
    assert kitchen.run() == ["dough", "bread"]
    (kitchen.out / "bread.txt").unlink()
    assert kitchen.run() == ["bread"]


def test_what_is_replaced_is_kept_aside(kitchen):
    kitchen.run()
    kitchen.run(heat=220)
    kitchen.run(heat=240)
    kept = [(kitchen.out / "previous" / f"bread.txt-{n}").read_text() for n in (1, 2)]
    assert kept == ["rye at 200", "rye at 220"]


def test_a_stopped_stage_is_told_that_it_goes_on(kitchen):
    kitchen.broken = True
    with pytest.raises(KeyboardInterrupt):
        kitchen.run()
    kitchen.broken = False
    assert kitchen.run() == ["bread"]
    assert kitchen.calls == [("bread", True)]


def test_a_missing_input_is_named(kitchen):
    (kitchen.out / "mill.txt").unlink()
    with pytest.raises(InputError, match=r"mill.txt.*'dough'"):
        kitchen.run()


def write(folder: Path, text: str) -> Path:
    file = folder / "r.toml"
    file.write_text(text)
    return file


def test_every_recipe_that_ships_is_valid(monkeypatch):
    monkeypatch.setenv("OCTLET_DATA", "scans")
    monkeypatch.setenv("OCTLET_WEIGHTS", "w.safetensors")
    recipes = {path.name: read_recipe(path) for path in RECIPES.glob("*.toml")}
    assert recipes["real.toml"].train.weights == "w.safetensors"
    assert recipes["real-seed.toml"].split.seed == recipes["real.toml"].split.seed
    assert recipes["demo.toml"].data.phantoms == 400


def test_overrides_win_and_presets_give_way(tmp_path):
    file = write(tmp_path, "[data]\nphantoms = 8\n[train]\npreset = 'seed'\nepochs = 3\n")
    recipe = read_recipe(file, ["train.lr=0.5", "split.val=0.2"])
    assert (recipe.train.model, recipe.train.epochs, recipe.train.lr) == ("resnet101", 3, 0.5)
    assert recipe.split.val == 0.2
    assert recipe.name == "r"


@pytest.mark.parametrize(
    ("text", "override", "told"),
    [
        ("[data]\nphantoms = 8\n[trian]\n", [], "unknown table"),
        ("[data]\nphantoms = 8\n[train]\nepoch = 1\n", [], "did you mean 'epochs'"),
        ("train = 3\n[data]\nphantoms = 8\n", ["train.lr=1"], "train is a table, not 3"),
        ("[data]\n", [], "needs a path or a number"),
        ("[data]\nphantoms = 8\npath = 'x'\n", [], "needs a path or a number"),
        ("[data]\npath = '$OCTLET_NO_SUCH'\n", [], "OCTLET_NO_SUCH"),
        ("[data]\nphantoms = 8\n", ["lr=1"], "names no table"),
        ("[data]\nphantoms = 8\n[train]\npreset = 'x'\n", [], "one of seed"),
        ("[data]\nphantoms = 8\n[calibrate]\ncoverage = 1.0\n", [], "calibrate.coverage = 1.0"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path, text, override, told):
    with pytest.raises(UsageError, match=told):
        read_recipe(write(tmp_path, text), override)


def test_files_that_are_no_recipes_are_refused(tmp_path):
    with pytest.raises(InputError, match="not TOML"):
        read_recipe(write(tmp_path, "data = ["))
    with pytest.raises(InputError, match="no such recipe"):
        read_recipe(tmp_path / "none.toml")


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
[calibrate]
coverage = 0.6
[evaluate]
resamples = 100
"""


def test_a_recipe_runs_from_scans_to_report_and_only_once(octlet, tmp_path, monkeypatch):
    monkeypatch.setenv("OCTLET_CACHE", str(tmp_path / "cache"))
    words = ["run", write(tmp_path, TINY), "--out", tmp_path / "out", "--json"]
    first = octlet(*words)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    names = [row["stage"] for row in result["stages"]]
    branch = ["train", "export", "evaluate"]
    folds = [f"fold-{k}/{stage}" for k in (0, 1) for stage in branch]
    assert names == ["phantom", "check", "split", *folds, "pool"]
    assert {row["status"] for row in result["stages"]} == {"done"}
    assert result["metrics"]["n"] == 48  # every scan was tested once
    assert Path(result["report"]).read_text().lower().startswith("<!doctype html>")
    assert "next: octlet predict -m" in first.stderr

    again = json.loads(octlet(*words, "--set", "evaluate.resamples=120").stdout)
    redone = [row["stage"] for row in again["stages"] if row["status"] == "done"]
    assert redone == ["fold-0/evaluate", "fold-1/evaluate", "pool"]

    one = json.loads(octlet(*words, "--set", "evaluate.resamples=120", "--only", "fold-1").stdout)
    assert "fold-0/train" not in [row["stage"] for row in one["stages"]]
    assert {row["status"] for row in one["stages"]} == {"kept"}

    prediction = octlet("predict", "-m", result["model"], tmp_path / "out" / "scans", "--json")
    assert prediction.returncode == 0
    said = json.loads(prediction.stdout)["predictions"]
    assert len(said) == 48
    assert all(isinstance(each["set"], list) for each in said)  # the model file was calibrated

    other = json.loads(
        octlet(*words, "--set", "evaluate.resamples=120", "--set", "calibrate.coverage=0.7").stdout
    )
    redone = [row["stage"] for row in other["stages"] if row["status"] == "done"]
    assert redone == [
        "fold-0/export",
        "fold-0/evaluate",
        "fold-1/export",
        "fold-1/evaluate",
    ]  # the same predictions: nothing to pool
