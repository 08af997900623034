"""benchmarks/peers.py on tiny networks: its rows, what it skips, what it keeps, what it times."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from easy import result_of
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from octlet.core.bundle import open_bundle
from octlet.core.errors import InputError
from octlet.core.labels import LABELS
from octlet.data.index import build_index
from octlet.data.source import open_source
from octlet.data.split import make_folds, write_split
from octlet.evaluate.predictions import read_predictions

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TORCH, ORT, STATIC = "torch eager fp32", "ONNX Runtime fp32", "ONNX Runtime static int8"
SKIPPED = {"torch.compile fp32": "no compiler here", "OpenVINO, NNCF int8": "NNCF is not installed"}

Table = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def peers() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import peers
        import peers_networks

        whole = peers.load

        def load(way: str, network: Path, size: int) -> Any:
            if way == peers.COMPILED:
                raise RuntimeError(SKIPPED["torch.compile fp32"] + "\nand more")
            return whole(way, network, size)

        find = peers_networks.find_spec
        patch.setattr(peers, "load", load)  # to compile takes a minute
        patch.setattr(peers_networks, "find_spec", lambda name: None if name == "nncf" else find(name))
        yield peers


@pytest.fixture(scope="module")
def place(
    peers: Any, tiny_run: Path, model_file: Path, easy_scans: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two folds, both with the tiny network, and the table of a first run without times."""
    root = tmp_path_factory.mktemp("peers")
    records = build_index(open_source(easy_scans))[0]
    for number, rows in enumerate(make_folds(records, folds=2)):
        write_split(root / "split" / f"fold-{number}.csv", rows)
        shutil.copytree(tiny_run, root / f"float-{number}" / "train")
        shutil.copy(model_file, root / f"float-{number}")
    peers.main(words(root, easy_scans))
    return root


def words(root: Path, scans: Path, *more: object) -> list[str]:
    pattern = f"{root}/float-{{k}}"
    model = f"{pattern}/model.octlet"
    given = [root / "out.csv", scans, root / "split", "--work", root / "work", "--float", model]
    given += ["--row", "octlet", "Octlet", model, "--row", "octlet", "absent", f"{root}/none-{{k}}.octlet"]
    return [
        *map(str, given),
        "--counts",
        str(root / "counts.csv"),
        *(map(str, more) if more else ["--no-times"]),
    ]


