"""What a model's doubt is made of: temperature, prediction sets, prototypes, quality; no command line."""

import math
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from octlet.calibration import Known, Plan, fitted
from octlet.core.bundle import open_bundle, write_bundle
from octlet.core.errors import InputError, ModelFileError
from octlet.core.labels import LABELS, URGENCY
from octlet.core.layout import MEASURES
from octlet.core.prediction import NOT_OCT, POOR, UNCERTAIN, Prediction
from octlet.core.quality import Quality
from octlet.core.trust import Calibration, Layout, Prototypes, Thresholds, Trust, distances
from octlet.data.phantom import simulate
from octlet.evaluate.held_out import HeldOut, pool, read_held_out, write_held_out
from octlet.evaluate.trust import (
    confidence_limit,
    conformal_thresholds,
    distance_limit,
    fit_temperature,
    prototypes,
    risk_at_coverage,
)
from octlet.runtime.predictor import Predictor
from octlet.runtime.shipped import shipped

FAIR = Quality(contrast=150.0, saturated=0.0, noise=0.02, cut=0.0, empty=0.0, upright=0.5)
KNOWN = Known(np.zeros((4, 3)), np.ones(3), np.arange(9.0), np.arange(1.0, 10.0))


def sample(n=400, seed=0, skill=2.0, temperature=1.0):
    """Draw labels from the softmax of logits / temperature, so that this temperature is the right one."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=skill, size=(n, 4))
    p = scipy.special.softmax(logits / temperature, axis=1)
    return logits, np.array([rng.choice(4, p=row) for row in p])


# Temperature ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_that_of_least_log_loss(temperature):
    logits, labels = sample(temperature=temperature)
    found = fit_temperature(logits, labels)
    best = scipy.optimize.minimize_scalar(
        lambda t: log_loss(labels, scipy.special.softmax(logits / t, axis=1), labels=range(4)),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(best.x, rel=1e-4)
    assert found == pytest.approx(temperature, rel=0.25)


def test_a_temperature_has_bounds():
    logits = np.eye(4) * 5
    assert fit_temperature(logits, np.arange(4)) == 1  # always right: the colder the better, without end
    assert fit_temperature(logits, (np.arange(4) + 1) % 4) == 20  # always wrong
    assert fit_temperature(np.array([[7.9, 6.053, 0, 0]]), np.array([0])) == 1  # whatever rounding says


# Prediction sets --------------------------------------------------------------------------------------


def test_conformal_thresholds_are_order_statistics():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 300)
    labels = rng.integers(0, 4, 300)
    found = conformal_thresholds(p, labels, 0.9)
    for number, label in enumerate(LABELS):
        own = 1 - p[labels == number, number]
        level = math.ceil((len(own) + 1) * 0.9) / len(own)  # Angelopoulos & Bates 2021, section 1
        assert 1 - found[label] == pytest.approx(np.quantile(own, level, method="inverted_cdf"))


def test_sets_cover_each_class():
    """Over many draws the mean coverage lies between the level and the level + 1 / (n + 1)."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(2000):
        p = rng.beta(2, 1, size=(40, 4))
        fit = conformal_thresholds(np.r_[p, p, p, p], np.repeat(np.arange(4), 40), 0.9)
        hits.append([rng.beta(2, 1) >= fit[label] for label in LABELS])
    coverage = np.mean(hits)
    deviation = 3 * math.sqrt(0.1 * 0.9 / np.size(hits))
    assert 0.9 - deviation <= coverage <= 0.9 + 1 / 41 + deviation


def test_a_class_with_too_few_scans_is_in_every_set():
    p = np.full((40, 4), 0.25)
    labels = np.r_[np.zeros(19, int), np.ones(18, int), np.full(3, 2)]
    assert conformal_thresholds(p, labels, 0.95) == {"CNV": 0.25, "DME": 0, "DRUSEN": 0, "NORMAL": 0}


