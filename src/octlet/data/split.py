"""Train, validation and test sets, or folds, that no patient and no picture crosses.

A group is the patients that scans of the same bytes, or near duplicates, link to each other; it goes to one
set as a whole. Scans of the same picture but different labels are quarantined: nobody learns from them or is
measured on them. Only a test set that comes with the source stays whole, because published figures are of all
of it.

Groups are handed out greedily: shuffled by the seed, the largest first, each to the set where it brings the
counts of all classes nearest to the wanted shares, in squares relative to the class's total. That is the idea
of scikit-learn's StratifiedGroupKFold, for sets of any wanted size. The same records and seed give the same
sets.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import InputError, UsageError
from octlet.core.labels import LABELS, index_of
from octlet.data.audit import conflicts
from octlet.data.duplicates import NearPair, candidates, components, exact_duplicates
from octlet.data.index import Record, by_path, check_paths, record_fields, write_rows
from octlet.data.source import SPLITS, read_table

QUARANTINE = "quarantine"


@dataclass(frozen=True)
class SplitRecord(Record):
    """A record whose `split` is train, val, test or quarantine."""

    group: str  # the least patient of those that stand or fall together
    reason: str = ""  # why it is in quarantine, else empty


COLUMNS = tuple(field.name for field in fields(SplitRecord))


def make_split(
    records: Sequence[Record],
    *,
    val: float = 0.15,
    test: float = 0.25,
    seed: int = 0,
    keep_given: bool = False,
    given: bool = False,
    near: Sequence[NearPair] | None = None,
) -> list[SplitRecord]:
    """Return every record, sorted by path, with its set and group.

    Args:
        records: an index.
        val: wanted share of the scans of each class, 0 to 1.
        test: the same for the test set; the rest is for training.
        seed: of the shuffle.
        keep_given: keep the given test split; other scans of its groups are quarantined, and only `val` is
            drawn from the rest.
        given: keep the given train, val and test split, for a protocol that names all three. Where a patient
            or a picture's bytes are in several, only the scans of the first of test, val and train stay;
            near duplicates stay where they were given. Shares and seed mean nothing.
        near: verified near duplicates. Without them, pairs of close hashes are kept together unverified
            and never count as a conflict.

    Raises:
        UsageError: shares that leave nothing to train on, or `given` and `keep_given`.
        InputError: no record, or a split to keep that no scan has.
    """
    if given and keep_given:
        rule = "'given' keeps all three sets and 'keep_given' only the test set"
        raise UsageError(rule, remedy="use one of them")
    if given:
        rows = _keep(_grouped(records, near=()), records, ("test", "val", "train"))
        return [row if row.split else _quarantined(row, "in none of the given splits") for row in rows]
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        rule = f"val {val} and test {test} leave nothing to train on"
        raise UsageError(rule, remedy="each is a share from 0, and their sum is under 1")
    rows = _grouped(records, near)
    rng = np.random.default_rng(seed)
    if keep_given:
        rows = _keep(rows, records, ("test",))
        free = _free(rows)
        return _assign(rows, free, ("train", "val"), _shares_of_rest(val, rows, free), rng)
    return _assign(rows, _free(rows), SPLITS, (1 - val - test, val, test), rng)


def make_folds(
    records: Sequence[Record],
    *,
    folds: int,
    val: float = 0.1,
    seed: int = 0,
    near: Sequence[NearPair] | None = None,
) -> list[list[SplitRecord]]:
    """Return `folds` splits whose test sets part the patients; `val` of all scans comes from the rest.

    Raises UsageError for fewer than two folds, more folds than groups or a `val` that leaves nothing to train
    on; InputError without records. See `make_split`.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds are none", remedy="use two or more")
    if not 0 <= val < 1 - 1 / folds:
        raise UsageError(f"val {val} leaves nothing to train on", remedy=f"use under {1 - 1 / folds:.3g}")
    rows = _grouped(records, near)
    groups = {row.group for row in _free(rows)}
    if len(groups) < folds:
        rule = f"{folds} folds need as many groups of patients, not {len(groups)}"
        raise UsageError(rule, remedy="use fewer folds")
    names = [f"fold-{number}" for number in range(folds)]
    parts = _assign(rows, _free(rows), names, [1 / folds] * folds, np.random.default_rng(seed))
    return [_fold(rows, parts, number, val, seed) for number in range(folds)]


