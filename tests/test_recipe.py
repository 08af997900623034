import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from octlet.core.errors import InputError, UsageError
from octlet.recipe.branch import Voice
from octlet.recipe.runner import LATER, Stage, listing, run_stages
from octlet.recipe.settings import read_recipe
from octlet.recipe.stages import build_stages
from octlet.train.run import Feedback

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


@pytest.mark.parametrize("later", sorted(LATER))
def test_what_was_made_before_a_setting_came_is_still_good_without_it(kitchen, later):
    dough, _ = kitchen.stages()

    def run(**more) -> str:
        stage = replace(dough, settings={**dough.settings, **more})
        return run_stages([stage], kitchen.out, lambda _: None)[0]["status"]

    assert [run(), run(**{later: False}), run(**{later: 0.0}), run(**{later: 0.5})] == [
        "done",
        "kept",
        "kept",
        "done",
    ]
    assert [run(config={"steps": 3}), run(config={"steps": 3, later: False})] == ["done", "kept"]


def test_the_settings_that_came_later_are_those_of_stages(tmp_path):
    steps = "".join(f"[[compress]]\nstep = '{step}'\n" for step in ("prune", "distill"))
    recipe = read_recipe(write(tmp_path, f"[data]\npath = 'x'\n{steps}"))
    found = build_stages(recipe, tmp_path, Voice(print, lambda _: iter, Feedback()))
    assert {key for stage in found for key in (*stage.settings, *stage.settings.get("config", ()))} >= LATER


def test_a_stage_that_another_run_is_at_is_waited_for_not_run_twice(kitchen):
    kneading, waiting = Event(), Event()
    dough, _ = kitchen.stages()

    def knead(again):
        kneading.set()
        assert waiting.wait(60)
        dough.action(again)

    def first():
        run_stages([replace(dough, action=knead)], kitchen.out, lambda _: None)

    def hear(told):
        heard.append(told)
        if "waiting" in told:
            waiting.set()

    heard: list[str] = []
    with ThreadPoolExecutor() as others:
        running = others.submit(first)
        assert kneading.wait(60)
        run_stages([dough], kitchen.out, hear)
        running.result()
    assert heard == ["dough: waiting for another process that is at it", "dough: up to date"]
    assert kitchen.calls == [("dough", False)]


def test_a_stage_that_broke_off_after_its_output_stood_is_gone_on_with(kitchen):
    dough, _ = kitchen.stages()

    def break_off(again):
        dough.action(again)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages([replace(dough, action=break_off)], kitchen.out, lambda _: None)
    assert all(each.exists() for each in dough.outputs)
    assert run_stages([dough], kitchen.out, lambda _: None)[0]["status"] == "done"
    assert kitchen.calls == [("dough", False), ("dough", True)]


def first_stage(folder, data):
    recipe = read_recipe(write(folder, f"[data]\n{data}\n"))
    return build_stages(recipe, folder / "out", Voice(lambda _: None, lambda _: iter, Feedback()))[0]


def test_phantoms_that_stand_without_a_note_are_gone_on_with(tmp_path):
    stage = first_stage(tmp_path, "phantoms = 4")
    stage.action(False)
    before = listing(stage.outputs[0])
    stage.action(True)
    assert listing(stage.outputs[0]) == before
    with pytest.raises(InputError, match="already there"):
        stage.action(False)


def test_scans_behind_a_link_are_looked_at_again(tmp_path):
    real, linked = tmp_path / "real", tmp_path / "scans" / "CNV"
    real.mkdir()
    linked.parent.mkdir()
    linked.symlink_to(real)
    (linked / "round").symlink_to(linked.parent)  # a circle
    before = listing(linked.parent)
    (real / "a.png").touch()
    assert listing(linked.parent) != before


def test_scans_that_a_table_names_are_looked_at_again(tmp_path):
    scan, table = tmp_path / "a.png", tmp_path / "scans.csv"
    scan.touch()
    table.write_text("path,label,patient\na.png,CNV,1\n")
    data = f'path = "{table}"'
    before = first_stage(tmp_path, data).settings
    assert first_stage(tmp_path, data).settings == before
    os.utime(scan, (1, 1))
    assert first_stage(tmp_path, data).settings != before


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("[split]\nfolds = 2\ntake = 3\n", "split.take = 3"),
        ("[split]\nfolds = -3\n", "split.folds = -3"),
        ("[evaluate]\nresamples = 10\n", "evaluate.resamples = 10"),
        ("[evaluate]\nseed = -1\n", "evaluate.seed = -1"),
    ],
)
def test_what_would_fail_hours_later_is_told_at_once(tmp_path, table, told):
    with pytest.raises(UsageError, match=told):
        read_recipe(write(tmp_path, f"[data]\nphantoms = 8\n{table}"))


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
    monkeypatch.setenv("OCTLET_LITE0", "l.safetensors")
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
        ("[data]\nphantoms = 8\n[split]\nfolds = 2\n", ["split.given=true"], "what is tested on"),
        ("[data]\nphantoms = 8\n[split]\nkeep_given = true\n", ["split.given=true"], "what is tested on"),
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