def table(root: Path) -> Table:
    with (root / "out.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def kept(root: Path, form: str) -> list[list[str]]:
    files = (root / "work" / "predictions").glob(f"{'?' * 12}.{form}-onnxruntime-*.csv")
    return [row for file in files for row in list(csv.reader(file.open(newline="")))[1:]]


def test_a_row_is_what_its_answers_are_worth(place: Path) -> None:
    row, answers = table(place)[STATIC], kept(place, "static.onnx")
    actual = [answer[1] for answer in answers]
    called = [LABELS[int(np.argmax([float(word) for word in answer[3:]]))] for answer in answers]
    assert len(answers) == int(row["n"]) == 60
    assert row["folds"] == "0 1"
    assert float(row["accuracy"]) == pytest.approx(accuracy_score(actual, called), rel=1e-3)
    assert float(row["balanced_accuracy"]) == pytest.approx(balanced_accuracy_score(actual, called), rel=1e-3)


def test_engines_agree_on_the_float_network(place: Path) -> None:
    rows = table(place)
    for name in (ORT, "OpenVINO fp32", "LiteRT fp32", "Octlet"):
        assert [rows[name][f"difference{end}"] for end in ("", "_low", "_high")] == ["0"] * 3, name
    assert rows[TORCH]["difference"] == ""


def test_rounding_is_that_of_onnx_runtime(place: Path) -> None:
    import onnx

    file = next((place / "work" / "networks").glob("*.static.onnx"))
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    assert "QuantizeLinear" in kinds
    before, after = (
        np.array([[float(word) for word in row[3:]] for row in sorted(kept(place, form))])
        for form in ("onnx", "static.onnx")
    )
    assert 0 < np.abs(before - after).max() < 0.1


def test_single_rows_are_measured_where_they_are_named(place: Path, easy_scans: Path, peers: Any) -> None:
    out = place / "single.csv"
    given = words(place, easy_scans, "--no-times", "--only", "Octlet", "--only", "torch eager fp32")
    peers.main([str(out), *given[1:]])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["torch eager fp32", "Octlet"]
    assert all(row["accuracy"] == table(place)[row["name"]]["accuracy"] for row in rows)
    with pytest.raises(SystemExit, match="no row: Octlett"):
        peers.main([*given, "--only", "Octlett"])


def test_an_added_row_in_pytorch_is_of_the_run_that_the_file_is_named_after(
    peers: Any, place: Path, tiny_run: Path, model_file: Path, easy_scans: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run, tmp_path / "teacher-0")
    shutil.copy(model_file, tmp_path / "teacher-0.octlet")
    given = words(place, easy_scans, "--no-times", "--only", "teacher", "--only", TORCH)
    out = tmp_path / "out.csv"
    peers.main([str(out), *given[1:], "--row", "torch", "teacher", f"{tmp_path}/teacher-{{k}}.octlet"])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["teacher", TORCH]
    assert (rows[0]["folds"], rows[0]["difference"]) == ("0", "0")
    with pytest.raises(SystemExit, match="--row tensorrt: not one of torch, onnxruntime"):
        peers.main([*given, "--row", "tensorrt", "a", "b"])


def test_a_skipped_row_says_why_and_the_others_stand(place: Path) -> None:
    rows = table(place)
    for name, reason in {**SKIPPED, "absent": "no such model file"}.items():
        assert rows[name]["note"].startswith("skipped: ")
        assert reason in rows[name]["note"]
        assert rows[name]["n"] == rows[name]["bytes"] == ""
    assert rows["Octlet"]["n"] == "60"


def test_the_file_is_the_networks_or_the_model_files(place: Path) -> None:
    rows = table(place)
    assert int(rows["Octlet"]["bytes"]) == (place / "float-0" / "model.octlet").stat().st_size
    checkpoint = place / "float-0" / "train" / "checkpoint.safetensors"
    assert int(rows[TORCH]["bytes"]) == pytest.approx(checkpoint.stat().st_size, abs=200)
    smaller = int(rows[TORCH]["bytes"]) / int(rows[STATIC]["bytes"])
    assert float(rows[STATIC]["smaller"]) == pytest.approx(smaller, rel=1e-3)


def test_answers_are_kept_and_times_come_in_turn(
    peers: Any, place: Path, easy_scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peers_times

    def again(*_: object) -> None:
        raise RuntimeError("computed again")  # the row would be empty

    def starts(commands: list[list[str]]) -> list[list[dict[str, float]]]:
        return [[{"seconds": 2.0 + ("octlet" in command), "peak_mb": 7.0}] * 3 for command in commands]

    monkeypatch.setattr(peers, "predict", again)
    monkeypatch.setattr(peers_times, "_starts", starts)
    monkeypatch.setattr(
        peers_times.latency, "measure", lambda engines, sizes, progress: _latency(len(engines))
    )
    peers.main(words(place, easy_scans)[:-1])
    rows = table(place)
    assert [rows[TORCH][f"faster{end}"] for end in ("", "_low", "_high")] == ["1"] * 3
    assert [rows["Octlet"][f"faster{end}"] for end in ("", "_low", "_high")] == ["3", "2", "4"]
    assert (rows["Octlet"]["start_faster"], rows[ORT]["start_faster"]) == ("0.6667", "1")
    assert rows["Octlet"]["peak_mb"] == "7"
    timed = table(place)
    peers.main(words(place, easy_scans))
    assert table(place) == timed


def _latency(count: int) -> Any:
    from octlet.runtime.latency import Latency

    seconds = [(12.0, 12.0, 12.0)] * (count - 1) + [(6.0, 4.0, 3.0)]
    return Latency((), tuple(seconds))


def test_a_count_is_that_of_the_same_network_in_the_same_engine(
    peers: Any, place: Path, easy_scans: Path
) -> None:
    from octlet.compress.cost import cost_of
    from octlet.core.bundle import open_bundle
    from octlet.models.spec import NetSpec

    spec = NetSpec.from_dict(open_bundle(place / "float-0" / "model.octlet").manifest.network)
    mmacs = f"{cost_of(spec, 64).macs / 1e6:.4g}"
    lines = ["engine,size,integers,mmacs,total", f"onnxruntime,64,False,{mmacs},12.5"]
    (place / "counts.csv").write_text("\n".join([*lines, f"litert,64,True,{mmacs},7", ""]))
    peers.main(words(place, easy_scans))
    rows = table(place)
    assert rows[ORT]["minstructions"] == rows["Octlet"]["minstructions"] == "12.5"
    for name in (TORCH, STATIC, "LiteRT fp32"):
        assert rows[name]["minstructions"] == ""
        assert "instructions: " in rows[name]["note"]


def test_the_page_shows_the_last_table_only(peers: Any, tmp_path: Path) -> None:
    import peers_table

    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{peers_table.MARK}\n\nAfter.\n\nEnd.\n")
    for shown in ("| a |\n| --- |", "| b |\n| --- |\n| 1 |"):
        peers_table.into_page(page, shown)
    expected = f"Before.\n\n{peers_table.MARK}\n| b |\n| --- |\n| 1 |\n\nAfter.\n\nEnd.\n"
    assert page.read_text() == expected


def test_a_start_answers_and_is_weighed_by_itself(place: Path, easy_scans: Path) -> None:
    network = next((place / "work" / "networks").glob("*.static.onnx"))
    scan = next(easy_scans.glob("train/CNV/*.png"))
    child = [sys.executable, str(BENCHMARKS / "peers_ways.py"), "onnxruntime", str(network), "64", str(scan)]
    said = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    assert said.strip() in LABELS
    weight = np.ones(50_000_000)  # 400 MB that are not the child's
    asked = json.dumps({"rounds": 1, "commands": [child]})
    start = [sys.executable, str(BENCHMARKS / "peers_start.py")]
    told = subprocess.run(start, input=asked, capture_output=True, text=True, check=True).stdout
    [[turn]] = json.loads(told)
    assert 20 < turn["peak_mb"] < weight.nbytes / 1e6
    assert turn["seconds"] > 0


def test_a_model_file_answers_with_its_second_look(
    peers: Any, place: Path, tiny_run: Path, easy_scans: Path, tmp_path: Path
) -> None:
    import flip

    twice = tmp_path / "fold-0.octlet"
    result_of("export", tiny_run, "--second-look", 1, "--images", 200, "--out", twice)
    fold = next(iter(peers.read_folds(place / "split", easy_scans)))
    peer = peers.Peer("ships", "onnxruntime", str(tmp_path / "fold-{k}.octlet"), None, "onnx", shipped=True)
    size = open_bundle(twice).manifest.preprocessing.size
    said = peers.predict(peer, peers.Made(twice, twice, size, ""), fold)
    once, _, mean, *_ = flip.said(place / "float-0" / "model.octlet", easy_scans, fold.split)
    assert np.abs(said.probabilities - mean.probabilities).max() < 1e-5
    assert np.abs(said.probabilities - once.probabilities).max() > 1e-3

    out, file = tmp_path / "out.csv", f"{tmp_path}/fold-{{k}}.octlet"
    rows = ["--row", "onnxruntime", "once", file, "--row", "octlet", "twice", file]
    peers.main(
        [str(out), *words(place, easy_scans, "--no-times", "--only", "once", "--only", "twice")[1:], *rows]
    )
    key = peers.make(peers.row_of("octlet", "twice", file), fold, place / "work").key
    kept = [place / "work" / "predictions" / f"{key}-{by}-fold-0.csv" for by in ("onnxruntime", "octlet")]
    read = [read_predictions(each).probabilities for each in kept]
    assert np.abs(read[0] - once.probabilities).max() < 1e-5
    assert np.abs(read[1] - mean.probabilities).max() < 1e-5


def test_the_picture_shows_the_committed_table_and_names_a_step_without_times(
    peers: Any, tmp_path: Path
) -> None:
    import peers_figure

    table, out = BENCHMARKS.parent / "docs" / "results" / "peers.csv", tmp_path / "steps.png"
    peers_figure.main(out, table)
    assert out.read_bytes().startswith(b"\x89PNG")
    lines = table.read_text().splitlines(keepends=True)
    (tmp_path / "part.csv").write_text("".join(line for line in lines if "Octlet, ships" not in line))
    with pytest.raises(InputError, match="no times of 'Octlet, ships'"):
        peers_figure.main(tmp_path / "none.png", tmp_path / "part.csv")
    assert not (tmp_path / "none.png").exists()