def _fold(
    rows: Sequence[SplitRecord], parts: Sequence[SplitRecord], number: int, val: float, seed: int
) -> list[SplitRecord]:
    """Return one fold: its part is the test set, and the validation set is drawn from the other parts."""
    name = f"fold-{number}"
    held = [
        replace(row, split="test") if part.split == name else row
        for row, part in zip(rows, parts, strict=True)
    ]
    free = _free(held)
    rng = np.random.default_rng([seed, number])
    return _assign(held, free, ("train", "val"), _shares_of_rest(val, held, free), rng)


def write_split(path: str | Path, rows: Iterable[SplitRecord]) -> None:
    """Write a split as CSV, sorted by path: the columns of the index, then group and reason."""
    write_rows(path, COLUMNS, rows)


def read_split(path: str | Path) -> list[SplitRecord]:
    """Read what `write_split` wrote; raises InputError naming the row and the rule. Leaks: `check_leaks`."""
    file = Path(path)
    rows = []
    for number, row in enumerate(read_table(file, COLUMNS), start=1):
        if not row["split"] or not row["group"]:
            rule = f"row {number}: the split or the group is empty"
            raise InputError(rule, path=file, remedy="write it with 'octlet data split'")
        known = record_fields(row, file, number, (*SPLITS, QUARANTINE))
        rows.append(SplitRecord(**known, group=row["group"], reason=row["reason"]))
    check_paths(rows, file)
    return rows


def check_leaks(records: Iterable[SplitRecord]) -> None:
    """Raise InputError if a patient, a group or a picture's bytes stand in two of train, val and test."""
    records = [record for record in records if record.split in SPLITS]
    remedy = "make the split with 'octlet data split'"
    for column, what in (("patient", "patient"), ("group", "group"), ("sha256", "picture")):
        members: dict[str, list[SplitRecord]] = defaultdict(list)
        for record in records:
            members[getattr(record, column)].append(record)
        leaks = [m for m in members.values() if len({record.split for record in m}) > 1]
        if leaks:
            name = getattr(leaks[0][0], column)
            files = ", ".join(f"{record.path} in {record.split}" for record in _one_of_each_split(leaks[0]))
            more = f", and {len(leaks) - 1} more" if len(leaks) > 1 else ""
            raise InputError(f"{what} {name} crosses splits ({files}){more}", remedy=remedy)


def _one_of_each_split(rows: Iterable[SplitRecord]) -> list[SplitRecord]:
    return list({row.split: row for row in rows}.values())


# Groups and quarantine --------------------------------------------------------------------------------


def _grouped(records: Sequence[Record], near: Sequence[NearPair] | None) -> list[SplitRecord]:
    """Return the records sorted by path, with their groups, conflicts in quarantine and no other split."""
    if not records:
        raise InputError("there is no scan to split", remedy="run 'octlet data check' on the scans")
    records = sorted(records, key=by_path)
    groups = patient_groups(records, near)
    reasons: dict[str, str] = {}
    for conflict in conflicts(records, near or ()):
        labels = " and ".join(sorted(set(conflict.labels)))
        same = "same bytes" if conflict.kind == "exact" else "near duplicates of two patients"
        for path in conflict.paths:
            reasons.setdefault(path, f"{same} labelled {labels}")
    rows = []
    for record in records:
        reason = reasons.get(record.path, "")
        known = {name: getattr(record, name) for name in (field.name for field in fields(Record))}
        known["split"] = QUARANTINE if reason else ""
        rows.append(SplitRecord(**known, group=groups[record.patient], reason=reason))
    return rows


