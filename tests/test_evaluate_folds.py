"""The mean of the folds against loops over scikit-learn, and how `octlet evaluate` tells it."""

import json

import numpy as np
import pytest
from easy import command
from test_evaluate_intervals import by_scikit_learn, simulated

from octlet.evaluate import bootstrap
from octlet.evaluate.folds import mean_of_folds, shared_patients
from octlet.evaluate.predictions import Predictions, merge, write_predictions
from octlet.evaluate.report import metric_rows
from octlet.evaluate.summary import OVERALL

TOLD = [name for name in OVERALL if name != "ece"]


def two_folds():
    """Two halves of the patients; the second's probabilities are duller, as of another network."""
    p = simulated()
    cluster, clusters = bootstrap.clusters_of(p.patients)
    first, second = (
        p.select(np.flatnonzero(half)) for half in (cluster < clusters // 2, cluster >= clusters // 2)
    )
    dull = second.probabilities**0.2
    return [
        first,
        Predictions(second.paths, second.labels, second.patients, dull / dull.sum(1, keepdims=True)),
    ]


def test_values_and_intervals_agree_with_a_loop_over_scikit_learn():
    folds = two_folds()
    found = mean_of_folds(folds, seed=4, resamples=100)
    each = [by_scikit_learn(p, np.arange(len(p))) for p in folds]
    drawn = [[] for _ in folds]
    for number, p in enumerate(folds):
        cluster, clusters = bootstrap.clusters_of(p.patients)
        for draw in np.random.default_rng(4 + number).integers(clusters, size=(100, clusters)):
            rows = np.concatenate([np.flatnonzero(cluster == patient) for patient in draw])
            drawn[number].append(by_scikit_learn(p, rows))
    assert list(found) == TOLD
    for name in TOLD:
        means = [(a[name] + b[name]) / 2 for a, b in zip(*drawn, strict=True)]
        low, high = np.quantile(means, [0.025, 0.975])
        values = [one[name] for one in each]
        expected = {"value": np.mean(values), "low": low, "high": high}
        assert {key: found[name][key] for key in expected} == pytest.approx(expected), name
        assert found[name]["folds"] == pytest.approx(values), name


def test_an_auc_does_not_compare_networks_with_each_other():
    one = two_folds()[0]
    eager = one.probabilities / 2 + [0.5, 0, 0, 0]  # ranks every class as before, all as more likely CNV
    other = Predictions(tuple(f"again/{path}" for path in one.paths), one.labels, one.patients, eager)
    alone = by_scikit_learn(one, np.arange(len(one)))["macro_auc"]
    assert mean_of_folds([one, other], resamples=100)["macro_auc"]["value"] == pytest.approx(alone)
    pooled = merge([one, other])
    assert by_scikit_learn(pooled, np.arange(len(pooled)))["macro_auc"] < alone - 0.01


def test_a_fold_without_an_urgent_scan_is_left_out_of_what_needs_one():
    folds = two_folds()
    calm = folds[1].select(np.flatnonzero(folds[1].labels > 1))
    found = mean_of_folds([folds[0], calm], resamples=100)["urgent_called_normal_rate"]
    assert found["folds"][1] is None
    assert found["value"] == pytest.approx(found["folds"][0])


def test_the_verb_tells_the_means_beside_what_is_pooled_but_not_of_folds_that_share_a_patient(tmp_path):
    folds = two_folds()
    files = [tmp_path / str(number) / "predictions.csv" for number in range(2)]
    for file, fold in zip(files, folds, strict=True):
        file.parent.mkdir()
        write_predictions(file, fold)
    code, out, _ = command("evaluate", *files, "--resamples", 100, "--out", tmp_path / "out")
    assert code == 0
    assert "mean of the folds" in out
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["mean_of_folds"] == mean_of_folds(folds, resamples=100)
    heads, rows = metric_rows(summary)
    assert {len(row) for row in rows} == {len(heads)} == {3}
    assert "<th>mean of the folds</th>" in (tmp_path / "out" / "report.html").read_text()

    patients = (folds[0].patients[0], *folds[1].patients[1:])
    crossed = Predictions(folds[1].paths, folds[1].labels, patients, folds[1].probabilities)
    assert shared_patients([folds[0], crossed]) == 1
    write_predictions(files[1], crossed)
    code, _, error = command("evaluate", *files, "--resamples", 100, "--out", tmp_path / "again")
    assert code == 0
    assert "patients in several folds: 1" in error
    assert "mean_of_folds" not in json.loads((tmp_path / "again" / "metrics.json").read_text())


def test_one_file_is_no_cross_validation(tmp_path):
    file = tmp_path / "predictions.csv"
    write_predictions(file, two_folds()[0])
    assert command("evaluate", file, "--resamples", 100, "--out", tmp_path / "out")[0] == 0
    assert "mean_of_folds" not in json.loads((tmp_path / "out" / "metrics.json").read_text())
