"""`octlet frontier`: the sweep, through the real command on a small network."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from easy import command, result_of
from PIL import Image
from torch import nn

from octlet.compress.config import PruneConfig
from octlet.compress.cost import cost_of
from octlet.compress.prune.run import prune_run
from octlet.core.bundle import open_bundle
from octlet.core.errors import UsageError
from octlet.core.files import sha256_of
from octlet.data.split import read_split, write_split
from octlet.data.stages import check_scans, split_index
from octlet.evaluate.predictions import read_predictions
from octlet.models.resnet import build
from octlet.models.spec import NetSpec
from octlet.recipe.frontier_plan import check_runs, plan_of
from octlet.runtime import pi5
from octlet.train.checkpoint import load_run, save_run
from octlet.train.run import fingerprint_of

# The sweep --------------------------------------------------------------------------------------------

# the class is a height: nothing may move it
LEARN = {"epochs": 5, "lr": 0.01} | dict.fromkeys(("label_smoothing", "shift", "zoom", "rotate"), 0.0)
ROUNDING = ["--set=quantize.calibration=8"]
QUICK = ["--steps", 1, "--epochs", 1, "--round-to", 1, "--images", 200, "--resamples", 100]


@pytest.fixture(scope="module")
def runs(tiny_run: Path, easy_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one small network that has learned, each with the test scans of its own fold.

    The second was trained on the first one's scans, to which the sweep is blind.
    """
    root = tmp_path_factory.mktemp("folds")
    check_scans(easy_scans, root / "check")
    split_index(root / "check" / "index.csv", root / "split", folds=2, shares={"val": 0.2})
    trained = load_run(tiny_run)
    plain = trained.meta | {"config": {"model": "tiny", "size": 64, "batch": 8}}
    runs = [root / "run-0", root / "run-1"]
    _save_as_trained_on(root / "split" / "fold-0.csv", root / "random", trained.net, plain)
    prune_run(root / "random", easy_scans, runs[0], PruneConfig(to_macs=1.0, steps=1, distil=0.0), LEARN)
    learned = load_run(runs[0])
    _save_as_trained_on(root / "split" / "fold-1.csv", runs[1], learned.net, learned.meta)
    return runs


def _save_as_trained_on(split: Path, run: Path, net: nn.Module, meta: dict[str, Any]) -> None:
    """Save a run whose record says that it was trained on the training scans of `split`."""
    data = meta["data"] | {"fingerprint": fingerprint_of(read_split(split))}
    save_run(run, net, meta | {"data": data})
    shutil.copy(split, run / "split.csv")


def swept(runs, scans, out, *words):
    result = result_of("frontier", *runs, "--data", scans, "--out", out, *QUICK, *words)
    return result, [row["stage"] for row in result["stages"] if row["status"] == "done"]


