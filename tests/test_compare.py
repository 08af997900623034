"""`octlet compare` through its real command line."""

import csv
import dataclasses
import json

import pytest
from PIL import Image
from scored import said, simulated, write_noise

from octlet.cli.main import main
from octlet.core.bundle import open_bundle, write_bundle
from octlet.core.labels import LABELS, NOTICE
from octlet.evaluate import figures
from octlet.evaluate.predictions import read_predictions, write_predictions
from octlet.runtime import latency

QUICK = ("--resamples", "100")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Predictions a.csv, b.csv (better), c.csv (best) here; verbs in this process compose undrawn figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "encoded", lambda figure: b"undrawn")
    for seed, name in enumerate("abc"):
        write_predictions(f"{name}.csv", simulated(seed, skill=1 + 3 * seed))
    return tmp_path


@pytest.fixture(scope="session")
def scans(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="session")
def other_file(model_file):
    """The tiny model under a longer name, so a larger file."""
    bundle = open_bundle(model_file)
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    path = model_file.parent / "other.octlet"
    write_bundle(path, dataclasses.replace(bundle.manifest, name="tiny int8"), contents)
    return path


def test_three_predictions_make_a_folder_and_one_document(octlet, files):
    row = {"epoch": 1, "train_loss": 1.0, "val_loss": 1.1, "val_balanced_accuracy": 0.5}
    (files / "run").mkdir()
    (files / "run" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    words = ("compare", "a.csv", "b.csv", "c.csv", "--name", "float", "--name", "QAT int8", "--name", "table")
    done = octlet(*words, "--curves", "QAT=run", *QUICK, "--json", cwd=files)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    out = files / "octlet-comparison"
    assert printed == json.loads((out / "comparison.json").read_text())
    pictures = {"confusion.png", "difference.png", "curves.png"}
    tables = {"float.csv", "QAT-int8.csv", "table-2.csv", "table.csv"}
    assert {file.name for file in out.iterdir()} == {*pictures, *tables, "report.html", "comparison.json"}
    for name in pictures:
        Image.open(out / name).verify()
    assert (out / "QAT-int8.csv").read_bytes() == (files / "b.csv").read_bytes()
    assert read_predictions(out / "table-2.csv").paths == simulated().paths
    assert [row["name"] for row in csv.DictReader((out / "table.csv").open())] == [
        "float",
        "QAT int8",
        "table",
    ]


def test_the_document_holds_what_the_design_promises(files, capsys):
    code, printed = said(
        capsys, "compare", "a.csv", "b.csv", "c.csv", *QUICK, "--seed", "3", "--margin", "0.02"
    )
    assert code == 0
    assert list(printed) == [
        *("n", "patients", "labels", "reference", "models", "comparisons", "margin", "interval", "resamples"),
        *("seed", "notice", "latency", "notes", "unreadable"),
    ]
    assert (printed["n"], printed["labels"], printed["reference"]) == (60, list(LABELS), "a")
    assert (printed["seed"], printed["resamples"], printed["margin"]) == (3, 100, 0.02)
    assert (printed["notice"], printed["latency"]) == (NOTICE, None)
    assert list(printed["models"][0]) == [
        *("name", "identity", "accuracy", "balanced_accuracy", "macro_auc", "sensitivity"),
        *("confusion_matrix", "urgent_called_normal", "urgent_called_normal_paths"),
        *("bytes", "size_ratio", "latency_ratio"),
    ]
    assert [each["name"] for each in printed["comparisons"]] == ["b", "c"]
    for each in printed["comparisons"]:
        assert set(each) == {"name", "difference", "discordant", "not_inferior"}
        assert set(each["difference"]) == {"accuracy", "balanced_accuracy", "sensitivity"}


def test_the_result_can_be_read_on_a_terminal(files, capsys):
    assert main(["compare", "b.csv", "a.csv", "c.csv", *QUICK]) == 0
    shown = capsys.readouterr()
    for words in ("60 scans of", "(reference)", "a is not shown to be not inferior to b", NOTICE):
        assert words in shown.out
    assert "urgent scans called NORMAL by a and not by b" in shown.out
    assert "next: octlet evaluate c.csv" in shown.err


def test_the_gate_fails_where_one_of_several_is_worse_and_only_when_asked(files, capsys):
    assert said(capsys, "compare", "b.csv", "c.csv", "a.csv", *QUICK)[0] == 0
    code = main(["compare", "b.csv", "c.csv", "a.csv", *QUICK, "--gate", "--json"])
    shown = capsys.readouterr()
    found = [each["not_inferior"] for each in json.loads(shown.out)["comparisons"]]
    assert (code, found) == (5, [True, False])
    assert "a is not shown to be not inferior" in shown.err
    assert "c is not shown" not in shown.err
    assert said(capsys, "compare", "a.csv", "b.csv", "c.csv", *QUICK, "--gate")[0] == 0


def test_model_files_are_run_on_the_same_scans_and_weighed(
    files, scans, model_file, other_file, capsys, monkeypatch
):
    measured = []

    def fake(bundles, progress):
        measured.extend(bundle.path for bundle in bundles)
        return latency.Latency((0.4, 0.1))

    monkeypatch.setattr(latency, "measure_files", fake)
    assert main(["evaluate", str(model_file), str(scans), *QUICK]) == 0
    capsys.readouterr()
    own = "octlet-evaluation/predictions.csv"
    code, printed = said(capsys, "compare", model_file, own, other_file, scans, *QUICK, "--threads", "1")
    assert (code, printed["n"], printed["patients"]) == (0, 12, 6)
    assert [each["discordant"]["changed_call"] for each in printed["comparisons"]] == [0, 0]
    first, second, third = printed["models"]
    assert [first["name"], second["name"], third["name"]] == ["tiny", "octlet-evaluation", "tiny int8"]
    assert measured == [model_file, other_file]
    sizes = [file.stat().st_size for file in measured]
    assert [first["bytes"], second["bytes"], third["bytes"]] == [sizes[0], None, sizes[1]]
    assert third["size_ratio"] == sizes[0] / sizes[1] < 1
    assert [each["latency_ratio"] for each in printed["models"]] == [1.0, None, 0.4 / 0.1]
    assert printed["latency"] == {"rounds": latency.ROUNDS, "warm_up": latency.WARM_UP, "threads": 1}


def test_a_cost_stands_for_predictions(files, model_file, other_file, capsys):
    cost = ("--cost", model_file, "--cost", other_file)
    code, printed = said(capsys, "compare", "a.csv", "b.csv", *cost, *QUICK)
    assert code == 0
    first, second = printed["models"]
    assert first["size_ratio"] == first["latency_ratio"] == 1
    assert second["size_ratio"] == first["bytes"] / second["bytes"]
    assert second["latency_ratio"] > 0
    assert second["identity"]["name"] == "b.csv"
    assert second["identity"]["cost"]["name"] == "tiny int8"
    assert second["identity"]["cost"]["file"] == str(other_file)
    assert [first["name"], second["name"]] == ["a", "b"]
    assert str(other_file) in (files / "octlet-comparison" / "report.html").read_text()


def test_unreadable_scans_are_listed_and_the_others_compared(files, scans, model_file, other_file, capsys):
    folder = files / "scans"
    for file in scans.rglob("*.png"):
        copy = folder / file.relative_to(scans)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (folder / "DME" / "DME-9-1.png").write_bytes(b"no image")
    code, printed = said(capsys, "compare", model_file, other_file, folder, *QUICK)
    assert (code, printed["n"]) == (3, 12)
    assert [error["file"] for error in printed["unreadable"]] == ["DME/DME-9-1.png"]
    assert printed["notes"] == ["1 scans could not be read and are not counted."]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("a.csv",), 2, "two sources or more"),
        (("none.octlet", "."), 2, "two sources or more"),
        (("a.csv", "none.octlet"), 2, "a model file needs labelled scans"),
        (("one.octlet", "two.octlet"), 2, "a model file needs labelled scans"),
        (("a.csv", "b.csv", "."), 2, "DIR is for model files"),
        (("a.csv", "b.csv", "--split", "split.csv"), 2, "--split chooses scans"),
        (("a.csv", "b.csv", "--margin", "0"), 2, "--margin"),
        (("a.csv", "b.csv", "--name", "x"), 2, "1 times --name for 2 sources"),
        (("a.csv", "b.csv", "--name", "x", "--name", "x"), 2, "2 are called 'x'"),
        (("a.csv", "b.csv", "--name", "x", "--name", " "), 2, "one printable line"),
        (("a.csv", "a.csv"), 2, "2 are called 'a'"),
        (("a.csv", "b.csv", "--cost", "m.octlet"), 2, "1 times --cost for 2 sources"),
        (("a.csv", "b.csv", "--out", "a.csv"), 2, "--out"),
        (("a.csv", "none.csv"), 3, "cannot read these predictions"),
        (("a.csv", "b.csv", "--curves", "QAT=none"), 3, "cannot read a run's epochs"),
        (("a.csv", "none.octlet", "."), 4, "no such model file"),
        (("none.octlet", "a.csv", "b.csv"), 4, "no such model file"),  # b.csv lists the scans here
        (("a.csv", "b.csv", "--cost", "m.octlet", "--cost", "m.octlet"), 4, "no such model file"),
    ],
)
def test_faults_have_their_exit_code_and_leave_nothing(files, capsys, args, code, told):
    found, printed = said(capsys, "compare", *args)
    assert (found, set(printed)) == (code, {"error"})
    assert told in printed["error"]["message"]
    assert sorted(file.name for file in files.iterdir()) == ["a.csv", "b.csv", "c.csv"]


def test_other_scans_are_refused_by_name(files, capsys):
    write_predictions("c.csv", simulated(n=59))
    code, error = said(capsys, "compare", "a.csv", "b.csv", "c.csv", *QUICK)
    assert code == 3
    assert error["error"]["message"] == "59.png is in 'a' and not in 'c'"
