"""What is wrong with a set of labelled scans before anything learns from it: plain data, no files written."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from octlet.core.labels import LABELS
from octlet.data.duplicates import NearPair, exact_duplicates
from octlet.data.index import Record, Unfit, Unreadable
from octlet.data.source import SPLITS, is_unknown

MIN_SHAPE_SCANS = 5
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Conflict:
    """Scans that show the same picture under different labels."""

    kind: str  # "exact" or "near"
    paths: tuple[str, ...]
    labels: tuple[str, ...]  # one for each path
    patients: tuple[str, ...]  # one for each path


@dataclass(frozen=True)
class ShapeShortcut:
    """An image shape that tells more of the label than chance allows."""

    width: int
    height: int
    n: int  # scans of this shape
    patients: int  # known ones among them
    label: str
    count: int  # scans of this shape and label
    share: float  # count / n
    base_rate: float  # the label's share among all scans
    p: float  # one-sided, Bonferroni-corrected over shapes and labels


@dataclass(frozen=True)
class Crossing:
    """A patient, or one picture under several patients, that stands in more than one given split."""

    kind: str  # "patient" or "duplicate"
    name: str  # the patient, or the paths
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """The result of `audit`; `as_dict` is what `--json` prints."""

    scans: int
    patients: int  # known ones, here and in `classes`
    unknown_patients: int  # scans whose patient nobody knows
    other_files: int
    classes: dict[str, dict[str, int]]  # label -> scans, patients
    splits: dict[str, dict[str, int]]  # given split -> label -> scans
    patients_in_several_classes: dict[str, list[str]]  # patient -> labels
    exact: list[list[str]]  # paths of each set of identical files
    near: list[NearPair]  # across patients
    near_within_patients: int
    conflicts: list[Conflict]
    unreadable: list[Unreadable]
    unfit: list[Unfit]
    shapes: dict[str, dict[str, int]]  # "WxH" -> label -> scans
    shape_shortcuts: list[ShapeShortcut]
    shape_accuracy: float
    majority_accuracy: float
    crossings: list[Crossing]

    def as_dict(self) -> dict[str, Any]:
        """Return the audit as JSON values."""
        return asdict(self)


def audit(
    records: Sequence[Record],
    unreadable: Sequence[Unreadable],
    near: Sequence[NearPair] = (),
    other_files: int = 0,
    unfit: Sequence[Unfit] = (),
) -> Audit:
    """Examine an index. `near` holds its verified near duplicates (`duplicates.near_duplicates`)."""
    by_path = {record.path: record for record in records}
    across = [pair for pair in near if by_path[pair.a].patient != by_path[pair.b].patient]
    exact = exact_duplicates(records)
    accuracy, majority = shape_accuracy(records)
    return Audit(
        scans=len(records),
        patients=known_patients(records),
        unknown_patients=sum(is_unknown(record.patient) for record in records),
        other_files=other_files,
        classes=_class_counts(records),
        splits=_split_counts(records),
        patients_in_several_classes=_several_classes(records),
        exact=[[record.path for record in group] for group in exact],
        near=across,
        near_within_patients=len(near) - len(across),
        conflicts=conflicts(records, near),
        unreadable=list(unreadable),
        unfit=list(unfit),
        shapes=_shape_counts(records),
        shape_shortcuts=shape_shortcuts(records),
        shape_accuracy=accuracy,
        majority_accuracy=majority,
        crossings=_crossings(records, exact, across),
    )


def conflicts(records: Iterable[Record], near: Iterable[NearPair]) -> list[Conflict]:
    """Return the identical files, and the verified near pairs across patients, whose labels differ.

    Of identical files a near pair names one; all of them are in its conflict.
    """
    records = list(records)
    by_path = {record.path: record for record in records}
    exact = exact_duplicates(records)
    copies = {record.path: group for group in exact for record in group}
    sets = [("exact", group) for group in exact]
    for pair in near:
        both = [copies.get(path, [by_path[path]]) for path in (pair.a, pair.b)]
        if len({record.patient for record in both[0] + both[1]}) > 1:
            sets.append(("near", both[0] + both[1]))
    found = []
    for kind, group in sets:
        labels = tuple(record.label for record in group)
        if len(set(labels)) > 1:
            paths, patients = tuple(r.path for r in group), tuple(r.patient for r in group)
            found.append(Conflict(kind, paths, labels, patients))
    return found


# Shapes -----------------------------------------------------------------------------------------------


def hypergeometric_tail(total: int, marked: int, drawn: int, hits: int) -> float:
    """Return P(X >= hits) for `drawn` of `total` scans, without replacement, `marked` of which count.

    The one-sided Fisher exact test of a 2 x 2 table, summed from its closed form (R. A. Fisher, J. R. Stat.
    Soc. 98, 1935). Zero where it underflows.
    """

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    least, most = max(hits, 0, drawn - (total - marked)), min(marked, drawn)
    if least == max(0, drawn - (total - marked)):
        return 1.0
    terms = (
        math.exp(log_choose(marked, k) + log_choose(total - marked, drawn - k) - log_choose(total, drawn))
        for k in range(least, most + 1)
    )
    return min(1.0, math.fsum(terms))


def shape_shortcuts(records: Sequence[Record]) -> list[ShapeShortcut]:
    """Return the shapes, of at least 5 scans, that hold more of a label than chance allows, least p first.

    Tested scan by scan against the label's share among all scans (`hypergeometric_tail`, corrected p under
    0.01) and named with the label of the least p. Scans of one patient are not independent, so p flatters a
    shape of few patients: their number stands beside it.
    """
    labels = Counter(record.label for record in records)
    shapes = _by_shape(records)
    tested = {shape: group for shape, group in shapes.items() if len(group) >= MIN_SHAPE_SCANS}
    if len(shapes) < 2 or len(labels) < 2:
        return []
    tests = len(tested) * len(labels)
    found = []
    for (width, height), group in tested.items():
        inside = Counter(record.label for record in group)
        tail, label = min(
            (hypergeometric_tail(len(records), labels[c], len(group), hits), c) for c, hits in inside.items()
        )
        p = min(1.0, tail * tests)
        if p < SIGNIFICANCE:
            n, patients = len(group), known_patients(group)
            share, base_rate = inside[label] / n, labels[label] / len(records)
            found.append(ShapeShortcut(width, height, n, patients, label, inside[label], share, base_rate, p))
    return sorted(found, key=lambda shortcut: (shortcut.p, -shortcut.share, shortcut.width, shortcut.height))


def shape_accuracy(records: Sequence[Record]) -> tuple[float, float]:
    """Return the accuracies, on these scans, of two guesses that see no pixel: 0 to 1, 0 without scans.

    The first answers with the most frequent label of the scan's shape (of all scans, for a shape of fewer
    than 5, which would otherwise prove itself); the second always with the most frequent label.
    """
    if not records:
        return 0.0, 0.0
    majority = _most_frequent(records)
    right = 0
    for group in _by_shape(records).values():
        guess = _most_frequent(group) if len(group) >= MIN_SHAPE_SCANS else majority
        right += sum(record.label == guess for record in group)
    return right / len(records), sum(record.label == majority for record in records) / len(records)


def _most_frequent(records: Sequence[Record]) -> str:
    count = Counter(record.label for record in records)
    return min(count, key=lambda label: (-count[label], label))


def _by_shape(records: Iterable[Record]) -> dict[tuple[int, int], list[Record]]:
    shapes: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for record in records:
        shapes[record.width, record.height].append(record)
    return dict(sorted(shapes.items()))


# Counts -----------------------------------------------------------------------------------------------


def known_patients(records: Iterable[Record]) -> int:
    """Count the patients of some scans; scans whose patient nobody knows count for none."""
    return len({record.patient for record in records if not is_unknown(record.patient)})


def _labels_of(records: Iterable[Record]) -> dict[str, int]:
    count = Counter(record.label for record in records)
    return {label: count[label] for label in LABELS}


def _class_counts(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    groups = {label: [record for record in records if record.label == label] for label in LABELS}
    return {c: {"scans": len(group), "patients": known_patients(group)} for c, group in groups.items()}


def _split_counts(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    given = [split for split in (*SPLITS, "") if any(record.split == split for record in records)]
    return {split: _labels_of(r for r in records if r.split == split) for split in given}


def _shape_counts(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    return {f"{w}x{h}": _labels_of(group) for (w, h), group in _by_shape(records).items()}


def _several_classes(records: Sequence[Record]) -> dict[str, list[str]]:
    labels: dict[str, set[str]] = defaultdict(set)
    for record in records:
        labels[record.patient].add(record.label)
    return {patient: sorted(found) for patient, found in sorted(labels.items()) if len(found) > 1}


def _crossings(
    records: Sequence[Record], exact: Iterable[Sequence[Record]], across: Iterable[NearPair]
) -> list[Crossing]:
    by_path = {record.path: record for record in records}
    by_patient: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_patient[record.patient].append(record)
    sets = [("patient", patient, group) for patient, group in sorted(by_patient.items())]
    pairs = [[by_path[pair.a], by_path[pair.b]] for pair in across]
    shared = [list(group) for group in [*exact, *pairs] if len({record.patient for record in group}) > 1]
    sets += [("duplicate", ", ".join(record.path for record in group), group) for group in shared]
    found = []
    for kind, name, group in sets:
        splits = tuple(split for split in SPLITS if any(record.split == split for record in group))
        if len(splits) > 1:
            found.append(Crossing(kind, name, splits))
    return found


# In words ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One thing to know about the data: what is so, why it matters and what to do."""

    serious: bool  # would falsify a result if nothing were done
    title: str
    why: str
    action: str


