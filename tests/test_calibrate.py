"""`octlet calibrate`: thresholds from unseen scans, through its real command line."""

import csv
import shutil

import easy
import numpy as np
import pytest

from octlet.cli.main import main
from octlet.core.bundle import ONNX, open_bundle
from octlet.core.image import read_scan
from octlet.core.labels import LABELS
from octlet.evaluate.held_out import read_held_out
from octlet.evaluate.trust import conformal_thresholds, fit_temperature
from octlet.runtime.predictor import Predictor, softmax


@pytest.fixture(scope="module")
def split(easy_scans, tmp_path_factory):
    """Half of each class trains, a quarter is for validation, a quarter for the test."""
    folder = tmp_path_factory.mktemp("split")
    easy.result_of("data", "check", easy_scans, "--out", folder)
    words = ("--val", "0.25", "--test", "0.25", "--out", folder / "split.csv")
    easy.result_of("data", "split", folder / "index.csv", *words)
    return folder / "split.csv"


@pytest.fixture(scope="module")
def calibrated(model_file, easy_scans, split, tmp_path_factory):
    """The tiny model, calibrated on validation scans; and what was said of it."""
    folder = tmp_path_factory.mktemp("calibrated")
    out, scores = folder / "model.octlet", folder / "scores.csv"
    words = ("--split", split, "--out", out, "--scores", scores, "--coverage", "0.6", "--refusal", "0.25")
    return out, scores, easy.result_of("calibrate", model_file, easy_scans, *words)


def rows(split, name):
    with split.open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == name]


def test_what_is_fitted_is_what_the_scores_say(calibrated, split):
    out, scores, said = calibrated
    held = read_held_out(scores)
    assert held.paths == tuple(row["path"] for row in rows(split, "val"))
    manifest = open_bundle(out).manifest
    temperature = fit_temperature(held.logits, held.labels)
    assert manifest.calibration.temperature == temperature == said["calibration"]["temperature"]
    lowest = conformal_thresholds(softmax(held.logits, temperature), held.labels, 0.6)
    assert manifest.thresholds.lowest == lowest == said["thresholds"]["lowest"]
    assert manifest.thresholds.scans == dict(zip(LABELS, np.bincount(held.labels), strict=True))
    assert said["scans"] == manifest.calibration.scans == len(held.paths)


def test_what_is_fitted_is_said_in_both_looks(tiny_run, easy_scans, split, tmp_path):
    model, out, scores = (tmp_path / name for name in ("twice.octlet", "out.octlet", "scores.csv"))
    easy.result_of("export", tiny_run, "--out", model, "--second-look", "1")
    easy.result_of("calibrate", model, easy_scans, "--split", split, "--out", out, "--scores", scores)
    held = read_held_out(scores)
    said = Predictor.open(model).run([read_scan(easy_scans / path) for path in held.paths])
    np.testing.assert_allclose(held.logits, said.logits, atol=1e-5)
    assert open_bundle(out).manifest.second_look == 1
    assert "mirrored" in open_bundle(out).read("README.md").decode()


def test_the_network_stays_as_it_is(calibrated, model_file):
    before, after = open_bundle(model_file), open_bundle(calibrated[0])
    assert before.read(ONNX) == after.read(ONNX)
    assert before.manifest.trust is None
    assert "Never calibrated" in before.read("README.md").decode()
    card = after.read("README.md").decode()
    assert "Never calibrated" not in card
    assert f"Fitted on {after.manifest.calibration.scans} scans" in card
    assert card.count("## Doubt") == 1


def test_calibrating_again_gives_the_same_file(calibrated, easy_scans, split, tmp_path):
    again = tmp_path / "again.octlet"
    words = ("--split", split, "--out", again, "--coverage", "0.6", "--refusal", "0.25")
    easy.result_of("calibrate", calibrated[0], easy_scans, *words)
    assert again.read_bytes() == calibrated[0].read_bytes()


def test_a_calibrated_model_doubts(calibrated, easy_scans, tmp_path):
    scan = next(easy_scans.rglob("*.png"))
    found = easy.result_of("predict", "-m", calibrated[0], scan, "--csv", tmp_path / "a.csv")["predictions"][
        0
    ]
    assert set(found["set"]) <= set(LABELS)
    row = next(csv.DictReader((tmp_path / "a.csv").open()))
    assert row["set"].split() == found["set"]
    assert row["abstain"] == (found["abstain"] or "")
    predictor = Predictor.open(calibrated[0])
    gray = read_scan(scan)
    scores = predictor.score([predictor.prepare(gray)])
    assert found["set"] == list(predictor.judge(gray, "", scores).set)