@given(st.lists(st.floats(0.001, 1), min_size=4, max_size=4), st.sets(st.sampled_from(LABELS)))
def test_a_prediction_keeps_its_rules(weights, members):
    p = np.array(weights) / sum(weights)
    found = Prediction.of("a", p, FAIR, members=tuple(members), coverage=0.95, confidence=0.6)
    assert found.abstain == (UNCERTAIN if p.max() < 0.6 or found.label not in members else None)
    assert set(found.set) == members
    assert [found.probabilities[each] for each in found.set] == sorted(
        (found.probabilities[each] for each in members), reverse=True
    )
    doubted = members if found.abstain else ()
    pressing = {URGENCY[each] for each in (*doubted, found.label)}
    order = ("urgent", "routine", "observation")
    assert found.urgency == next(each for each in order if each in pressing)
    assert found.explanation.endswith(".")


@pytest.mark.parametrize("members", [(), ("DME",)])
def test_a_label_outside_of_its_own_set_is_not_sure(members):
    found = Prediction.of(
        "x", np.array([0.93, 0.05, 0.01, 0.01]), FAIR, members=members, coverage=0.95, confidence=0.9
    )
    assert (found.abstain, found.urgency) == (UNCERTAIN, "urgent")
    assert "ruled out" not in found.explanation or "cannot" in found.explanation


def test_a_refused_scan_has_no_urgency():
    p = np.array([0.9, 0.05, 0.03, 0.02])
    blank = replace(FAIR, contrast=3.0)
    strange = Prediction.of("a", p, blank, members=("CNV",), coverage=0.95, strange="Not like the others.")
    assert (strange.abstain, strange.urgency, strange.explanation) == (
        NOT_OCT,
        "unknown",
        "Not like the others.",
    )
    poor = Prediction.of("a", p, blank, members=("CNV",), coverage=0.95)
    assert (poor.abstain, poor.urgency, poor.refused) == (POOR, "unknown", True)
    assert "blank" in poor.explanation
    fair = Prediction.of("a", p, FAIR, members=("CNV",), coverage=0.95)
    assert (fair.abstain, fair.urgency, fair.refused) == (None, "urgent", False)


# Prototypes -------------------------------------------------------------------------------------------


def test_prototypes_are_means_and_deviations():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    embeddings = (rng.normal(size=(80, 6)) * np.arange(6) + labels[:, None]).astype(np.float32)
    centres, scale = prototypes(embeddings, labels)
    rest = []
    for number in range(4):
        own = embeddings[labels == number].astype(float)
        np.testing.assert_allclose(centres[number], own.mean(axis=0))
        rest.append(own - own.mean(axis=0))
    deviation = np.sqrt((np.concatenate(rest) ** 2).mean(axis=0))
    np.testing.assert_allclose(scale, deviation + 0.1 * deviation.mean())
    with pytest.raises(InputError, match="DRUSEN"):
        prototypes(embeddings[labels != 2], labels[labels != 2])


def test_distances_are_mahalanobis():
    rng = np.random.default_rng(0)
    centres, scale = rng.normal(size=(4, 5)), rng.uniform(0.5, 2, 5)
    points = rng.normal(size=(7, 5)).astype(np.float32)
    inverse = np.diag(1 / scale**2)
    for point, found in zip(points, distances(points, centres, scale), strict=True):
        each = [np.sqrt((point - c) @ inverse @ (point - c)) for c in centres]
        assert found == pytest.approx(min(each) / math.sqrt(5))


def test_the_distance_limit_is_an_order_statistic():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))  # 99 of them
    assert distance_limit(values, 0.02) == 98
    assert distance_limit(values, 0.1) == 90
    assert distance_limit(np.arange(1.0, 51.0), 0.1) == 46  # of 50, rank ceil(51 * 0.9)
    assert distance_limit(values[:10], 0.02) == values[:10].max()  # too few: none of them is refused


def test_a_scan_at_the_limit_is_taken():
    limit = Trust.of(**trust(distance=2.0))
    assert limit.refuses(2.0) is None
    assert "1.50 times" in limit.refuses(3.0)


