"""octlet.data.split: no leak whatever the data, even classes, the same bytes from the same seed."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from octlet.core.errors import InputError, UsageError
from octlet.core.labels import LABELS
from octlet.data.duplicates import NearPair, near_duplicates
from octlet.data.index import Record, build_index
from octlet.data.source import open_source
from octlet.data.split import (
    SplitRecord,
    check_leaks,
    make_folds,
    make_split,
    patient_groups,
    read_split,
    write_split,
)

SAMPLE = os.environ.get("OCTLET_DATA", "")


def far_hash(number: int) -> str:
    return np.random.default_rng(number).bytes(32).hex()


def record(number: int, label: str, patient: object, **changes: object) -> Record:
    made = Record(f"{number:05d}.png", label, str(patient), "", 9, 9, f"{number:064x}", far_hash(number))
    return replace(made, **changes)  # type: ignore[arg-type]


def cohort(patients: int, seed: int = 0) -> list[Record]:
    """Return scans of patients as unlike as real ones: 1 to 12 scans, mostly of one of unequal classes."""
    rng = np.random.default_rng(seed)
    made: list[Record] = []
    for patient in range(patients):
        label = rng.choice(LABELS, p=[0.33, 0.12, 0.1, 0.45])
        for _ in range(int(rng.integers(1, 13) if rng.random() < 0.2 else 1)):
            other = str(rng.choice(LABELS)) if rng.random() < 0.05 else str(label)
            made.append(record(len(made), other, patient))
    return made


def count(rows: list[SplitRecord], split: str) -> list[int]:
    found = Counter(row.label for row in rows if row.split == split)
    return [found[label] for label in LABELS]


RECORDS = st.lists(
    st.tuples(st.sampled_from(LABELS), st.integers(0, 12), st.integers(0, 25)), min_size=8, max_size=40
).map(
    lambda rows: [
        record(k, label, patient, sha256=f"{picture:064x}", dhash=far_hash(picture))
        for k, (label, patient, picture) in enumerate(rows)
    ]
)


@settings(max_examples=60)
@given(RECORDS, st.integers(0, 9))
def test_no_patient_and_no_picture_ever_crosses(records: list[Record], seed: int) -> None:
    rows = make_split(records, seed=seed)
    check_leaks(rows)
    assert [row.path for row in rows] == [item.path for item in records]
    labels_of: dict[str, set[str]] = {}
    for item in records:
        labels_of.setdefault(item.sha256, set()).add(item.label)
    for row in rows:
        assert (row.split == "quarantine") == (len(labels_of[row.sha256]) > 1) == bool(row.reason)


def test_shares_are_near_the_wanted_ones() -> None:
    records = cohort(400)
    total = np.array([sum(item.label == label for item in records) for label in LABELS])
    rows = make_split(records, val=0.15, test=0.25, seed=1)
    for split, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
        assert np.abs(np.array(count(rows, split)) - share * total).max() <= 2


def test_a_rare_class_weighs_as_much_as_a_common_one() -> None:
    # By plain counts the last patient would go where common scans lack, and both rare ones end in one fold.
    patients = {"a": {"CNV": 10}, "b": {"CNV": 6, "DME": 1}, "c": {"CNV": 3, "DME": 1}}
    labels = [(p, label) for p, scans in patients.items() for label, n in scans.items() for _ in range(n)]
    records = [record(k, label, patient) for k, (patient, label) in enumerate(labels)]
    for rows in make_folds(records, folds=2, val=0):
        assert count(rows, "test")[LABELS.index("DME")] == 1


def test_folds_are_no_less_even_than_scikit_learns() -> None:
    records = cohort(300, seed=5)
    label = np.array([LABELS.index(item.label) for item in records])
    patient = np.array([item.patient for item in records])
    total = np.bincount(label, minlength=4)

    def worst(parts: list[np.ndarray]) -> float:
        return max(float(np.abs(part / total - 0.2).max()) for part in parts)

    oracle = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(label, label, patient)
    theirs = worst([np.bincount(label[test], minlength=4) for _, test in oracle])
    ours = worst([np.array(count(rows, "test")) for rows in make_folds(records, folds=5)])
    assert ours <= theirs + 1e-12


def test_test_sets_of_folds_part_the_scans() -> None:
    records = cohort(120)
    folds = make_folds(records, folds=4, val=0.1, seed=3)
    tested = [row.path for rows in folds for row in rows if row.split == "test"]
    assert sorted(tested) == [item.path for item in records]
    for rows in folds:
        check_leaks(rows)
        assert len(rows) == len(records)
        assert sum(count(rows, "val")) == pytest.approx(0.1 * len(records), abs=4)


def test_without_validation_share_there_is_no_validation_set() -> None:
    records = cohort(40)
    assert sum(count(make_split(records, val=0, test=0.5), "val")) == 0
    assert sum(count(make_folds(records, folds=2, val=0)[0], "val")) == 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    records = cohort(80)
    for name, seed, given_records in (("a", 0, records), ("b", 0, records[::-1]), ("c", 1, records)):
        write_split(tmp_path / name, make_split(given_records, seed=seed))
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again
    assert first != other
    assert make_folds(records, folds=3, seed=4) == make_folds(records[::-1], folds=3, seed=4)


def test_duplicates_join_patients_through_each_other() -> None:
    records = [record(k, "CNV", f"p{k}") for k in range(5)]
    records[1] = replace(records[1], sha256=records[0].sha256)
    near = [NearPair("00001.png", "00002.png", 5, 0.99)]
    groups = patient_groups(records, near)
    assert groups == {"p0": "p0", "p1": "p0", "p2": "p0", "p3": "p3", "p4": "p4"}


def test_without_an_audit_close_hashes_are_kept_together_but_never_a_conflict() -> None:
    records = [record(0, "CNV", "a"), record(1, "DME", "b"), record(2, "CNV", "c")]
    records[1] = replace(records[1], dhash=f"{int(records[0].dhash, 16) ^ 7:064x}")
    rows = make_split(records, val=0, test=0.3)
    assert [row.group for row in rows] == ["a", "a", "c"]
    assert not any(row.reason for row in rows)
    assert [row.group for row in make_split(records, val=0, test=0.3, near=[])] == ["a", "b", "c"]
    told = make_split(records, val=0, test=0.3, near=[NearPair("00000.png", "00001.png", 3, 0.99)])
    assert [row.split for row in told][:2] == ["quarantine", "quarantine"]
    assert told[0].reason == "near duplicates of two patients labelled CNV and DME"


def test_a_given_test_set_is_kept_and_what_belongs_to_it_quarantined() -> None:
    records = [replace(item, split="train") for item in cohort(100)]
    tested = {item.patient for item in records[::17]}
    records = [replace(item, split="test") if k % 17 == 0 else item for k, item in enumerate(records)]
    rows = make_split(records, keep_given=True, val=0.2)
    check_leaks(rows)
    for item, row in zip(records, rows, strict=True):
        if item.split == "test":
            assert row.split == "test"
        elif item.patient in tested:
            assert (row.split, row.reason) == (
                "quarantine",
                "its patient or picture is in the given test split",
            )
        else:
            assert row.split in ("train", "val")
    usable = sum(row.split != "quarantine" for row in rows)
    assert sum(count(rows, "val")) == pytest.approx(0.2 * usable, abs=4)


def test_a_copy_of_a_given_test_scan_takes_its_whole_patient_out_of_training() -> None:
    records = [replace(item, split="train", patient=str(k)) for k, item in enumerate(cohort(12))]
    records[0] = replace(records[0], split="test")
    records[1] = replace(records[1], sha256=records[0].sha256, label=records[0].label)
    records[2] = replace(records[2], patient=records[1].patient)
    rows = make_split(records, keep_given=True, val=0.2)
    assert [row.split for row in rows[:3]] == ["test", "quarantine", "quarantine"]
    assert all(row.split in ("train", "val") for row in rows[3:])


def test_a_given_test_set_stays_whole_whatever_its_labels() -> None:
    records = [replace(item, split="train", patient=str(k)) for k, item in enumerate(cohort(12))]
    for k, (split, label) in enumerate([("test", "CNV"), ("train", "DME"), ("test", "DRUSEN")]):
        records[k] = replace(records[k], split=split, label=label, sha256=records[0].sha256)
    rows = make_split(records, keep_given=True, val=0.2)
    assert [(row.split, row.reason) for row in rows[:3]] == [
        ("test", ""),
        ("quarantine", "same bytes labelled CNV and DME and DRUSEN"),
        ("test", ""),
    ]
    check_leaks(rows)


GIVEN = RECORDS.flatmap(
    lambda records: st.lists(
        st.sampled_from(["train", "val", "test", ""]), min_size=len(records), max_size=len(records)
    ).map(lambda splits: [replace(item, split=split) for item, split in zip(records, splits, strict=True)])
).filter(lambda records: {"train", "val", "test"} <= {item.split for item in records})


@settings(max_examples=60)
@given(GIVEN)
def test_given_sets_are_kept_but_for_what_crosses_them(records: list[Record]) -> None:
    rows = make_split(records, given=True)
    check_leaks(rows)
    groups = patient_groups(records, near=())
    rank = {"test": 0, "val": 1, "train": 2, "": 3}
    first: dict[str, int] = {}
    labels_of: dict[str, set[str]] = {}
    for item in records:
        group = groups[item.patient]
        first[group] = min(first.get(group, 3), rank[item.split])
        labels_of.setdefault(item.sha256, set()).add(item.label)
    for item, row in zip(records, rows, strict=True):
        stays = rank[item.split] == first[groups[item.patient]] and len(labels_of[item.sha256]) == 1
        if item.split and (stays or item.split == "test"):
            assert (row.split, row.reason) == (item.split, "")
        else:
            assert row.split == "quarantine"
            assert row.reason


def test_near_duplicates_and_lone_scans_of_given_sets() -> None:
    splits = ["train", "val", "test", "", "train"]
    records = [record(k, "CNV", f"p{k}", split=split) for k, split in enumerate(splits)]
    near = [NearPair("00000.png", "00002.png", 5, 0.99)]
    rows = make_split(records, given=True, near=near)
    assert [row.split for row in rows] == ["train", "val", "test", "quarantine", "train"]
    assert rows[3].reason == "in none of the given splits"
    assert make_split(records, keep_given=True, near=near)[0].split == "quarantine"


def test_given_sets_that_are_not_there_are_refused() -> None:
    records = [replace(item, split="train") for item in cohort(9)]
    records[0] = replace(records[0], split="test")
    with pytest.raises(InputError, match="no scan has the given split 'val'"):
        make_split(records, given=True)
    with pytest.raises(UsageError, match="'keep_given' only the test set"):
        make_split(records, given=True, keep_given=True)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.2), (1.0, 0.0), (float("nan"), 0.1)])
def test_impossible_shares_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="nothing to train on"):
        make_split(cohort(9), val=shares[0], test=shares[1])


def test_impossible_folds_are_refused() -> None:
    with pytest.raises(UsageError, match="1 folds"):
        make_folds(cohort(9), folds=1)
    with pytest.raises(UsageError, match="nothing to train on"):
        make_folds(cohort(9), folds=2, val=0.5)
    with pytest.raises(UsageError, match="need as many groups of patients, not 9"):
        make_folds(cohort(9), folds=10)


def test_nothing_to_split_or_keep_is_refused() -> None:
    with pytest.raises(InputError, match="no scan to split"):
        make_split([])
    with pytest.raises(InputError, match="no scan has the given split 'test'"):
        make_split(cohort(9), keep_given=True)


def test_a_split_comes_back_from_its_file(tmp_path: Path) -> None:
    records = cohort(30)
    records[1] = replace(records[1], sha256=records[0].sha256, label="DME", path='z,"\n\r.png')
    records[0] = replace(records[0], label="CNV")
    rows = make_split(records)
    write_split(tmp_path / "split.csv", rows)
    assert read_split(tmp_path / "split.csv") == rows
    header = (tmp_path / "split.csv").read_bytes().partition(b"\n")[0]
    assert header == b"path,label,patient,split,width,height,sha256,dhash,group,reason"


def test_an_index_is_no_split(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    row = make_split(cohort(9))[0]
    write_split(file, [replace(row, group="")])
    with pytest.raises(InputError, match="row 1: the split or the group is empty"):
        read_split(file)
    write_split(file, [replace(row, split="training")])
    with pytest.raises(InputError, match="split 'training' is not one of train, val, test, quarantine"):
        read_split(file)
    file.write_text("path,label\n")
    with pytest.raises(InputError, match="'patient' is missing"):
        read_split(file)


@pytest.mark.parametrize("column", ["patient", "group", "sha256"])
def test_a_leak_is_named(column: str) -> None:
    rows = [
        SplitRecord(**vars(record(k, "CNV", f"p{k}", split=split)), group=f"g{k}")
        for k, split in enumerate(["train", "test", "quarantine"])
    ]
    check_leaks(rows)
    shared = getattr(rows[0], column)
    leaking = [rows[0], *(replace(row, **{column: shared}) for row in rows[1:])]
    with pytest.raises(
        InputError, match=f"{shared} crosses splits .00000.png in train, 00001.png in test"
    ) as caught:
        check_leaks(leaking)
    assert "octlet data split" in caught.value.remedy
    check_leaks([leaking[0], leaking[2]])  # quarantine is no split


@pytest.mark.skipif(not SAMPLE, reason="OCTLET_DATA does not name the folder of the real sample")
def test_the_real_sample() -> None:
    source = open_source(SAMPLE)
    records, unreadable, _ = build_index(source)
    assert (len(records), unreadable) == (722, [])
    near = near_duplicates(source.root, records)
    assert near == []
    assert set(patient_groups(records, None).values()) == {item.patient for item in records}  # nothing fuses
    total = np.array([sum(item.label == label for item in records) for label in LABELS])
    for rows in make_folds(records, folds=5, near=near):
        check_leaks(rows)
        assert np.abs(np.array(count(rows, "test")) - total / 5).max() <= 1
