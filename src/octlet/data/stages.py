"""Check and split as whole steps: files in, files out. What the verbs and the recipes call."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octlet.core.errors import InputError
from octlet.core.files import sha256_of, write_json, write_text
from octlet.core.labels import LABELS
from octlet.data.audit import Audit, Finding, audit, findings
from octlet.data.audit_page import page
from octlet.data.duplicates import NearPair, near_duplicates
from octlet.data.index import Progress, Record, build_index, read_index, write_index
from octlet.data.source import open_source
from octlet.data.split import SplitRecord, check_leaks, make_folds, make_split, write_split


@dataclass(frozen=True)
class Checked:
    """What `check_scans` found; `document` is what it wrote to audit.json."""

    root: Path
    records: list[Record]
    near: list[NearPair]
    audit: Audit
    findings: list[Finding]
    document: dict[str, Any]


def check_scans(scans: Path, out: Path, progress: Progress = iter) -> Checked:
    """Index and audit the scans, and write index.csv, audit.json and audit.html into `out`.

    `progress` wraps the counting iterators: of all scans, then of those that look alike. Raises InputError
    for a source of no known layout; scans that cannot be read are in the audit.
    """
    source = open_source(scans)
    records, unreadable, unfit = build_index(source, progress)
    near = near_duplicates(source.root, records, progress)
    result = audit(records, unreadable, near, source.other_files, unfit)
    write_index(out / "index.csv", records)
    told = findings(result)
    document = {
        "source": str(scans),
        "index_sha256": sha256_of(out / "index.csv"),
        "findings": [vars(finding) for finding in told],
        **result.as_dict(),
    }
    write_json(out / "audit.json", document)
    write_text(out / "audit.html", page(result, records, source.root, scans.resolve().name))
    return Checked(source.root, records, near, result, told, document)


@dataclass(frozen=True)
class SplitMade:
    """Split files, what each holds, the scans' source as `check_scans` was given it, and what to note."""

    files: list[Path]
    summaries: list[dict[str, Any]]
    scans: str
    note: str


def split_index(
    index: Path,
    out: Path | None = None,
    *,
    folds: int | None = None,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    keep_given: bool = False,
    given: bool = False,
) -> SplitMade:
    """Split an index into one file, or one file a fold, checked for leaks before it is written.

    Args:
        index: index.csv; an audit.json beside it that is of this index gives the verified near duplicates.
        out: the file, or with `folds` the folder; beside the index if not given.
        folds: number of cross-validation folds, None for one split.
        shares: `val` and `test`, see `make_split` and `make_folds`.
        seed: of the shuffle.
        keep_given: keep the given test split.
        given: keep the given train, val and test split.
    """
    records = read_index(index)
    near, scans, note = _checked(index)
    if folds is None:
        how: dict[str, Any] = {**(shares or {}), "keep_given": keep_given, "given": given}
        made = [make_split(records, **how, seed=seed, near=near)]
        files = [out or index.with_name("split.csv")]
    else:
        made = make_folds(records, folds=folds, **(shares or {}), seed=seed, near=near)
        files = [(out or index.with_name("folds")) / f"fold-{number}.csv" for number in range(folds)]
    for file, rows in zip(files, made, strict=True):
        check_leaks(rows)
        write_split(file, rows)
    return SplitMade(files, [_summary(f, rows) for f, rows in zip(files, made, strict=True)], scans, note)


def _checked(index: Path) -> tuple[list[NearPair] | None, str, str]:
    """Return this index's verified near duplicates and source from audit.json, or why there are none."""
    file = index.with_name("audit.json")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["index_sha256"] == sha256_of(index):
            return [NearPair(**pair) for pair in document["near"]], document["source"], ""
        why = "is of another index"
    except FileNotFoundError:
        why = "is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("not an audit", path=file, remedy="run 'octlet data check' again") from error
    return (
        None,
        "DIR",
        f"{file} {why}: scans of close hashes are kept together without looking at their pixels",
    )


def _summary(file: Path, rows: Sequence[SplitRecord]) -> dict[str, Any]:
    sets: dict[str, Any] = {}
    for name in ("train", "val", "test", "quarantine"):
        inside = [row for row in rows if row.split == name]
        count = Counter(row.label for row in inside)
        sets[name] = {
            "scans": {label: count[label] for label in LABELS},
            "patients": {c: len({row.patient for row in inside if row.label == c}) for c in LABELS},
            "all_scans": len(inside),
            "all_patients": len({row.patient for row in inside}),
        }
    used = [name for name in ("train", "val", "test") if sets[name]["all_scans"]]
    groups = Counter(group for _, group in {(row.patient, row.group) for row in rows})
    return {
        "file": str(file),
        "sets": sets,
        "groups": len(groups),
        "largest_group_patients": max(groups.values()),
        "without": [f"{s} holds no {c}" for s in used for c, n in sets[s]["scans"].items() if not n],
        "quarantined": [{"path": row.path, "reason": row.reason} for row in rows if row.reason],
    }