@pytest.fixture(scope="module")
def sweep(runs, easy_scans, tmp_path_factory, quick_folding):
    """The folder and the result of a sweep of one run in integers."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    with quick_folding():
        words = ["--to-macs", "0.5", "--int8", "ptq", *ROUNDING]
        return out, *swept(runs[:1], easy_scans, out, *words)


def test_every_point_is_pruned_rounded_exported_and_tested(sweep, runs):
    out, result, done = sweep
    integers = ["quantise", "export", "test"]
    assert done == [
        "fold-0/dense/float/export",
        "fold-0/dense/float/test",
        *(f"fold-0/dense/int8/{stage}" for stage in integers),
        "fold-0/0.5/prune",
        *(f"fold-0/0.5/int8/{stage}" for stage in integers),
        "latency",
        "frontier",
    ]
    names = ["dense float", "dense int8", "0.5 int8"]
    assert [point["name"] for point in result["points"]] == names
    tested = {row.path for row in read_split(runs[0] / "split.csv") if row.split == "test"}
    assert result["n"] == len(tested)
    for name in names:
        assert set(read_predictions(out / "predictions" / f"{name.replace(' ', '-')}.csv").paths) == tested


def test_costs_are_those_of_the_model_files(sweep):
    for point in sweep[1]["points"]:
        manifest = open_bundle(Path(point["model"])).manifest
        assert point["macs"] == cost_of(NetSpec.from_dict(manifest.network), 64).macs
        assert point["bytes"] == Path(point["model"]).stat().st_size
        assert point["macs_by_fold"] == [point["macs"]]
        assert ("integers" in manifest.training) is (point["form"] == "int8")


def test_the_modelled_latency_knows_integers_from_floats(sweep):
    dense, rounded = sweep[1]["points"][:2]
    assert dense["pi5_modelled_ms"]["value"] == pytest.approx(4 * rounded["pi5_modelled_ms"]["value"])
    assert rounded["pi5_modelled_ms"]["value"] == pi5.modelled_latency(rounded["macs"], 0).value
    assert "never measured" in sweep[1]["pi5_modelled"]["how"]


def test_the_figures_are_those_of_compare(sweep, tmp_path):
    out, result, _ = sweep
    tables = [out / "predictions" / f"{name}.csv" for name in ("dense-float", "0.5-int8")]
    words = ["compare", *tables, "--resamples", 100, "--out", tmp_path / "compared"]
    against = result_of(*words)["comparisons"][0]
    point = result["points"][-1]
    assert point["difference"] == against["difference"]
    assert point["discordant"] == against["discordant"]
    assert point["not_inferior"] == against["not_inferior"]


def test_the_table_and_the_figure_stand_in_files(sweep):
    out, result, _ = sweep
    rows = list(csv.DictReader((out / "frontier.csv").open()))
    assert [row["name"] for row in rows] == [point["name"] for point in result["points"]]
    assert [int(row["macs"]) for row in rows] == [point["macs"] for point in result["points"]]
    assert float(rows[0]["latency_ratio"]) == 1
    assert [row["chosen"] == "true" for row in rows].count(True) == (result["chosen"] is not None)
    assert Image.open(out / "frontier.png").size[0] == 1200
    kept = json.loads((out / "frontier.json").read_text())
    assert {key: result[key] for key in kept} == kept


def test_what_is_done_is_kept_and_another_margin_only_judges_again(sweep, runs, easy_scans):
    out, result, _ = sweep
    words = ["--to-macs", "0.5", "--int8", "ptq", *ROUNDING]
    again, done = swept(runs[:1], easy_scans, out, *words)
    assert done == []
    assert again["points"] == result["points"]
    lax, done = swept(runs[:1], easy_scans, out, *words, "--margin", 0.9)
    assert done == ["frontier"]
    assert lax["margin"] == 0.9
    code, told, err = command("frontier", runs[0], "--data", easy_scans, "--out", out, *QUICK, *words)
    assert code == 0
    assert "MODELLED" in told
    assert "not a medical device" in told.lower()
    assert f"next: octlet predict -m {out}/fold-0/" in err


def test_another_target_adds_and_a_changed_setting_runs_what_depends_on_it(runs, easy_scans, tmp_path):
    out, words = tmp_path / "out", ["--int8", "no"]
    swept(runs[:1], easy_scans, out, *words, "--to-macs", 0.6)
    result, done = swept(runs[:1], easy_scans, out, *words, "--to-macs", "0.3,0.6")
    dense, first, second = result["points"]
    assert dense["macs_share"] == 1
    assert 0.5 < first["macs_share"] <= 0.6
    assert 0.2 < second["macs_share"] <= 0.3
    config = json.loads((out / "fold-0" / "0.3" / "prune" / "config.json").read_text())
    assert config["teacher"] == sha256_of(runs[0] / "checkpoint.safetensors")
    assert config["prune"]["to_macs"] == pytest.approx(0.3 / first["macs_share"])
    added = ["fold-0/0.3/prune", "fold-0/0.3/float/export", "fold-0/0.3/float/test"]
    assert done == [*added, "latency", "frontier"]
    _, done = swept(runs[:1], easy_scans, out, *words, "--to-macs", "0.6,0.3", "--lr", "1e-3")
    assert [stage for stage in done if "prune" in stage] == ["fold-0/0.6/prune", "fold-0/0.3/prune"]
    assert "fold-0/dense/float/export" not in done


def test_folds_are_pooled_and_each_is_tested_on_its_own_scans(runs, easy_scans, tmp_path):
    words = [runs, easy_scans, tmp_path / "out", "--int8", "no", "--to-macs", 0.5]
    alone, done = swept(*words, "--only", "fold-1")
    assert [stage.partition("/")[0] for stage in done] == ["fold-1"] * 5
    assert set(alone) == {"out", "stages"}
    result, done = swept(*words)
    assert all(not stage.startswith("fold-1") for stage in done)
    done = [row["stage"] for row in result["stages"]]
    assert result["n"] == 60
    assert result["folds"] == 2
    assert done.index("fold-1/dense/float/test") < done.index("fold-0/0.5/prune")  # target by target
    assert all(len(point["macs_by_fold"]) == 2 for point in result["points"])
    for k, run in enumerate(runs):
        table = tmp_path / "out" / f"fold-{k}" / "0.5" / "float" / "predictions.csv"
        tested = {row.path for row in read_split(run / "split.csv") if row.split == "test"}
        assert set(read_predictions(table).paths) == tested


def test_a_killed_sweep_goes_on(runs, easy_scans, tmp_path):
    out = tmp_path / "out"
    words = ["frontier", runs[0], "--data", easy_scans, "--out", out, *QUICK, "--int8", "no"]
    words += ["--to-macs", 0.6, "--steps", 2]
    run = [sys.executable, "-u", "-m", "octlet", *map(str, words)]
    with subprocess.Popen(run, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 2 of 2"):
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    kept = (out / "fold-0" / "0.6" / "prune" / "step-1" / "checkpoint.safetensors").stat().st_mtime_ns
    result = result_of(*words)
    assert [row["status"] for row in result["stages"]] == ["kept", "kept"] + ["done"] * 5
    now = (out / "fold-0" / "0.6" / "prune" / "step-1" / "checkpoint.safetensors").stat().st_mtime_ns
    assert now == kept


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (["--to-macs", "0.5,half"], 2, "no list of shares"),
        (["--to-macs", "0.5,1.5"], 2, "different shares of the MACs"),
        (["--to-macs", "0.5,0.5"], 2, "different shares of the MACs"),
        (["--margin", "1"], 2, "margin"),
        (["--set", "prune.florr=0.2"], 2, "did you mean 'floor'"),
        (["--set", "train.batsh=2"], 2, "did you mean 'batch'"),
        (["--set", "qat.epoch=2"], 2, "did you mean 'epochs'"),
        (["--set", "floor=0.2"], 2, "one of prune, train, quantize, qat"),
        (["--set", "prune.to_macs=0.2"], 2, "use --to-macs"),
        (["--set", "quantize.method=ptq"], 2, "use --int8"),
        (["--set", "train.size=32"], 2, "networks of one input"),
        (["--int8", "ptq", "--set", "qat.epochs=2"], 2, "means nothing with int8 = 'ptq'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_computed(
    words, exit_code, said, runs, easy_scans, tmp_path
):
    out = tmp_path / "out"
    code, _, err = command("frontier", runs[0], "--data", easy_scans, "--out", out, *words)
    assert code == exit_code, err
    assert said in err
    assert not out.exists()


def test_runs_that_share_a_test_patient_are_refused(runs, easy_scans, tmp_path):
    words = ["--data", easy_scans, "--out", tmp_path / "out"]
    code, _, err = command("frontier", runs[0], runs[0], *words)
    assert code == 3
    assert "in the test sets of" in err
    rows = read_split(runs[1] / "split.csv")
    stranger = next(row.patient for row in read_split(runs[0] / "split.csv") if row.split == "test")
    rows = [row for row in rows if row.patient != stranger]
    first = next(k for k, row in enumerate(rows) if row.split == "test")
    rows[first] = replace(rows[first], patient=stranger)
    shutil.copytree(runs[1], tmp_path / "other")
    write_split(tmp_path / "other" / "split.csv", rows)
    code, _, err = command("frontier", runs[0], tmp_path / "other", *words)
    assert code == 3
    assert f"patient {stranger} is in the test sets of" in err


def test_pruned_folds_may_have_other_channels_and_must_be_made_alike(runs, tmp_path):
    """Each fold's pruning keeps its own channels."""
    plan = plan_of({"to_macs": [0.5]}, {"prune": {}, "train": {}, "quantize": {}, "qat": {}})
    first = load_run(runs[1])
    spec = first.net.spec
    stages = tuple(
        tuple(replace(unit, widths=(unit.widths[0] + 1, *unit.widths[1:])) for unit in stage)
        for stage in spec.stages
    )
    wider = build(replace(spec, stages=stages))
    meta = first.meta | {"spec": wider.spec.as_dict()}
    _save_as_trained_on(runs[1] / "split.csv", tmp_path / "wider", wider, meta)
    check_runs([runs[0], tmp_path / "wider"], plan)
    for key, value in (("to_macs", 0.5), ("first", {"spec": wider.spec.as_dict()})):
        other = meta | {"pruning": meta["pruning"] | {key: value}}
        _save_as_trained_on(runs[1] / "split.csv", tmp_path / key, wider, other)
        with pytest.raises(UsageError, match="was not made as"):
            check_runs([runs[0], tmp_path / key], plan)
    del meta["pruning"]
    _save_as_trained_on(runs[1] / "split.csv", tmp_path / "dense", wider, meta)
    with pytest.raises(UsageError, match="was not made as"):
        check_runs([runs[0], tmp_path / "dense"], plan)


def test_a_target_that_cannot_be_reached_leaves_the_points_before_it(runs, easy_scans, tmp_path):
    out = tmp_path / "out"
    words = ["frontier", runs[0], "--data", easy_scans, "--out", out, *QUICK, "--int8", "no"]
    code, _, err = command(*words, "--to-macs", "0.5,0.01")
    assert code == 5
    assert "so few MACs" in err
    shown = result_of(*words, "--to-macs", 0.5)
    assert [row["stage"] for row in shown["stages"] if row["status"] == "done"] == ["latency", "frontier"]


def test_the_points_go_from_large_to_small():
    tables = {"prune": {}, "train": {}, "quantize": {}, "qat": {}}
    plan = plan_of({"to_macs": [0.1, 0.5], "prior_shift": 0.3}, tables)
    assert [point.name for point in plan.points] == ["dense float", "dense int8", "0.5 int8", "0.1 int8"]
    assert plan.quantize.prior_shift == 0.3
    assert plan_of({"int8": "no"}, tables).points[-1].name == "0.02 float"