def test_an_evaluation_tells_how_it_doubts(calibrated, model_file, easy_scans, split, tmp_path):
    words = (easy_scans, "--split", split, "--resamples", 100, "--out", tmp_path / "out")
    doubt = easy.result_of("evaluate", calibrated[0], *words)["doubt"]
    scans = [easy_scans / row["path"] for row in rows(split, "test")]
    said = easy.result_of("predict", "-m", calibrated[0], *scans)["predictions"]
    labels = [row["label"] for row in rows(split, "test")]
    pairs = list(zip(labels, said, strict=True))
    assert doubt["covered"]["value"] == np.mean([label in each["set"] for label, each in pairs])
    assert doubt["set_size"] == np.mean([len(each["set"]) for each in said])
    for reason in ("uncertain", "not an OCT scan", "poor quality"):
        assert doubt[reason]["value"] == np.mean([each["abstain"] == reason for each in said])
    sure = [label != each["label"] for label, each in pairs if each["abstain"] is None]
    assert doubt["answered_wrong"]["n"] == len(sure)
    assert doubt["answered_wrong"]["value"] == (np.mean(sure) if sure else None)
    drusen = [label in each["set"] for label, each in pairs if label == "DRUSEN"]
    assert doubt["per_class"]["DRUSEN"]["value"] == np.mean(drusen)
    assert "wrong where sure" in (tmp_path / "out" / "report.html").read_text()
    assert "doubt" not in easy.result_of("evaluate", model_file, *words)


def test_a_file_tells_how_it_did_in_its_test(model_file, easy_scans, split, tmp_path):
    words = (easy_scans, "--split", split, "--resamples", 100, "--out", tmp_path / "test")
    summary = easy.result_of("evaluate", model_file, *words)
    out = tmp_path / "told.octlet"
    words = ("--split", split, "--out", out, "--performance", tmp_path / "test" / "metrics.json")
    easy.result_of("calibrate", model_file, easy_scans, *words)
    manifest = open_bundle(out).manifest
    assert manifest.metrics["val_accuracy"] == 0.5
    test = manifest.metrics["test"]
    assert test["scans"] == summary["n"]
    assert test["balanced_accuracy"] == {
        part: summary["balanced_accuracy"][part] for part in ("value", "low", "high")
    }
    card = open_bundle(out).read("README.md").decode()
    assert f"| accuracy | {summary['accuracy']['value']:.3f} (" in card
    assert card.count("## Figures") == 1
    (tmp_path / "no.json").write_text("[]")
    code, _, err = easy.command(
        "calibrate", model_file, easy_scans, *words[:4], "--performance", tmp_path / "no.json"
    )
    assert code == 3
    assert "no.json" in err


def test_scores_of_other_folds_are_pooled(calibrated, model_file, easy_scans, split, tmp_path):
    test = tmp_path / "test.csv"
    said = easy.result_of(
        "calibrate", model_file, easy_scans, "--split", split, "--subset", "test", "--scores", test
    )
    assert "calibration" not in said
    other = tmp_path / "other.csv"  # another fold's split, in which these scans are for training
    other.write_text(split.read_text().replace(",test,", ",train,"))
    out = tmp_path / "model.octlet"
    words = ("--from", test, "--from", calibrated[1], "--out", out, "--coverage", "0.6")
    found = easy.result_of("calibrate", model_file, easy_scans, "--split", other, *words)
    held = [read_held_out(each) for each in (test, calibrated[1])]
    assert found["scans"] == sum(len(each.paths) for each in held)
    assert found["thresholds"]["distance"] == max(each.distances.max() for each in held)
    code, _, err = easy.command("calibrate", model_file, easy_scans, "--split", split, *words)
    assert code == 3
    assert "test scans stand in the pooled scores" in err


def test_few_scans_are_told(model_file, easy_scans, split, tmp_path):
    words = ("--split", split, "--out", tmp_path / "a.octlet")
    code, out, err = easy.command("calibrate", model_file, easy_scans, *words)
    assert code == 0
    assert out.count("always: under 19 scans") == 4
    assert "can never be ruled out" in err
    assert "next: octlet predict" in err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 2, "nothing to write"),
        (("--out", "model.onnx"), 2, "ends in .octlet"),
        (("--subset", "test", "--out", "a.octlet"), 2, "not fitted on test scans"),
        (("--out", "a.octlet", "--coverage", "1"), 2, "--coverage"),
        (("--scores", "a.csv", "--from", "b.csv"), 2, "give one of them"),
        (("--out", "a.octlet", "--from", "none.csv"), 3, "none.csv"),
        (("--out", "a.octlet", "--split", "none.csv"), 3, "none.csv"),
    ],
)
def test_what_is_refused(words, code, told, model_file, easy_scans, split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("calibrate", model_file, easy_scans, "--split", split, *words)
    found, _, err = easy.command(*given)
    assert found == code
    assert told in err
    assert not list(tmp_path.iterdir())


def test_a_scan_that_is_missing_ends_it(model_file, easy_scans, split, tmp_path):
    scans = tmp_path / "scans"
    shutil.copytree(easy_scans, scans)
    (scans / rows(split, "train")[0]["path"]).unlink()
    words = [
        "calibrate",
        str(model_file),
        str(scans),
        "--split",
        str(split),
        "--out",
        str(tmp_path / "a.octlet"),
    ]
    assert main([*words, "--json"]) == 3
    assert not (tmp_path / "a.octlet").exists()