def test_all_is_fitted_at_the_temperature(tmp_path):
    """A confidence from before the temperature would doubt another share."""
    logits, labels = sample(temperature=3.0)
    n = len(labels)
    names = tuple(map(str, range(n)))
    held = HeldOut(names, labels, names, logits, np.arange(1.0, n + 1), np.arange(2.0, n + 2))
    plan = Plan(tmp_path, tmp_path, doubt=0.3)
    manifest = fitted(open_bundle(shipped()).manifest, held, plan, KNOWN)
    shares = scipy.special.softmax(logits / manifest.calibration.temperature, axis=1)
    assert manifest.calibration.temperature == pytest.approx(3.0, rel=0.2)
    assert manifest.thresholds.confidence == pytest.approx(
        np.sort(shares.max(axis=1))[int(0.3 * (n + 1)) - 1]
    )
    assert manifest.thresholds.lowest == pytest.approx(conformal_thresholds(shares, labels, 0.95))
    assert manifest.thresholds.distance == n - 3  # of 400, four may lie beyond: half of 2 %
    assert manifest.layout.distance == n - 2
    assert manifest.thresholds.refusal == manifest.layout.refusal == 0.01
    assert list(manifest.layout.centre.values()) == list(range(9))
    assert list(manifest.layout.scale.values()) == list(range(1, 10))


def test_the_confidence_limit_is_an_order_statistic():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 100.0)) / 100
    assert confidence_limit(values, 0.1) == 0.10  # nine of 99 lie under it
    assert confidence_limit(values[:8], 0.1) == 0  # too few


def test_risk_at_coverage():
    coverage, risk = risk_at_coverage(np.array([0.9, 0.6, 0.8, 0.7]), np.array([True, False, True, False]))
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 0, 1 / 3, 1 / 2])


# In the model file ------------------------------------------------------------------------------------


def trust(width=3, **changes):
    parts = {
        "temperature": 1.5,
        "coverage": 0.95,
        "confidence": 0.5,
        "distance": 2.0,
        "lowest": 0.1,
    } | changes
    lowest = dict.fromkeys(LABELS, parts["lowest"])
    centres = parts.get("centres", np.zeros((4, width)))
    return {
        "calibration": Calibration(parts["temperature"], 50, 0.1, 0.05),
        "thresholds": Thresholds(
            parts["coverage"],
            lowest,
            dict.fromkeys(LABELS, 50),
            0.1,
            parts["confidence"],
            0.02,
            parts["distance"],
        ),
        "prototypes": Prototypes.of(centres, parts.get("scale", np.ones(width))),
    }


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"coverage": 1.0}, "coverage"),
        ({"distance": 0.0}, "distance"),
        ({"confidence": 1.5}, "confidence"),
        ({"lowest": 1.5}, "thresholds"),
        ({"scale": np.zeros(3)}, "scale"),
        ({"centres": np.full((4, 3), np.nan)}, "finite"),
        ({"centres": np.zeros((4, 2))}, "numbers"),
    ],
)
def test_trust_out_of_range_is_no_trust(changes, rule):
    with pytest.raises(ModelFileError, match=rule):
        Trust.of(**trust(**changes))


def test_all_parts_or_none():
    assert Trust.of(None, None, None) is None
    with pytest.raises(ModelFileError, match="only a part"):
        Trust.of(**(trust() | {"prototypes": None}))
    with pytest.raises(ModelFileError, match="malformed"):
        Trust.of(**(trust() | {"prototypes": Prototypes(3, "&&", "&&")}))


def test_prototypes_travel_as_float32():
    centres = np.random.default_rng(0).normal(size=(4, 3))
    found = Trust.of(**trust(centres=centres))
    np.testing.assert_array_equal(
        found.distances(np.zeros((1, 3), np.float32)),
        distances(np.zeros((1, 3), np.float32), centres.astype(np.float32).astype(float), np.ones(3)),
    )
    assert Prototypes.of(np.array([[1.0]]), np.array([2.0])) == Prototypes(1, "AACAPw==", "AAAAQA==")


def calibrated(model_file: Path, path: Path, **parts) -> Path:
    bundle = open_bundle(model_file)
    manifest = replace(bundle.manifest, **parts)
    write_bundle(path, manifest, {name: bundle.read(name) for name in bundle.manifest.files})
    return path