def findings(audit: Audit) -> list[Finding]:
    """Return what the audit found in plain words, serious things first."""
    told = [*_picture_findings(audit), *_patient_findings(audit), *map(_shape_finding, audit.shape_shortcuts)]
    absent = [label for label, count in audit.classes.items() if not count["scans"]]
    if absent and audit.scans:
        why = "A class that is not there can be neither learned nor measured."
        told.append(Finding(True, f"No scan of {', '.join(absent)}.", why, "Add scans of it."))
    if audit.other_files:
        why = "Hidden, outside the class folders, or no PNG, JPEG, BMP or TIFF image by name."
        told.append(
            Finding(
                False,
                f"Passed over: {_count(audit.other_files, 'file')}.",
                why,
                "Make sure that none is a scan.",
            )
        )
    return sorted(told, key=lambda finding: not finding.serious)


def _picture_findings(audit: Audit) -> Iterable[Finding]:
    if audit.unreadable:
        why = "They are in no index, so no later stage sees them."
        action = "Copy or export them again, then check again."
        yield Finding(True, f"Unreadable: {_count(len(audit.unreadable), 'scan')}.", why, action)
    if audit.unfit:
        why = "Blank, noisy, saturated, cut off, empty or upside down: 'octlet predict' refuses such scans."
        action = "Look at them below; turn what lies upside down, leave out what shows no retina."
        yield Finding(False, f"Unfit to be judged: {_count(len(audit.unfit), 'scan')}.", why, action)
    if audit.conflicts:
        count = len({path for conflict in audit.conflicts for path in conflict.paths})
        title = f"The same picture under different labels: {_count(count, 'scan')}."
        why = "At least one of the labels is wrong: such scans teach and measure errors."
        action = "'octlet data split' quarantines them, but in a given test set; better, correct the labels."
        yield Finding(True, title, why, action)
    why = "A copy on both sides of a split makes a model look better than it is."
    if audit.exact:
        files = sum(map(len, audit.exact))
        title = f"The same bytes: {_count(files, 'file')} in {_count(len(audit.exact), 'set')}."
        yield Finding(True, title, why, "'octlet data split' keeps each set together.")
    if audit.near:
        title = f"Nearly the same picture in different patients: {_count(len(audit.near), 'pair')}."
        yield Finding(True, title, why, "'octlet data split' keeps them together; look at them below.")
    if audit.near_within_patients:
        title = f"Nearly the same picture in one patient: {_count(audit.near_within_patients, 'pair')}."
        yield Finding(
            False, title, "They hold less than their number says.", "Nothing: a patient is never split."
        )