def patient_groups(records: Sequence[Record], near: Sequence[NearPair] | None) -> dict[str, str]:
    """Return each patient's group: the least of the patients that duplicates link it to."""
    patient_of = {record.path: record.patient for record in records}
    links = [(group[0].patient, record.patient) for group in exact_duplicates(records) for record in group]
    if near is None:
        links += [(one.patient, other.patient) for one, other, _ in candidates(records)]
    else:
        links += [(patient_of[pair.a], patient_of[pair.b]) for pair in near]
    return components(patient_of.values(), links)


def _keep(rows: Sequence[SplitRecord], records: Iterable[Record], names: Sequence[str]) -> list[SplitRecord]:
    """Return the rows with the given splits `names` kept, the first one whole; a group stays in the first."""
    given = {record.path: record.split for record in records}
    holder: dict[str, str] = {}
    for name in names:
        groups = {row.group for row in rows if given[row.path] == name}
        if not groups:
            rule = f"no scan has the given split '{name}'"
            raise InputError(rule, remedy="leave out --keep-given, or split.given of the recipe")
        holder = dict.fromkeys(groups, name) | holder
    kept = []
    for row in rows:
        own, first = given[row.path], holder.get(row.group, "")
        if own == names[0] or (not row.split and own == first):
            row = replace(row, split=own, reason="")
        elif not row.split and first:
            row = _quarantined(row, f"its patient or picture is in the given {first} split")
        kept.append(row)
    return kept


def _quarantined(row: SplitRecord, reason: str) -> SplitRecord:
    return replace(row, split=QUARANTINE, reason=reason)


# The greedy hand-out ----------------------------------------------------------------------------------


def _free(rows: Iterable[SplitRecord]) -> list[SplitRecord]:
    return [row for row in rows if not row.split]


def _shares_of_rest(
    val: float, rows: Sequence[SplitRecord], free: Sequence[SplitRecord]
) -> tuple[float, float]:
    """Return the shares of the free rows to train and validate on, for a `val` share of all usable rows."""
    usable = sum(row.split != QUARANTINE for row in rows)
    share = val * usable / len(free) if free else 0.0
    if share >= 1:
        raise UsageError(f"val {val} leaves nothing to train on", remedy="use a smaller share")
    return 1 - share, share


def _assign(
    rows: Sequence[SplitRecord],
    free: Sequence[SplitRecord],
    names: Sequence[str],
    shares: Sequence[float],
    rng: np.random.Generator,
) -> list[SplitRecord]:
    """Return `rows` with the free ones given to sets, whole groups at a time, near the wanted shares."""
    chosen = _hand_out(_class_counts(free), np.asarray(shares, dtype=np.float64), rng)
    return [row if row.split else replace(row, split=names[chosen[row.group]]) for row in rows]


def _class_counts(rows: Iterable[SplitRecord]) -> dict[str, NDArray[np.int64]]:
    counts: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(len(LABELS), dtype=np.int64))
    for row in rows:
        counts[row.group][index_of(row.label)] += 1
    return dict(sorted(counts.items()))


def _hand_out(
    groups: Mapping[str, NDArray[np.int64]], shares: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, int]:
    """Return the number of the set of each group, given the groups' scans per class.

    With n scans of a class in a set, w wanted there and T in all, a group of g raises ((n - w) / T)**2 by
    (2 g (n - w) + g**2) / T**2; the last term is the same for every set.
    """
    if not groups:
        return {}
    names = list(groups)
    counts = np.stack([groups[name] for name in names]).astype(np.float64)
    totals = np.maximum(counts.sum(axis=0), 1)
    excess = -shares[:, None] * totals
    open_sets = shares > 0
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    chosen = {}
    for group in order.tolist():
        rise = (excess * counts[group] / totals**2).sum(axis=1)
        best = int(np.argmin(np.where(open_sets, rise, np.inf)))
        excess[best] += counts[group]
        chosen[names[group]] = best
    return chosen