def test_a_calibrated_file_scores_at_its_temperature(model_file, tmp_path):
    plain = Predictor.open(model_file)
    width = plain.compute([plain.prepare(np.full((64, 64), 90, np.uint8))]).embedding.shape[1]
    gray = simulate("CNV", np.random.default_rng(0)).pixels
    parts = trust(width, temperature=2.0, distance=1e6)
    predictor = Predictor.open(calibrated(model_file, tmp_path / "a.octlet", **parts))
    before, after = (each.score([each.prepare(gray)]) for each in (plain, predictor))
    np.testing.assert_array_equal(before.logits, after.logits)
    expected = scipy.special.softmax(before.logits.astype(float) / 2.0, axis=1)
    np.testing.assert_allclose(after.probabilities, expected)
    assert before.distances is None
    near = predictor.predict([gray], ["scan"])[0]
    assert near.set is not None
    assert near.abstain in (None, UNCERTAIN)
    far = Predictor.open(calibrated(model_file, tmp_path / "b.octlet", **trust(width, distance=1e-6)))
    assert far.predict([gray], ["scan"])[0].abstain == NOT_OCT
    layout = Layout(dict.fromkeys(MEASURES, 0.0), dict.fromkeys(MEASURES, 1.0), 0.01, 1e-6)
    odd = Predictor.open(calibrated(model_file, tmp_path / "d.octlet", **parts, layout=layout))
    said = odd.predict([gray], ["scan"])[0]
    assert (said.abstain, "laid out like" in said.explanation) == (NOT_OCT, True)
    wrong = Predictor.open(calibrated(model_file, tmp_path / "c.octlet", **trust(width + 1)))
    with pytest.raises(ModelFileError, match="prototypes"):
        wrong.predict([gray], ["scan"])


def test_a_file_with_a_forged_threshold_is_refused(model_file, tmp_path):
    with pytest.raises(ModelFileError, match="temperature"):
        calibrated(model_file, tmp_path / "a.octlet", **trust(temperature=-1.0))


# Held-out scores --------------------------------------------------------------------------------------


def held_out(n=5, prefix=""):
    rng = np.random.default_rng(n)
    names = tuple(f"{prefix}{i}.png" for i in range(n))
    return HeldOut(names, rng.integers(0, 4, n), names, rng.normal(size=(n, 4)), *rng.uniform(0, 3, (2, n)))


def test_held_out_scores_come_back_bit_equal(tmp_path):
    scores = held_out()
    write_held_out(tmp_path / "a.csv", scores)
    found = read_held_out(tmp_path / "a.csv")
    for one, other in zip(asdict(found).values(), asdict(scores).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (
        (tmp_path / "a.csv")
        .read_text()
        .startswith("path,label,patient,z_CNV,z_DME,z_DRUSEN,z_NORMAL,distance,layout\n")
    )
    both = pool([scores, held_out(3, "b")])
    assert len(both.paths) == 8
    with pytest.raises(InputError, match="2 times"):
        pool([scores, scores])


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode(errors="replace")))
def test_no_other_file_is_taken_for_held_out_scores(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("scores") / "a.csv"
    head = b"path,label,patient,z_CNV,z_DME,z_DRUSEN,z_NORMAL,distance,layout\n"
    for body in (data, head + data, head + b"a,CNV,b,1,2,3,4,5,6\n" + data):
        path.write_bytes(body)
        with suppress(InputError):
            read_held_out(path)


@pytest.mark.parametrize(
    "row",
    [
        "a,CNV,b,1,2,3,4,-1,1",
        "a,CNV,b,1,2,3,4,1,-1",
        "a,CNV,b,1,2,3,nan,1,1",
        "a,CNV,b,1,2,3,4,1,inf",
        "a,X,b,1,2,3,4,1,1",
        "a,CNV,b,1,2,3,4,1",
    ],
)
def test_a_bad_row_is_told(tmp_path, row):
    file = tmp_path / "a.csv"
    file.write_text(f"path,label,patient,z_CNV,z_DME,z_DRUSEN,z_NORMAL,distance,layout\n{row}\n")
    with pytest.raises(InputError) as caught:
        read_held_out(file)
    assert caught.value.path == str(file)


# Quality ----------------------------------------------------------------------------------------------
