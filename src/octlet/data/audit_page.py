"""The audit as one HTML file that needs nothing beside it: no script, no network, thumbnails within."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from octlet.core.labels import LABELS, NAMES
from octlet.data.audit import Audit, Finding, findings
from octlet.data.index import Record
from octlet.data.source import read_pixels
from octlet.evaluate.figures import DARK, LIGHT, Theme
from octlet.evaluate.page import document

PER_CLASS = 6
MOST_SHOWN = 24  # of pairs and sets with pictures; audit.json holds them all
_THUMBNAIL = (220, 150)
_STYLE = """
h3 { font-size: .95rem; font-weight: 600; margin: 1.2rem 0 .4rem; }
.finding { border-left: 4px solid var(--accent); padding: .2rem 1rem; margin: 1rem 0; }
.finding.serious { border-color: var(--warn); } .finding b { font-weight: 600; }
.kind { float: right; margin-left: 1rem; font-size: .78rem; color: var(--soft); }
.serious .kind { color: var(--warn); }
th, td { text-align: right; } th:first-child, td:first-child { text-align: left; }
.bar { display: flex; width: 15rem; height: .8rem; border-radius: 3px; overflow: hidden; }
.key { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .4rem; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; }
.strip img { display: block; width: 100%; height: 6.4rem; object-fit: contain; background: #000;
            border-radius: 4px; }
