"""Bootstrap, summary and paired comparison against closed forms, scipy and plain loops over resamples."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from octlet.core.errors import InputError, UsageError
from octlet.core.files import dump_json
from octlet.core.labels import LABELS
from octlet.evaluate import bootstrap
from octlet.evaluate.paired import compare, compare_trainings, mcnemar_exact
from octlet.evaluate.predictions import Predictions
from octlet.evaluate.summary import OVERALL, summarise


def simulated(n=120, patients=40, seed=0, skill=1.5, classes=4, truth=0):
    """`seed` makes the model; `truth` the scans, their patients and a difficulty that patients share."""
    rng = np.random.default_rng(truth)
    labels, patient = rng.integers(classes, size=n), rng.integers(patients, size=n)
    hard = rng.normal(size=patients)[patient, None]
    rng = np.random.default_rng([seed, 1])
    scores = rng.normal(size=(n, 4)) + 0.0
    scores[np.arange(n), labels] += skill + hard[:, 0]
    p = np.exp(scores)
    paths = tuple(f"{row}.png" for row in range(n))
    return Predictions(paths, labels, tuple(map(str, patient)), p / p.sum(axis=1, keepdims=True))


def mean_of(values, patients):
    """The statistic of a mean, for `resample`."""
    cluster, clusters = bootstrap.clusters_of(patients)
    sums, counts = np.bincount(cluster, values, clusters), np.bincount(cluster, minlength=clusters)
    return lambda weights: ((sums @ weights) / (counts @ weights))[:, None]


def width_of_mean(values, patients, **settings):
    resampled = bootstrap.resample(patients, mean_of(values, patients), **settings)
    low, high = bootstrap.interval(resampled[:, 0])
    return high - low


# The draws ------------------------------------------------------------------------------------------------


def test_every_resample_draws_as_many_patients_as_there_are():
    blocks = list(bootstrap.draws(7, 250, seed=3, width=7))
    weights = np.concatenate(blocks, axis=1)
    assert weights.shape == (7, 250)
    assert (weights.sum(axis=0) == 7).all()
    assert weights.mean() == pytest.approx(1)
    assert len(np.unique(weights, axis=1).T) > 100


def test_the_size_of_a_block_changes_no_draw(monkeypatch):
    whole = np.concatenate(list(bootstrap.draws(11, 101, seed=5, width=11)), axis=1)
    monkeypatch.setattr(bootstrap, "_BLOCK", 33)
    pieces = list(bootstrap.draws(11, 101, seed=5, width=11))
    assert len(pieces) > 30
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)


def test_singleton_clusters_are_the_ordinary_bootstrap():
    values = np.random.default_rng(0).normal(size=30)
    names = [f"p{row}" for row in range(30)]
    found = bootstrap.resample(names, mean_of(values, names), resamples=500, seed=8)[:, 0]
    rows = np.random.default_rng(8).integers(30, size=(500, 30))
    assert found == pytest.approx(values[rows].mean(axis=1))


def test_the_interval_of_a_mean_has_the_closed_forms_width():
    values = np.random.default_rng(1).normal(size=400)
    width = width_of_mean(values, [str(row) for row in range(400)], resamples=4000, seed=0)
    assert width == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_patients_with_several_like_scans_widen_the_interval():
    values = np.random.default_rng(2).normal(size=80)
    alone = width_of_mean(values, [str(row) for row in range(80)], resamples=2000, seed=0)
    copies = np.repeat(values, 5)
    taken_as_one = width_of_mean(copies, [str(row // 5) for row in range(400)], resamples=2000, seed=0)
    taken_as_many = width_of_mean(copies, [str(row) for row in range(400)], resamples=2000, seed=0)
    assert taken_as_one == pytest.approx(alone)
    assert taken_as_one / taken_as_many == pytest.approx(math.sqrt(5), rel=0.1)


def test_intervals_cover_the_truth_where_scans_taken_as_independent_would_not():
    # 60 patients of 1 to 6 scans that share their patient's luck, whose mean is 0.8.
    covered = np.zeros(2)
    for sample in range(300):
        rng = np.random.default_rng(sample)
        luck = rng.beta(4, 1, size=60)
        patient = np.repeat(np.arange(60), rng.integers(1, 7, size=60))
        right = rng.random(len(patient)) < luck[patient]
        for way, clusters in enumerate((patient, np.arange(len(patient)))):
            names = [str(number) for number in clusters]
            resampled = bootstrap.resample(names, mean_of(right, names), resamples=300, seed=sample)
            low, high = bootstrap.interval(resampled[:, 0])
            covered[way] += low <= 0.8 <= high
    by_patient, by_scan = covered / 300
    assert 0.91 <= by_patient <= 0.98
    assert by_scan < 0.89


def test_undefined_resamples_are_left_out():
    assert bootstrap.interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert all(map(math.isnan, bootstrap.interval(np.array([np.nan]))))


@pytest.mark.parametrize("patients", [2, 17, 600])
def test_a_perfect_share_gets_the_exact_binomial_bound(patients):
    perfect = stats.binomtest(patients, patients).proportion_ci(0.95, "exact")
    none = stats.binomtest(0, patients).proportion_ci(0.95, "exact")
    assert bootstrap.widened_at_bounds(1.0, 1.0, patients) == pytest.approx((perfect.low, 1.0))
    assert bootstrap.widened_at_bounds(0.0, 0.0, patients) == pytest.approx((0.0, none.high))
    assert bootstrap.widened_at_bounds(0.2, 1.0, patients) == (0.2, 1.0)


def test_too_few_resamples_are_refused():
    with pytest.raises(UsageError, match="at least 100"):
        bootstrap.resample(["a"], lambda w: w.T, resamples=99)


# The summary ----------------------------------------------------------------------------------------------


def by_scikit_learn(p, rows):
    """Every overall metric of these rows of the predictions, a row counting as often as it is given."""
    labels, shares = p.labels[rows], p.probabilities[rows]
    called, urgent = shares.argmax(axis=1), labels <= 1
    top = shares.max(axis=1)
    where = np.ceil(top * 15).astype(int)
    gaps = [abs(((called == labels) - top)[where == m].sum()) for m in np.unique(where)]
    return {
        "accuracy": oracle.accuracy_score(labels, called),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, called),
        "macro_auc": oracle.roc_auc_score(labels, shares, multi_class="ovr"),
        "urgent_auc": oracle.roc_auc_score(urgent, shares[:, :2].sum(axis=1)),
        "macro_f1": oracle.f1_score(labels, called, average="macro"),
        "ece": sum(gaps) / len(rows),
        "log_loss": oracle.log_loss(labels, shares),
        "urgent_called_normal_rate": (called[urgent] == 3).mean(),
    }


def test_values_and_intervals_agree_with_a_loop_over_scikit_learn():
    p = simulated()
    summary = summarise(p, seed=4, resamples=100)
    cluster, clusters = bootstrap.clusters_of(p.patients)
    assert (summary["n"], summary["patients"]) == (120, clusters)
    everything = by_scikit_learn(p, np.arange(120))
    drawn = []
    for draw in np.random.default_rng(4).integers(clusters, size=(100, clusters)):
        rows = np.concatenate([np.flatnonzero(cluster == patient) for patient in draw])
        drawn.append(by_scikit_learn(p, rows))
    for name in OVERALL:
        low, high = np.quantile([each[name] for each in drawn], [0.025, 0.975])
        expected = {"value": everything[name], "low": low, "high": high}
        assert summary[name] == pytest.approx(expected), name


def test_per_class_figures_agree_with_scikit_learn():
    p = simulated()
    summary = summarise(p, resamples=100)
    confusion = oracle.confusion_matrix(p.labels, p.predicted)
    assert summary["confusion_matrix"] == confusion.tolist()
    for k, label in enumerate(LABELS):
        own = summary["per_class"][label]
        assert own["n"] == (p.labels == k).sum()
        assert own["patients"] == len(
            {who for who, is_k in zip(p.patients, p.labels == k, strict=True) if is_k}
        )
        assert own["sensitivity"] == pytest.approx(oracle.recall_score(p.labels == k, p.predicted == k))
        assert own["specificity"] == pytest.approx(oracle.recall_score(p.labels != k, p.predicted != k))
        assert own["auc"] == pytest.approx(oracle.roc_auc_score(p.labels == k, p.probabilities[:, k]))
        for name, ends in own["intervals"].items():
            assert ends["low"] <= own[name] <= ends["high"]


def test_urgent_scans_called_normal_are_named():
    p = simulated()
    summary = summarise(p, resamples=100)
    rows = [row for row in range(120) if p.labels[row] <= 1 and p.predicted[row] == 3]
    assert len(rows) > 0
    assert summary["urgent_called_normal_paths"] == [p.paths[row] for row in rows]
    assert summary["urgent_called_normal"] == len(rows)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_intervals():
    p = simulated()
    first = dump_json(summarise(p, seed=1, resamples=100))
    assert dump_json(summarise(p, seed=1, resamples=100)) == first
    other = summarise(p, seed=2, resamples=100)
    assert other["accuracy"]["value"] == json.loads(first)["accuracy"]["value"]
    assert other["accuracy"]["low"] != json.loads(first)["accuracy"]["low"]


def test_an_absent_class_is_null_in_json_and_averages_run_over_the_others():
    p = simulated(classes=3)
    summary = json.loads(dump_json(summarise(p, resamples=100)))
    absent = summary["per_class"]["NORMAL"]
    assert (absent["n"], absent["sensitivity"], absent["auc"]) == (0, None, None)
    assert absent["intervals"]["sensitivity"] == {"low": None, "high": None}
    present = [summary["per_class"][label]["sensitivity"] for label in LABELS[:3]]
    assert summary["balanced_accuracy"]["value"] == pytest.approx(np.mean(present))


def test_scans_of_one_patient_or_class_give_values_without_intervals():
    p = simulated(n=20, patients=1, classes=1)
    summary = json.loads(dump_json(summarise(p, resamples=100)))
    assert summary["accuracy"]["value"] is not None
    assert summary["accuracy"]["low"] is None
    assert summary["log_loss"]["low"] is None
    assert summary["urgent_auc"] == {"value": None, "low": None, "high": None}


def test_a_perfect_model_is_not_called_certain():
    p = simulated(skill=100)
    summary = summarise(p, resamples=100)
    assert summary["accuracy"]["value"] == summary["accuracy"]["high"] == 1
    assert summary["accuracy"]["low"] == pytest.approx(0.025 ** (1 / summary["patients"]))
    smallest = min(own["patients"] for own in summary["per_class"].values())
    assert summary["balanced_accuracy"]["low"] == pytest.approx(0.025 ** (1 / smallest))
    urgent = p.labels < 2  # CNV, DME
    either = [len({who for who, one in zip(p.patients, urgent, strict=True) if one == is_}) for is_ in (0, 1)]
    assert min(either) < summary["patients"]
    assert summary["urgent_auc"]["low"] == pytest.approx(0.025 ** (1 / min(either)))


# Two models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (5, 0), (3, 9), (9, 3), (40, 41), (700, 800)])
def test_mcnemar_agrees_with_scipys_binomial_test(only_a, only_b):
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_stands_very_many_discordant_scans():
    assert mcnemar_exact(0, 5000) == 0.0
    assert mcnemar_exact(10_000, 10_000) == 1.0


def test_a_comparison_agrees_with_two_summaries_and_a_loop():
    a, b = simulated(), simulated(seed=1, skill=2.5)
    found = compare(a, b, seed=4, resamples=100)
    one, other = summarise(a, resamples=100), summarise(b, resamples=100)
    cluster, clusters = bootstrap.clusters_of(a.patients)
    differences = []
    for draw in np.random.default_rng(4).integers(clusters, size=(100, clusters)):
        rows = np.concatenate([np.flatnonzero(cluster == patient) for patient in draw])
        score = [oracle.balanced_accuracy_score(p.labels[rows], p.predicted[rows]) for p in (a, b)]
        differences.append(score[1] - score[0])
    value = other["balanced_accuracy"]["value"] - one["balanced_accuracy"]["value"]
    low, high = np.quantile(differences, [0.025, 0.975])
    expected = {"value": value, "low": low, "high": high}
    assert found["difference"]["balanced_accuracy"] == pytest.approx(expected)
    more_right = other["accuracy"]["value"] - one["accuracy"]["value"]
    assert found["difference"]["accuracy"]["value"] == pytest.approx(more_right)
    for label in LABELS:
        gained = other["per_class"][label]["sensitivity"] - one["per_class"][label]["sensitivity"]
        assert found["difference"]["sensitivity"][label]["value"] == pytest.approx(gained)


def test_trainings_are_averaged_and_agree_with_a_loop():
    references = [simulated(), simulated(seed=1)]
    models = [simulated(seed=seed, skill=1.8) for seed in (2, 3, 4)]
    turned = [models[0], models[1].select(np.arange(120)[::-1]), models[2]]
    found = compare_trainings(references, turned, seed=4, resamples=100)["difference"]["balanced_accuracy"]
    cluster, clusters = bootstrap.clusters_of(references[0].patients)

    def mean(of, rows):
        return np.mean([oracle.balanced_accuracy_score(p.labels[rows], p.predicted[rows]) for p in of])

    draws = np.random.default_rng(4).integers(clusters, size=(100, clusters))
    rows = [np.concatenate([np.flatnonzero(cluster == patient) for patient in draw]) for draw in draws]
    differences = [mean(models, each) - mean(references, each) for each in rows]
    low, high = np.quantile(differences, [0.025, 0.975])
    everyone = np.arange(120)
    value = mean(models, everyone) - mean(references, everyone)
    assert found == pytest.approx({"value": value, "low": low, "high": high})


def test_more_trainings_narrow_the_interval():
    dense = [simulated(n=400, patients=200, seed=seed) for seed in range(5)]
    small = [simulated(n=400, patients=200, seed=seed) for seed in range(5, 10)]
    widths = []
    for count in (1, 5):
        told = compare_trainings(dense[:count], small[:count], resamples=300)["difference"]
        widths.append(told["balanced_accuracy"]["high"] - told["balanced_accuracy"]["low"])
    assert widths[1] < 0.6 * widths[0]


def test_trainings_on_other_scans_are_refused():
    with pytest.raises(InputError, match="another reference"):
        compare_trainings([simulated(), simulated(n=119)], [simulated()], resamples=100)
    with pytest.raises(InputError, match="and not in 'model'"):
        compare_trainings([simulated()], [simulated(n=119)], resamples=100)


def test_the_four_counts_are_those_of_the_scans():
    a, b = simulated(), simulated(seed=1)
    counts = compare(a, b, resamples=100)["discordant"]
    right = [(p.predicted == p.labels).tolist() for p in (a, b)]
    pairs = list(zip(*right, strict=True))
    assert counts["only_reference_right"] == pairs.count((True, False))
    assert counts["only_model_right"] == pairs.count((False, True))
    assert counts["both_right"] == pairs.count((True, True))
    assert counts["both_wrong"] == pairs.count((False, False))
    assert counts["changed_call"] == (a.predicted != b.predicted).sum()
    assert counts["mcnemar_p"] == mcnemar_exact(counts["only_reference_right"], counts["only_model_right"])


def test_paired_intervals_are_narrower_than_what_two_separate_ones_allow():
    a = simulated(n=400, patients=200)
    nearly = a.probabilities.copy()
    nearly[:3] = nearly[:3, ::-1]
    b = Predictions(a.paths, a.labels, a.patients, nearly)
    difference = compare(a, b, resamples=200)["difference"]["accuracy"]
    alone = summarise(a, resamples=200)["accuracy"]
    assert difference["high"] - difference["low"] < 0.5 * (alone["high"] - alone["low"])


def test_a_worse_model_is_not_called_not_inferior_and_an_equal_one_is():
    good, poor = simulated(n=400, skill=3), simulated(n=400, seed=1, skill=0.5)
    assert compare(good, poor, resamples=200)["not_inferior"] is False
    assert compare(poor, good, resamples=200)["not_inferior"] is True
    same = compare(good, good, resamples=200)
    assert same["not_inferior"] is True
    assert same["discordant"]["mcnemar_p"] == 1


def test_the_margin_decides():
    a, b = simulated(n=400, skill=3), simulated(n=400, seed=1, skill=2.5)
    low = compare(a, b, resamples=200)["difference"]["balanced_accuracy"]["low"]
    assert -1 < low < 0
    assert compare(a, b, margin=-low + 1e-6, resamples=200)["not_inferior"] is True
    assert compare(a, b, margin=-low - 1e-6, resamples=200)["not_inferior"] is False
    with pytest.raises(UsageError, match="margin"):
        compare(a, b, margin=0)


def test_a_class_of_one_patient_leaves_its_difference_without_an_interval():
    a = simulated(n=200, classes=3)
    labels, patients = a.labels.copy(), list(a.patients)
    labels[0], patients[0] = 3, "alone"
    a, b = (
        Predictions(a.paths, labels, tuple(patients), p.probabilities) for p in (a, simulated(200, seed=1))
    )
    found = compare(a, b, resamples=100)
    assert found["difference"]["accuracy"]["low"] is not None
    assert found["difference"]["balanced_accuracy"]["low"] is None
    assert found["not_inferior"] is False


def test_one_patient_shows_nothing_about_others():
    a = simulated(patients=1)
    assert compare(a, a, resamples=100)["not_inferior"] is False


def test_scans_are_matched_by_path():
    a, b = simulated(), simulated(seed=1)
    order = np.random.default_rng(0).permutation(120)
    assert compare(a, b.select(order), resamples=100) == compare(a, b, resamples=100)


def test_the_first_difference_is_named():
    a = simulated()
    labels = a.labels.copy()
    labels[7] = (labels[7] + 1) % 4
    patients = (*a.patients[:9], "another", *a.patients[10:])
    cases = {
        "119.png is in 'float' and not in 'int8'": (a, a.select(np.arange(119))),
        "118.png is in 'int8' and not in 'float'": (a.select(np.arange(118)), a),
        f"7.png is {LABELS[a.labels[7]]} in 'float' and {LABELS[labels[7]]} in 'int8'": (
            a,
            Predictions(a.paths, labels, a.patients, a.probabilities),
        ),
        f"9.png is of patient {a.patients[9]} in 'float', another in 'int8'": (
            a,
            Predictions(a.paths, a.labels, patients, a.probabilities),
        ),
    }
    for told, pair in cases.items():
        with pytest.raises(InputError, match=told):
            compare(*pair, names=("float", "int8"), resamples=100)
