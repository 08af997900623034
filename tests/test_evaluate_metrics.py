"""Every metric against scikit-learn, or against a loop that follows the definition word by word."""

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from octlet.evaluate import calibration, metrics

CLASSES = range(4)


def simulated(seed, n=300, classes=4):
    """Labels and probabilities with many ties (two decimals), from a mediocre model."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    scores = rng.normal(size=(n, 4))
    scores[np.arange(n), labels] += 1.2
    shares = np.round(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), 2)
    shares[:, 3] = 1 - shares[:, :3].sum(axis=1)
    return labels, np.clip(shares, 0, 1)


@pytest.fixture(params=range(5))
def sample(request):
    return simulated(request.param)


def test_counts_and_shares_agree_with_scikit_learn(sample):
    labels, p = sample
    called = p.argmax(axis=1)
    confusion = metrics.confusion_matrix(labels, called)
    assert confusion.tolist() == oracle.confusion_matrix(labels, called).tolist()
    assert metrics.accuracy(confusion) == pytest.approx(oracle.accuracy_score(labels, called))
    assert metrics.balanced_accuracy(confusion) == pytest.approx(
        oracle.balanced_accuracy_score(labels, called)
    )
    assert metrics.macro_f1(confusion) == pytest.approx(oracle.f1_score(labels, called, average="macro"))
    assert metrics.sensitivity(confusion) == pytest.approx(oracle.recall_score(labels, called, average=None))
    specificity = [oracle.recall_score(labels != k, called != k) for k in CLASSES]
    assert metrics.specificity(confusion) == pytest.approx(specificity)


def test_functions_of_a_confusion_matrix_take_leading_axes(sample):
    labels, p = sample
    one = metrics.confusion_matrix(labels, p.argmax(axis=1))
    many = np.stack([one, 3 * one.T]).reshape(2, 1, 4, 4)
    for function in (metrics.accuracy, metrics.balanced_accuracy, metrics.macro_f1, metrics.specificity):
        assert function(many)[1, 0] == pytest.approx(function(one.T))


def test_auc_with_ties_and_weights_agrees_with_scikit_learn(sample):
    labels, p = sample
    weights = np.random.default_rng(1).integers(0, 4, size=(len(labels), 3)).astype(float)
    for k in CLASSES:
        assert metrics.auc(p[:, k], labels == k) == pytest.approx(oracle.roc_auc_score(labels == k, p[:, k]))
        weighted = metrics.RankedScores(p[:, k], labels == k).auc(weights)
        expected = [oracle.roc_auc_score(labels == k, p[:, k], sample_weight=column) for column in weights.T]
        assert weighted == pytest.approx(expected)
    macro = np.mean([metrics.auc(p[:, k], labels == k) for k in CLASSES])
    assert macro == pytest.approx(oracle.roc_auc_score(labels, p, multi_class="ovr", average="macro"))


def test_urgent_is_cnv_and_dme(sample):
    labels, p = sample
    found = metrics.auc(metrics.urgent_score(p), metrics.URGENT[labels])
    assert found == pytest.approx(oracle.roc_auc_score(labels <= 1, p[:, 0] + p[:, 1]))


def test_urgent_scans_called_normal_are_found_and_counted():
    labels, called = np.array([0, 1, 2, 3, 0, 1]), np.array([3, 3, 3, 3, 0, 2])
    assert metrics.urgent_called_normal(labels, called).tolist() == [0, 1]
    assert metrics.urgent_called_normal_rate(metrics.confusion_matrix(labels, called)) == 0.5


def test_roc_curve_agrees_with_scikit_learn(sample):
    labels, p = sample
    false, true, _ = oracle.roc_curve(labels == 2, p[:, 2], drop_intermediate=False)
    found = metrics.roc_curve(p[:, 2], labels == 2)
    assert found[0] == pytest.approx(false)
    assert found[1] == pytest.approx(true)


def test_an_absent_class_is_undefined_and_averages_leave_it_out():
    labels, p = simulated(9, classes=3)
    confusion = metrics.confusion_matrix(labels, p.argmax(axis=1))
    assert np.isnan(metrics.sensitivity(confusion)).tolist() == [False, False, False, True]
    assert np.isnan(metrics.f1(confusion)).tolist() == [False, False, False, True]
    assert metrics.balanced_accuracy(confusion) == pytest.approx(metrics.sensitivity(confusion)[:3].mean())
    assert metrics.macro_f1(confusion) == pytest.approx(metrics.f1(confusion)[:3].mean())
    assert math.isnan(metrics.auc(p[:, 3], labels == 3))
    assert all(len(rates) == 0 for rates in metrics.roc_curve(p[:, 3], labels == 3))


def test_with_a_single_class_specificity_is_undefined_and_nothing_warns():
    confusion = metrics.confusion_matrix(np.full(5, 2), np.array([2, 2, 2, 0, 1]))
    assert metrics.balanced_accuracy(confusion) == pytest.approx(0.6)
    assert np.isnan(metrics.specificity(confusion)).tolist() == [False, False, True, False]
    assert math.isnan(metrics.urgent_called_normal_rate(confusion))
    assert math.isnan(metrics.mean_of_defined(np.full(4, np.nan)))


def test_log_loss_agrees_with_scikit_learn(sample):
    labels, p = sample
    p = (p + 0.01) / (p + 0.01).sum(axis=1, keepdims=True)
    found = calibration.log_losses(p, labels).mean()
    assert found == pytest.approx(oracle.log_loss(labels, p, labels=list(CLASSES)))


def test_log_loss_of_a_sure_mistake_is_finite():
    assert calibration.log_losses(np.array([[1.0, 0, 0, 0]]), np.array([3]))[0] == pytest.approx(
        36.04, abs=0.01
    )


def test_calibration_error_follows_its_definition(sample):
    labels, p = sample
    expected = 0.0
    for m in range(15):
        inside = [i for i in range(len(labels)) if m / 15 < max(p[i]) <= (m + 1) / 15]
        if inside:
            accuracy = sum(p[i].argmax() == labels[i] for i in inside) / len(inside)
            confidence = sum(max(p[i]) for i in inside) / len(inside)
            expected += len(inside) / len(labels) * abs(accuracy - confidence)
    assert calibration.expected_calibration_error(p, labels) == pytest.approx(expected)
    count, confidence, accuracy = calibration.reliability(p, labels)
    gaps = np.nan_to_num(np.abs(accuracy - confidence))
    assert (count * gaps).sum() / len(labels) == pytest.approx(expected)


def test_bins_are_closed_on_the_right():
    assert calibration.confidence_bins(np.array([0, 0.2, 0.2 + 1e-9, 1.0]), bins=5).tolist() == [0, 0, 1, 4]