.strip figcaption { font-size: .75rem; overflow-wrap: anywhere; margin-top: .2rem; }
.sets { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 0 2rem; }
.set { border-top: 1px solid var(--line); padding: .7rem 0; min-width: 0; }
li { overflow-wrap: anywhere; }
"""


def _class_colours(theme: Theme) -> str:
    return " ".join(f"--{label}: {colour};" for label, colour in zip(LABELS, theme.classes, strict=True))


_COLOURS = (
    f":root {{ {_class_colours(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_class_colours(DARK)} }} }}\n"
)


def page(audit: Audit, records: Sequence[Record], root: Path, name: str) -> str:
    """Return the page about the scans called `name`; reads those it shows, InputError if one is gone."""
    by_path = {record.path: record for record in records}
    sections = [
        _findings(findings(audit)),
        _classes(audit),
        _shapes(audit),
        _samples(records, root),
        _sets("Conflicting labels", [conflict.paths for conflict in audit.conflicts], by_path, root),
        _sets("Near duplicates", [(pair.a, pair.b) for pair in audit.near], by_path, root),
        _sets("Exact duplicates", audit.exact, by_path, root),
        _unfit(audit, by_path, root),
        _listing("Unreadable scans", (f"{entry.path}: {entry.reason}" for entry in audit.unreadable)),
        _listing("Crossing the given splits", (f"{c.name}: {', '.join(c.splits)}" for c in audit.crossings)),
    ]
    patients = f"{audit.patients:,} known patients" if audit.patients else "patients unknown"
    lead = f"{name}: {audit.scans:,} scans, {patients}"
    return document("Data check", lead, sections, _STYLE + _COLOURS)


def _findings(told: Sequence[Finding]) -> str:
    cards = [
        f'<div class="finding{" serious" * finding.serious}">'
        f'<span class="kind">{"needs care" if finding.serious else "good to know"}</span>'
        f"<p><b>{escape(finding.title)}</b></p><p>{escape(finding.why)}</p>"
        f'<p class="soft">{escape(finding.action)}</p></div>'
        for finding in told
    ]
    return "<h2>Findings</h2>\n" + ("\n".join(cards) or "<p>Nothing to object to.</p>")


def _classes(audit: Audit) -> str:
    splits = [split for split in audit.splits if split] if len(audit.splits) > 1 else []
    rows = []
    for label in LABELS:
        count = audit.classes[label]
        given = [audit.splits[split][label] for split in splits]
        full = "" if NAMES[label].upper() == label else f' <span class="soft">{escape(NAMES[label])}</span>'
        name = f"{_key(label)}{label}{full}"
        rows.append([name, *(f"{number:,}" for number in (count["scans"], count["patients"], *given))])
    return "<h2>Classes</h2>\n" + _table(["class", "scans", "patients", *(f"in {s}" for s in splits)], rows)


def _shapes(audit: Audit) -> str:
    rows = []
    common = sorted(audit.shapes.items(), key=lambda item: -sum(item[1].values()))
    for shape, counts in common[:MOST_SHOWN]:
        total = sum(counts.values())
        parts = "".join(
            f'<span style="width:{100 * counts[label] / total:.2f}%;background:var(--{label})"></span>'
            for label in LABELS
        )
        bar = f'<div class="bar">{parts}</div>'
        rows.append([shape, f"{total:,}", *(f"{counts[label]:,}" for label in LABELS), bar])
    note = (
        f"Guessing by shape alone is right for {audit.shape_accuracy:.1%} of these scans, always guessing "
        f"the most frequent class for {audit.majority_accuracy:.1%}."
    )
    more = f" {len(common) - MOST_SHOWN} rarer shapes are in audit.json." if len(common) > MOST_SHOWN else ""
    headers = ["width x height", "scans", *(f"{_key(label)}{label}" for label in LABELS), ""]
    return f"<h2>Shapes</h2>\n{_table(headers, rows)}\n<p class='soft'>{note}{more}</p>"


def _samples(records: Sequence[Record], root: Path) -> str:
    parts = ["<h2>Sample scans</h2>"]
    for label in LABELS:
        first = list({r.patient: r for r in reversed(records) if r.label == label}.values())[::-1]
        if first:
            step = max(1, len(first) // PER_CLASS)
            strip = "".join(_figure(record, root) for record in first[::step][:PER_CLASS])
            parts.append(f'<h3>{_key(label)}{label}</h3>\n<div class="strip">{strip}</div>')
    return "\n".join(parts)


def _sets(title: str, sets: Sequence[Iterable[str]], by_path: dict[str, Record], root: Path) -> str:
    if not sets:
        return ""
    shown = []
    for paths in sets[:MOST_SHOWN]:
        figures = "".join(_figure(by_path[path], root) for path in list(paths)[:PER_CLASS])
        shown.append(f'<div class="set"><div class="strip">{figures}</div></div>')
    return f'<h2>{title}</h2>\n<div class="sets">' + "\n".join(shown) + "</div>" + _more(len(sets))


def _unfit(audit: Audit, by_path: dict[str, Record], root: Path) -> str:
    if not audit.unfit:
        return ""
    shown = (_figure(by_path[scan.path], root, scan.reason) for scan in audit.unfit[:MOST_SHOWN])
    strip = f'<div class="strip">{"".join(shown)}</div>'
    return "<h2>Unfit to be judged</h2>\n" + strip + _more(len(audit.unfit))


def _listing(title: str, lines: Iterable[str]) -> str:
    listed = list(lines)
    items = "".join(f"<li>{escape(line)}</li>" for line in listed[:MOST_SHOWN])
    return f"<h2>{title}</h2>\n<ul>{items}</ul>" + _more(len(listed)) if listed else ""


def _more(count: int) -> str:
    return f'<p class="soft">And {count - MOST_SHOWN:,} more in audit.json.</p>' if count > MOST_SHOWN else ""


def _figure(record: Record, root: Path, note: str = "") -> str:
    image = Image.fromarray(read_pixels(root, record.path))
    image.thumbnail(_THUMBNAIL)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=75)
    source = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    path = escape(record.path)
    about = f"{record.label}, {record.width}x{record.height}" + (note and f"<br>{escape(note)}")
    return f'<figure><img src="{source}" alt="{path}"><figcaption>{path}<br>{about}</figcaption></figure>'


def _key(label: str) -> str:
    return f'<span class="key" style="background:var(--{label})"></span>'


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in headers)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'
