"""octlet.data.audit and audit_page: the exact test against scipy, every finding, a page that runs nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import fisher_exact, hypergeom

from octlet.core.labels import LABELS, NOTICE
from octlet.data.audit import (
    Audit,
    audit,
    conflicts,
    findings,
    hypergeometric_tail,
    shape_accuracy,
    shape_shortcuts,
)
from octlet.data.audit_page import page
from octlet.data.duplicates import NearPair
from octlet.data.index import Record, Unfit, Unreadable, build_index
from octlet.data.source import open_source, unknown_patient


def record(number: int, label: str = "CNV", **changes: object) -> Record:
    made = Record(f"{number:04d}.png", label, str(number), "", 512, 496, f"{number:064x}", f"{number:064x}")
    return replace(made, **changes)  # type: ignore[arg-type]


def cohort(counts: dict[tuple[str, int], int]) -> list[Record]:
    """Return records, `counts[label, height]` of each."""
    made: list[Record] = []
    for (label, height), count in counts.items():
        made += [record(len(made) + k, label, height=height) for k in range(count)]
    return made


@given(st.data())
def test_the_tail_is_that_of_scipy(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 3000))
    marked, drawn = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    hits = data.draw(st.integers(0, min(marked, drawn)))
    expected = float(hypergeom.sf(hits - 1, total, marked, drawn))
    assert hypergeometric_tail(total, marked, drawn, hits) == pytest.approx(expected, rel=1e-7, abs=1e-300)


def test_the_tail_is_fishers_exact_test_and_its_closed_form() -> None:
    table = [[8, 2], [5, 25]]
    expected = fisher_exact(table, alternative="greater").pvalue
    assert hypergeometric_tail(40, 13, 10, 8) == pytest.approx(expected, rel=1e-10)
    assert hypergeometric_tail(4, 2, 2, 2) == pytest.approx(1 / 6)
    assert hypergeometric_tail(109_309, 11_600, 11_600, 11_600) == 0.0  # underflows


def test_a_shape_of_one_class_is_found_and_an_even_one_is_not() -> None:
    records = cohort({("CNV", 496): 40, ("DME", 496): 10, ("NORMAL", 496): 50, ("DME", 512): 12})
    found = shape_shortcuts(records)[0]
    assert (found.width, found.height, found.n, found.patients) == (512, 512, 12, 12)
    assert (found.label, found.count, found.share) == ("DME", 12, 1.0)
    assert found.base_rate == pytest.approx(22 / 112)
    tests = 2 * 3  # shapes times labels
    assert found.p == pytest.approx(tests * float(hypergeom.sf(11, 112, 22, 12)), rel=1e-7)
    even = cohort({("CNV", 496): 20, ("DME", 496): 20, ("CNV", 512): 10, ("DME", 512): 10})
    assert shape_shortcuts(even) == []


@pytest.mark.parametrize(
    "counts",
    [
        {("CNV", 496): 60, ("DME", 496): 60, ("DME", 512): 4},  # fewer than five scans prove nothing
        {("CNV", 496): 60, ("DME", 496): 60},  # one shape
        {("CNV", 496): 60, ("CNV", 512): 60},  # one class
    ],
)
def test_where_a_shape_cannot_tell_nothing_is_found(counts: dict[tuple[str, int], int]) -> None:
    assert shape_shortcuts(cohort(counts)) == []


def test_shape_accuracy_counts_right_guesses() -> None:
    records = cohort({("CNV", 496): 6, ("DME", 496): 4, ("DME", 512): 5, ("NORMAL", 300): 4})
    # 496 -> CNV: 6 of 10; 512 -> DME: 5 of 5; 300 is rare, so DME as in all: 0 of 4
    assert shape_accuracy(records) == (11 / 19, 9 / 19)
    assert shape_accuracy([]) == (0.0, 0.0)


def test_conflicts_are_exact_or_near_across_patients() -> None:
    same = "a" * 64
    records = [
        record(0, "CNV", sha256=same),
        record(1, "DME", sha256=same),
        record(2, "CNV"),
        record(3, "NORMAL"),
        record(4, "CNV", patient="7"),
        record(5, "DME", patient="7"),
        record(6, "CNV"),
        record(7, "CNV"),
    ]
    pairs = [("0002", "0003"), ("0004", "0005"), ("0006", "0007")]
    near = [NearPair(f"{a}.png", f"{b}.png", 3, 0.99) for a, b in pairs]
    found = conflicts(records, near)
    assert [(conflict.kind, conflict.paths, conflict.labels) for conflict in found] == [
        ("exact", ("0000.png", "0001.png"), ("CNV", "DME")),
        ("near", ("0002.png", "0003.png"), ("CNV", "NORMAL")),
    ]


def test_all_copies_of_a_scan_stand_in_its_near_conflict() -> None:
    same = "a" * 64
    copies = [record(0, "CNV", sha256=same, patient="3"), record(1, "CNV", sha256=same)]
    records = [*copies, record(2, "DME", patient="3")]
    (found,) = conflicts(records, [NearPair("0000.png", "0002.png", 2, 0.99)])
    assert (found.kind, found.paths) == ("near", ("0000.png", "0001.png", "0002.png"))


def full_audit() -> Audit:
    same = "a" * 64
    records = [
        record(0, "CNV", split="train", patient="p"),
        record(1, "DME", split="test", patient="p"),
        record(2, "CNV", split="train", sha256=same),
        record(3, "DME", split="val", sha256=same),
        record(4, "CNV", split="train"),
        record(5, "CNV", split="test"),
        record(6, "CNV", split="train", patient=unknown_patient("0006.png")),
        record(7, "CNV", split="train", patient="q"),
        record(8, "CNV", split="train", patient="q"),
    ]
    near = [NearPair("0004.png", "0005.png", 3, 0.99), NearPair("0007.png", "0008.png", 3, 0.99)]
    bad, unfit = Unreadable("bad.png", "CNV", "9", "train", "empty"), Unfit("0001.png", "DME", "blank")
    return audit(records, [bad], near, other_files=2, unfit=[unfit])


def test_the_audit_counts_and_lists() -> None:
    result = full_audit()
    assert (result.scans, result.patients, result.unknown_patients) == (9, 6, 1)
    assert result.classes["CNV"] == {"scans": 7, "patients": 5}
    assert result.classes["NORMAL"] == {"scans": 0, "patients": 0}
    assert result.splits["test"] == {"CNV": 1, "DME": 1, "DRUSEN": 0, "NORMAL": 0}
    assert result.patients_in_several_classes == {"p": ["CNV", "DME"]}
    assert result.exact == [["0002.png", "0003.png"]]
    assert [(pair.a, pair.b) for pair in result.near] == [("0004.png", "0005.png")]
    assert result.near_within_patients == 1
    crossings = [(crossing.kind, crossing.name, crossing.splits) for crossing in result.crossings]
    assert crossings == [
        ("patient", "p", ("train", "test")),
        ("duplicate", "0002.png, 0003.png", ("train", "val")),
        ("duplicate", "0004.png, 0005.png", ("train", "test")),
    ]
    assert json.loads(json.dumps(result.as_dict()))["unreadable"][0]["reason"] == "empty"


def test_every_finding_is_told_serious_ones_first() -> None:
    told = findings(full_audit())
    text = "\n".join(finding.title for finding in told)
    for part in (
        "Unreadable: 1 scan.",
        "Unfit to be judged: 1 scan.",
        "The same picture under different labels: 2 scans.",
        "The same bytes: 2 files in 1 set.",
        "Nearly the same picture in different patients: 1 pair.",
        "In more than one given split: 1 patient.",
        "In more than one given split, under several patients: 2 pictures.",
        "Patient unknown: 1 of 9 scans.",
        "No scan of DRUSEN, NORMAL",
        "Nearly the same picture in one patient: 1 pair.",
        "Scans of more than one class: 1 patient.",
        "Passed over: 2 files.",
    ):
        assert part in text
    assert [finding.serious for finding in told] == sorted((f.serious for f in told), reverse=True)
    clean = audit([record(number, label) for number, label in enumerate(LABELS)], [])
    assert findings(clean) == []


def test_the_page_stands_alone_and_escapes_names(tmp_path: Path) -> None:
    root = tmp_path / "<script>alert(1)<&"
    rng = np.random.default_rng(0)
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (48, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f'"><img src=x>{number}.png'.replace("/", ""))
    records, *_ = build_index(open_source(root))
    pair = NearPair(records[0].path, records[2].path, 3, 0.99)
    bad = Unreadable("<b>bad</b>.png", "CNV", "9", "", "<i>no</i>")
    unfit = [Unfit(records[0].path, "CNV", "It is <u>blank</u>.")]
    html = page(audit(records, [bad], [pair], unfit=unfit), records, root, root.name)
    assert "<script" not in html
    assert "<img src=x>" not in html
    assert "<b>bad" not in html
    assert "&lt;b&gt;bad&lt;/b&gt;.png: &lt;i&gt;no&lt;/i&gt;" in html
    assert NOTICE in html
    assert "It is &lt;u&gt;blank&lt;/u&gt;." in html
    assert (
        html.count("data:image/jpeg;base64,") == 8 + 2 * 2 + 1
    )  # samples; a pair, near and in conflict; unfit
    assert "http" not in html
    assert "prefers-color-scheme: dark" in html


def test_the_page_of_nothing_readable_is_still_a_page(tmp_path: Path) -> None:
    html = page(audit([], [Unreadable("a.png", "CNV", "1", "", "empty")]), [], tmp_path, "empty")
    assert "Unreadable: 1 scan." in html