def _patient_findings(audit: Audit) -> Iterable[Finding]:
    patients = [crossing for crossing in audit.crossings if crossing.kind == "patient"]
    if patients:
        title = f"In more than one given split: {_count(len(patients), 'patient')}."
        why = "Two scans of one eye are alike: the test set then measures memory, not skill."
        yield Finding(True, title, why, "Make new splits with 'octlet data split', or add --keep-given.")
    if len(audit.crossings) > len(patients):
        pictures = _count(len(audit.crossings) - len(patients), "picture")
        title = f"In more than one given split, under several patients: {pictures}."
        why = "The test set then holds what was trained on."
        yield Finding(True, title, why, "Make new splits with 'octlet data split', or add --keep-given.")
    if audit.unknown_patients:
        title = f"Patient unknown: {audit.unknown_patients:,} of {_count(audit.scans, 'scan')}."
        why = (
            "Scans of one patient may then fall on both sides of a split, and no interval can be by patient."
        )
        action = "Name files CLASS-PATIENT-N or give a CSV with a patient column; else doubt every result."
        yield Finding(True, title, why, action)
    if audit.patients_in_several_classes:
        several = _count(len(audit.patients_in_several_classes), "patient")
        title = f"Scans of more than one class: {several}."
        why = "Both eyes, visits years apart or a wrong label: class folders alone do not part patients."
        yield Finding(False, title, why, "Nothing: splits go by the patient's number alone.")


def _shape_finding(found: ShapeShortcut) -> Finding:
    patients = f" ({_count(found.patients, 'patient')})" if found.patients else ""
    title = (
        f"The shape {found.width}x{found.height} tells the label: {found.count} of {found.n} such scans"
        f"{patients} are {found.label}, {found.share:.0%} against {found.base_rate:.0%} "
        f"of all (p {p_text(found.p)})."
    )
    why = "A network can read the label off the scan's shape, padding or stretching, without seeing the eye."
    action = "Prepare scans so that their shape does not show, and measure without these as well."
    return Finding(True, title, why, action)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def p_text(p: float) -> str:
    """Return a p value as `= 2.0e-55`, or as a bound where it underflowed."""
    return f"= {p:.1e}" if p > 0 else "< 1e-300"
