"""`octlet evaluate`, and the figures and the page that it writes."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scored import said, simulated, write_noise

from octlet.cli.main import main
from octlet.core.labels import LABELS, NOTICE
from octlet.evaluate import figures, report
from octlet.evaluate.predictions import Predictions, read_predictions, write_predictions
from octlet.evaluate.summary import summarise

UNDRAWN = dict.fromkeys(("confusion", "roc", "reliability"), (b"light", b"dark"))
QUICK = ("--resamples", "100")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A predictions file in the current folder; verbs run in this process compose figures undrawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "encoded", lambda figure: b"undrawn")
    write_predictions("a.csv", simulated())
    return tmp_path


@pytest.fixture(scope="session")
def scans(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("scans"))


# Figures and pages ----------------------------------------------------------------------------------------


def drawn(theme=figures.LIGHT):
    p = simulated()
    summary = summarise(p, resamples=100)
    return [
        figures.confusion_png(summary, theme),
        figures.roc_png(p, summary, theme),
        figures.reliability_png(p, summary, theme),
    ]


def test_figures_are_png_the_same_each_time_and_have_their_theme():
    first, second, dark = drawn(), drawn(), drawn(figures.DARK)
    assert first == second
    for light_png, dark_png in zip(first, dark, strict=True):
        corners = [Image.open(BytesIO(png)).convert("RGB").getpixel((0, 0)) for png in (light_png, dark_png)]
        assert corners == [(255, 255, 255), (21, 25, 28)]


def test_figures_of_a_sample_without_some_classes_can_be_drawn(tmp_path):
    p = simulated()
    only = p.select(np.flatnonzero(p.labels == 2))
    report.write_evaluation(tmp_path, only, summarise(only, resamples=100))
    assert "n/a" in (tmp_path / "report.html").read_text()


def test_an_estimate_is_told_with_its_interval():
    assert figures.estimate_text({"value": 0.5, "low": 0.25, "high": 1.0}) == "0.500 (0.250\u20131.000)"
    told = figures.estimate_text({"value": -0.1, "low": -0.2, "high": 0.0}, signed=True)
    assert told == "\u22120.100 (\u22120.200 to +0.000)"
    assert figures.estimate_text({"value": 0.5, "low": None, "high": None}) == "0.500 (no interval)"
    assert figures.estimate_text({"value": None, "low": None, "high": None}) == "n/a"


class _Page(HTMLParser):
    """Collects what a page shows and what it loads; fails on a tag that is closed in the wrong place."""

    def __init__(self, html):
        super().__init__()
        self.open, self.loads, self.text = [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_is_one_file_that_names_the_urgent_scans_called_normal():
    p = simulated(prefix="<b>&")
    summary = summarise(p, resamples=100)
    model = {"name": "<i>", "sha256": "f" * 64}
    html = report.evaluation_page(p, summary, UNDRAWN, model=model, notes=["Beware <x>."])
    page = _Page(html)
    assert len(page.loads) == 6
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    missed = summary["urgent_called_normal_paths"]
    assert missed
    assert all(path in page.text for path in missed)
    for words in (NOTICE, "<i>", "f" * 64, "Beware <x>.", "60 scans of"):
        assert words in page.text
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert not re.search(r"https?://", html)


# octlet evaluate ------------------------------------------------------------------------------------------


def test_evaluate_writes_its_folder_and_prints_the_metrics_as_one_document(octlet, files):
    done = octlet("evaluate", "a.csv", *QUICK, "--json", cwd=files)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    out = files / "octlet-evaluation"
    assert printed == json.loads((out / "metrics.json").read_text())
    written = {
        "predictions.csv",
        "metrics.json",
        "confusion.png",
        "roc.png",
        "reliability.png",
        "report.html",
    }
    assert {file.name for file in out.iterdir()} == written
    assert (out / "predictions.csv").read_bytes() == (files / "a.csv").read_bytes()
    assert "next: octlet compare" in done.stderr


def test_the_document_holds_what_the_design_promises(files, capsys):
    code, printed = said(capsys, "evaluate", "a.csv", *QUICK, "--seed", "3")
    assert code == 0
    assert (printed["n"], printed["labels"], printed["notice"]) == (60, list(LABELS), NOTICE)
    assert (printed["seed"], printed["resamples"]) == (3, 100)
    for name in ("accuracy", "balanced_accuracy", "macro_auc", "urgent_auc", "macro_f1", "ece", "log_loss"):
        assert set(printed[name]) == {"value", "low", "high"}
        assert printed[name]["low"] <= printed[name]["high"]
    assert list(printed["per_class"]) == list(LABELS)
    assert {"n", "sensitivity", "specificity", "auc"} < set(printed["per_class"]["CNV"])
    assert len(printed["confusion_matrix"]) == 4
    assert printed["urgent_called_normal"] == len(printed["urgent_called_normal_paths"])


def test_evaluate_prints_a_readable_result(files, capsys):
    assert main(["evaluate", "a.csv", *QUICK]) == 0
    shown = capsys.readouterr().out
    for words in ("60 scans of", "balanced accuracy", "called NORMAL", NOTICE):
        assert words in shown


def test_several_predictions_are_pooled(files, capsys):
    whole, folds = simulated(), ("0/predictions.csv", "1/predictions.csv")
    for fold, rows in zip(folds, (np.arange(20), np.arange(20, 60)), strict=True):
        write_predictions(fold, whole.select(rows))
    _, pooled = said(capsys, "evaluate", *folds, *QUICK)
    assert pooled["accuracy"] == said(capsys, "evaluate", "a.csv", *QUICK)[1]["accuracy"]
    assert tuple(pooled["model"]["files"]) == folds
    code, error = said(capsys, "evaluate", folds[0], "a.csv", *QUICK)
    assert code == 3
    assert "stands here 2 times" in error["error"]["message"]


def test_a_model_file_is_run_on_a_folder(files, scans, model_file, capsys):
    code, printed = said(capsys, "evaluate", model_file, scans, *QUICK, "--threads", "1")
    assert code == 0
    assert (printed["n"], printed["patients"], printed["model"]["name"]) == (12, 6, "tiny")
    p = read_predictions("octlet-evaluation/predictions.csv")
    assert p.paths[0] == "CNV/CNV-0-0.png"
    assert p.patients[0] == "0"
    assert said(capsys, "evaluate", "octlet-evaluation/predictions.csv", *QUICK)[1]["ece"] == printed["ece"]


def test_batches_hold_the_predictors_own_probabilities(files, scans, model_file, monkeypatch, capsys):
    from octlet import scoring
    from octlet.data.source import read_pixels
    from octlet.runtime.predictor import Predictor

    monkeypatch.setattr(scoring, "BATCH", 5)
    assert main(["evaluate", str(model_file), str(scans), *QUICK]) == 0
    p = read_predictions("octlet-evaluation/predictions.csv")
    alone = [Predictor.open(model_file).run([read_pixels(scans, path)]).probabilities[0] for path in p.paths]
    assert p.probabilities == pytest.approx(np.array(alone), abs=1e-5)


def test_a_split_chooses_the_scans(files, scans, model_file, capsys):
    assert main(["data", "check", str(scans), "--out", "check"]) == 0
    assert main(["data", "split", "check/index.csv", "--val", "0", "--test", "0.5"]) == 0
    capsys.readouterr()
    split = ("--split", "check/split.csv")
    _, test = said(capsys, "evaluate", model_file, scans, *split, *QUICK)
    _, train = said(capsys, "evaluate", model_file, scans, *split, "--subset", "train", *QUICK)
    assert 0 < test["n"] < 12
    assert test["n"] + train["n"] == 12
    assert test["model"]["subset"] == "test"
    code, error = said(capsys, "evaluate", model_file, scans, *split, "--subset", "val", *QUICK)
    assert (code, error["error"]["message"]) == (3, "no scan with split 'val'")


def test_a_split_whose_patients_cross_is_refused(files, scans, model_file, capsys):
    assert main(["data", "check", str(scans), "--out", "check"]) == 0
    assert main(["data", "split", "check/index.csv", "--val", "0", "--test", "0.5"]) == 0
    capsys.readouterr()
    table = files / "check" / "split.csv"
    table.write_text(table.read_text().replace(",test,", ",train,", 1))
    code, error = said(capsys, "evaluate", model_file, scans, "--split", table, *QUICK)
    assert code == 3
    assert "crosses splits" in error["error"]["message"]


def test_unreadable_scans_are_listed_and_the_others_evaluated(files, scans, model_file, capsys):
    folder = files / "scans"
    for file in scans.rglob("*.png"):
        copy = folder / file.relative_to(scans)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (folder / "DME" / "DME-9-1.png").write_bytes(b"no image")
    Image.new("L", (80, 80), 255).save(folder / "DME" / "DME-9-2.png")
    code, printed = said(capsys, "evaluate", model_file, folder, *QUICK)
    assert (code, printed["n"]) == (3, 12)
    assert [error["file"] for error in printed["unreadable"]] == ["DME/DME-9-1.png", "DME/DME-9-2.png"]
    assert "2 scans could not be read" in (files / "octlet-evaluation" / "report.html").read_text()
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    code, error = said(capsys, "evaluate", model_file, folder, *QUICK)
    assert (code, error["error"]["message"]) == (3, "no scan could be read")


def test_unknown_patients_are_disclosed(files, capsys):
    p = simulated()
    unknown = tuple(f"file:{path}" for path in p.paths)
    write_predictions("a.csv", Predictions(p.paths, p.labels, unknown, p.probabilities))
    _, printed = said(capsys, "evaluate", "a.csv", *QUICK)
    assert printed["notes"][0].startswith("60 of 60 scans have no known patient")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("evaluate", "model.octlet"), 2),
        (("evaluate", "a.csv", "folder"), 2),
        (("evaluate", "a.csv", "--split", "split.csv"), 2),
        (("evaluate", "a.csv", "--resamples", "10"), 2),
        (("evaluate", "a.csv", "--out", "a.csv"), 2),
        (("evaluate", "none.csv"), 3),
        (("evaluate", "none.octlet", "."), 4),
    ],
)
def test_faults_have_their_exit_code_and_leave_nothing(files, capsys, args, code):
    found, printed = said(capsys, *args)
    assert (found, set(printed)) == (code, {"error"})
    assert sorted(file.name for file in files.iterdir()) == ["a.csv"]


def test_evaluation_draws_without_pyplot_and_needs_no_torch(files):
    program = """
import sys
from octlet.cli.main import main
code = main(["evaluate", "a.csv", "--resamples", "100"])
print({"matplotlib.pyplot", "torch", "sklearn", "scipy"} & set(sys.modules) or "none", code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "none 0"
