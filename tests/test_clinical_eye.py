"""From B-scans to an eye: nothing ill is diluted, chance raises no alarm, nothing refused counts."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octlet.clinical.eye import SURE, EyePrediction, JudgedVolume, eye_of, eyes_of, most_urgent
from octlet.core.labels import LABELS, URGENCY
from octlet.core.prediction import NOT_OCT, POOR, UNCERTAIN, UNKNOWN, URGENCIES, Prediction
from octlet.core.quality import Quality

FAIR = Quality(150.0, 0.0, 0.05, 0.0, 0.0, 0.5)
FULL = tuple(URGENCIES)


def said(label: str, share: float = 0.97, number: int = 1, **named: object) -> Prediction:
    rest = (1 - share) / 3
    shares = np.array([share if each == label else rest for each in LABELS])
    return Prediction.of(f"v#{number}", shares, FAIR, **named)  # type: ignore[arg-type]


def refused(number: int, label: str = "CNV", reason: str = NOT_OCT) -> Prediction:
    if reason == POOR:
        return Prediction.of(
            f"v#{number}", np.array([0.97, 0.01, 0.01, 0.01]), Quality(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        )
    return said(label, number=number, strange="It is not known.")


def volume(*labels: object, **named: object) -> JudgedVolume:
    predictions = tuple(
        each if isinstance(each, Prediction) else said(str(each), number=k)
        for k, each in enumerate(labels, 1)
    )
    return JudgedVolume("v", "R", None, predictions, **named)  # type: ignore[arg-type]


def eye(*labels: object, **named: object) -> EyePrediction:
    return eye_of([volume(*labels, **named)])


NORMAL = ["NORMAL"] * 23


@pytest.mark.parametrize("label", ["CNV", "DME", "DRUSEN"])
@pytest.mark.parametrize("place", [0, 10, 20])
def test_neighbours_that_agree_are_the_answer_among_many_healthy(label: str, place: int) -> None:
    labels = NORMAL.copy()
    labels[place : place + 2] = [label] * 2
    found = eye(*labels)
    assert (found.label, found.urgency, found.abstain) == (label, URGENCY[label], None)
    assert found.probabilities[label] == pytest.approx((0.97 * 2 + 0.01) / 3)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert (found.scans, found.refused) == (23, 0)
    assert set(found.most_urgent[:2]) == {f"v#{place + 1}", f"v#{place + 2}"}


def test_healthy_throughout() -> None:
    found = eye(*NORMAL)
    assert (found.label, found.urgency, found.abstain) == ("NORMAL", "observation", None)


def test_one_sure_scan_alone_is_never_lost() -> None:
    labels: list[object] = list(NORMAL)
    labels[11] = said("CNV", SURE, number=12)
    found = eye(*labels)
    assert (found.label, found.urgency, found.abstain) == ("NORMAL", "urgent", UNCERTAIN)
    assert "v#12 alone is CNV" in found.explanation
    assert found.most_urgent[0] == "v#12"


def test_one_unsure_scan_alone_is_an_alarm_of_chance() -> None:
    labels: list[object] = list(NORMAL)
    labels[11] = said("CNV", SURE - 0.01, number=12)
    found = eye(*labels)
    assert (found.label, found.urgency, found.abstain) == ("NORMAL", "observation", None)
    assert found.most_urgent[0] == "v#12"


def test_of_two_diseases_the_more_pressing_and_of_equals_the_surer() -> None:
    assert eye(*NORMAL, *["DRUSEN"] * 9, *["DME"] * 2, *NORMAL).label == "DME"
    surer = [said("CNV", 0.6, number=k) for k in range(3)], ["DME"] * 3
    assert eye(*surer[0], *surer[1]).label == eye(*surer[1], *surer[0]).label == "DME"


def test_doubt_of_the_neighbours_is_the_eyes() -> None:
    doubts = [
        said("DRUSEN", 0.7, number=k, members=("DRUSEN", "CNV"), coverage=0.95, confidence=0.8)
        for k in (1, 2)
    ]
    found = eye(*doubts, "NORMAL")
    assert (found.label, found.urgency, found.abstain) == ("DRUSEN", "urgent", UNCERTAIN)
    assert eye(doubts[0], "DRUSEN", "DRUSEN").abstain is None


def test_refused_scans_are_left_out_and_counted() -> None:
    found = eye(refused(1), "NORMAL", refused(3), "NORMAL", *["NORMAL"] * 4, unreadable=2)
    assert (found.label, found.scans, found.refused, found.abstain) == ("NORMAL", 10, 4, None)
    assert found.most_urgent[:2] == ("v#2", "v#4")


def test_few_healthy_scans_among_refused_ones_are_no_healthy_eye() -> None:
    found = eye("NORMAL", "NORMAL", *(refused(k) for k in range(3, 6)))
    assert (found.label, found.urgency, found.abstain) == ("NORMAL", "observation", UNCERTAIN)
    assert "Over half" in found.explanation
    assert eye("CNV", "CNV", *(refused(k) for k in range(3, 6))).abstain is None


def test_a_volume_that_cannot_be_read_counts_among_its_eye() -> None:
    whole = volume(*["NORMAL"] * 5, visit="1")
    (found,) = eyes_of([whole, volume(unreadable=49, visit="1")])
    assert (found.scans, found.refused, found.abstain) == (54, 49, UNCERTAIN)
    assert eyes_of([volume(unreadable=49, visit="1")]) == []


def test_an_eye_whose_scans_are_all_refused() -> None:
    found = eye(refused(1), refused(2), refused(3, reason=POOR))
    assert (found.urgency, found.abstain, found.refused) == (UNKNOWN, NOT_OCT, 3)
    assert "2 of 3" in found.explanation
    assert sum(found.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("label", LABELS)
def test_a_volume_of_one_scan_says_what_the_scan_says(label: str) -> None:
    found = eye(said(label, 0.5))
    assert (found.label, found.urgency) == (label, URGENCY[label])
    assert found.probabilities[label] == 0.5


def test_single_files_of_a_series_are_neighbours_by_their_number() -> None:
    def single(number: int, label: str, series: str = "s") -> JudgedVolume:
        prediction = (said(label, number=number),)
        return JudgedVolume(f"f{number}", "L", None, prediction, visit="v", series=series, number=number)

    files = [single(k, "DME" if k in (4, 5) else "NORMAL") for k in range(1, 7)]
    for order in list(permutations(files))[::97]:
        (found,) = eyes_of(order)
        assert (found.label, found.scans, len(found.files)) == ("DME", 6, 6)
    apart = [single(k, "DME" if k in (1, 6) else "NORMAL") for k in range(1, 7)]
    assert eyes_of(apart)[0].label == "NORMAL"


def test_which_volumes_are_one_eye() -> None:
    def of(eye: str | None, visit: str, label: str = "NORMAL") -> JudgedVolume:
        return JudgedVolume(f"{eye}{visit}", eye, None, (said(label),), visit=visit)

    found = eyes_of(
        [of("R", "a"), of("L", "a"), of("R", "a"), of("R", "b"), of(None, "a"), of("R", ""), of("R", "")]
    )
    assert [each.files for each in found] == [("Ra", "Ra"), ("La",), ("Rb",), ("Nonea",), ("R",), ("R",)]
    first = eyes_of([of("R", "a"), of("L", "a", "DRUSEN"), of("R", "b", "CNV")])
    assert [each.label for each in first] == ["CNV", "DRUSEN", "NORMAL"]
    assert eyes_of([JudgedVolume("empty", "R", None, (), 5)]) == []


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=1, max_size=12))
def test_an_eye_is_never_less_pressing_than_its_sure_scans(rows: list[list[float]]) -> None:
    predictions = tuple(
        Prediction.of(f"v#{k}", np.array(row) / sum(row), FAIR) for k, row in enumerate(rows, start=1)
    )
    found = eye_of([JudgedVolume("v", None, None, predictions)])
    sure = [each for each in predictions if max(each.probabilities.values()) >= SURE]
    assert all(FULL.index(found.urgency) <= FULL.index(each.urgency) for each in sure)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert sorted(found.most_urgent) == sorted(each.file for each in predictions)
    ranks = [FULL.index(each.urgency) for each in most_urgent(predictions)]
    assert ranks == sorted(ranks)


def test_as_dict_is_plain() -> None:
    document = eye(*["CNV"] * 3).as_dict()
    assert list(document) == [
        *("files", "eye", "subject", "scans", "refused", "label", "urgency", "probabilities", "abstain"),
        *("explanation", "most_urgent"),
    ]
    assert document["probabilities"]["CNV"] == 0.97
    assert document["explanation"] == "CNV in v#1 to v#3, mean probability 0.97."
