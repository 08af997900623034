"""The page: one HTML file without script, network or anything beside it, one sheet of A4 when it is printed.

Nothing on it is told by colour alone. Text from outside (names of files, the model, a title) is escaped and
cut to a length that fits. Without a date the same scans and model give the same bytes.
"""

import base64
from collections.abc import Iterable
from html import escape
from importlib.resources import files

from octlet import __version__
from octlet.core import quality
from octlet.core.labels import LABELS, NAMES, NOTICE
from octlet.core.prediction import NOT_OCT, POOR, UNCERTAIN, Prediction
from octlet.report.eye import Eye, Seen
from octlet.report.facts import Facts
from octlet.report.picture import heat_png, scan_png

THUMBNAIL = 300  # pixels
FIGURES, FEWER_FIGURES = 8, 5  # of the model's performance: what there is room for
_SIDES = {"R": "right eye", "L": "left eye"}

# told apart by shape: a filled triangle, a filled square, a ring, a question mark
_SIGNS = {
    "urgent": '<path d="M24 4 46 44H2Z" fill="#b34700"/>'
    '<path d="M24 18v13M24 36v4" stroke="#fff" stroke-width="4"/>',
    "routine": '<path d="M6 6H42V42H6Z" fill="#0072b2"/><path d="M14 24H34" stroke="#fff" stroke-width="4"/>',
    "observation": '<circle cx="24" cy="24" r="18" fill="none" stroke="#007a5a" stroke-width="5"/>',
    "unknown": '<path d="M24 3 45 24 24 45 3 24Z" fill="none" stroke="#1f2428" stroke-width="3"/>'
    '<path d="M18 19a6 6 0 1 1 6 7v4M24 33v4" fill="none" stroke="#1f2428" stroke-width="4"/>',
}


def page(eye: Eye, facts: Facts, *, title: str = "", date: str = "") -> str:
    """Return the page as HTML; `title` is a caption and `date` a text, both may be empty."""
    heading = _cut(title or eye.name, 90)
    parts = [
        f"<header><h1>{escape(heading)}</h1>{_lead(eye, title, date)}</header>",
        _verdict(eye),
        _pictures(eye, facts),
        f'<div class="columns">{_probabilities(eye, facts)}{_reliance(eye, facts)}</div>',
        _strip(eye.seen[1:]) if eye.whole is not None else "",
        _model(facts, FIGURES if eye.whole is None else FEWER_FIGURES),
    ]
    style = (files("octlet.report") / "style.css").read_text(encoding="utf-8")
    notice = f'<p class="notice">{escape(NOTICE)}</p>'
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(heading)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{notice}\n"
        f'<main class="{"scan" if eye.whole is None else "eye"}">\n'
        + "\n".join(filter(None, parts))
        + f"\n</main>\n<footer>{notice}Made by Octlet {__version__}. It is a model's answer, not a finding: "
        "somebody who is trained to has to look at the scan.</footer>\n</body>\n</html>\n"
    )


def _cut(text: str, length: int) -> str:
    """Shorten in the middle: names differ at their ends."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def _lead(eye: Eye, title: str, date: str) -> str:
    whole = eye.whole
    told = [_cut(eye.name, 90)] if title else []
    if whole is not None:
        told += [_SIDES[whole.eye]] if whole.eye in _SIDES else []
        told += [f"subject {whole.subject}"] if whole.subject else []
        told += [f"{whole.scans} B-scans" + (f", {whole.refused} of them refused" if whole.refused else "")]
    told += [f"report of {date}"] if date else []
    return f'<p class="soft">{escape(" · ".join(told))}</p>' if told else ""


def _verdict(eye: Eye) -> str:
    if eye.abstain in (NOT_OCT, POOR):
        head = f"Refused: {eye.abstain}"
        said = f"{eye.explanation} No class is given, and nothing follows from this scan."
    elif eye.abstain == UNCERTAIN:
        members = (eye.first.set if eye.whole is None else None) or (eye.label,)
        head = f"Uncertain: {' or '.join(members)}"
        said = eye.explanation
    else:
        head = f"{eye.label}, {NAMES[eye.label]}" if eye.label != "NORMAL" else "NORMAL"
        said = eye.explanation
    sign = f'<svg viewBox="0 0 48 48" aria-hidden="true">{_SIGNS[eye.urgency]}</svg>'
    return (
        f'<section class="verdict {eye.urgency}">{sign}<div><strong>{escape(head)}</strong>'
        f"<p>Urgency: <b>{eye.urgency}</b>. {escape(_cut(said, 260))}</p></div></section>"
    )


def _pictures(eye: Eye, facts: Facts) -> str:
    first = eye.seen[0]
    name = "The scan."
    if eye.whole is not None:
        name = f"The most pressing B-scan, {_short(first.prediction, 60)}"
    scan = _figure(scan_png(first.gray), "the scan", name)
    if first.prediction.refused:  # where a class was seen that is not given would mislead
        return f'<div class="pair">{scan}</div>'
    label = first.prediction.label
    heat = heat_png(first.gray, first.cam, facts.grid, first.box, label)
    seen = _figure(heat, f"the scan with the map of {label}", f"Where the model saw {label}.")
    note = (
        "The stronger, the lighter the orange; the line encloses what has at least half of the full "
        "strength. It is what the model summed up, not the outline of a lesion."
    )
    return f'<div class="pair">{scan}{seen}</div><p class="small soft">{note}</p>'


def _figure(png: bytes, alt: str, caption: str) -> str:
    source = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _probabilities(eye: Eye, facts: Facts) -> str:
    heading = "Probabilities, not calibrated" if facts.coverage is None else "Calibrated probabilities"
    refused = eye.abstain in (NOT_OCT, POOR)
    members = eye.first.set if eye.whole is None else None
    note = ""
    if eye.whole is not None:
        note = "Means over the neighbouring B-scans that decided."
    elif members is not None and not refused:
        note = "Filled: in the set. Hollow: ruled out."
    if refused:
        heading, members = "Computed before the refusal, for the record only", ()
    rows = "".join(_bar(label, eye.probabilities[label], label == eye.label, members) for label in LABELS)
    return f'<section><h2>{heading}</h2><table>{rows}</table><p class="small soft">{note}</p></section>'


def _bar(label: str, share: float, first: bool, members: tuple[str, ...] | None) -> str:
    width = max(100 * share, 0.6)
    fill = "#fff" if members is not None and label not in members else "#0072b2"
    bar = (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<path d="M0 9.5H100" stroke="#c9d0d4" vector-effect="non-scaling-stroke"/>'
        f'<path d="M0 1H{width:.2f}V9H0Z" fill="{fill}" stroke="#0072b2" vector-effect="non-scaling-stroke"/>'
        "</svg>"
    )
    kind = ' class="first"' if first else ""
    name = label
    if NAMES[label] != label.lower():
        name += f'<br><span class="small soft">{NAMES[label]}</span>'
    return (
        f'<tr{kind}><th>{name}</th><td class="bar">{bar}</td><td class="number">{100 * share:.1f} %</td></tr>'
    )


def _reliance(eye: Eye, facts: Facts) -> str:
    """Return how far to rely on it: the set in words, and the quality of the scan."""
    scan = eye.first
    said = _set_in_words(scan, facts) if eye.whole is None else _set_of_eye(facts)
    measured = scan.quality
    fault = measured.fault or "Good enough to be judged."
    rows = [
        ("contrast, grey levels", f"{measured.contrast:.0f}", f"at least {quality.BLANK:.0f}"),
        ("white", _percent(measured.saturated, 1), f"at most {_percent(quality.SATURATED)}"),
        ("noise, of the contrast", _percent(measured.noise, 1), f"at most {_percent(quality.NOISY)}"),
        ("columns cut off", _percent(measured.cut), f"at most {_percent(quality.CUT)}"),
        ("columns empty", _percent(measured.empty), f"at most {_percent(quality.EMPTY)}"),
        ("upright, -1 to 1", f"{measured.upright:.1f}", f"at least {quality.UPRIGHT:.1f}"),
    ]
    cells = "".join(
        f'<tr><th>{name}</th><td class="number">{value}</td><td class="number soft">{limit}</td></tr>'
        for name, value, limit in rows
    )
    what = "Quality of the B-scan shown" if eye.whole else "Quality of the scan"
    return (
        f"<section><h2>What cannot be ruled out</h2><p>{escape(said)}</p><h2>{what}</h2>"
        f'<p>{escape(fault)}</p><table class="small">{cells}</table></section>'
    )


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _set_in_words(scan: Prediction, facts: Facts) -> str:
    if scan.set is None or facts.coverage is None:
        return "Not known: the model file was never calibrated, so it gives no set of classes."
    if scan.refused:
        return "Everything: the scan was refused."
    told = _percent(facts.coverage)
    if not scan.set:
        return f"No class reaches the {told} set. The scan is unlike those that the set was fitted on."
    ruled = [label for label in LABELS if label not in scan.set]
    rest = f" {_joined(ruled, 'and')} can be ruled out at that level." if ruled else ""
    one = "is" if len(scan.set) == 1 else "are"
    return (
        f"{_joined(scan.set, 'and')} {one} in the {told} set: of scans like those that it was fitted on, "
        f"{told} have their class in such a set.{rest}"
    )


def _set_of_eye(facts: Facts) -> str:
    if facts.coverage is None:
        return "Not known: the model file was never calibrated, so it gives no set of classes."
    return "Sets hold for single B-scans and stand with them. For the whole eye there is none."


def _joined(words: Iterable[str], last: str) -> str:
    *front, end = words
    return f"{', '.join(front)} {last} {end}" if front else end


def _short(said: Prediction, length: int) -> str:
    """Return a B-scan's name and what was said of it."""
    verdict = said.abstain or f"{said.label} {_percent(said.probabilities[said.label])}"
    members = ""
    if said.set and not said.refused:
        members = f"; set: {'all' if len(said.set) == len(LABELS) else ' '.join(said.set)}"
    return f"{_cut(said.file, length)}: {verdict}{members}"


def _strip(seen: Iterable[Seen]) -> str:
    """Return the next most pressing B-scans, small."""
    row = "".join(
        _figure(scan_png(each.gray, THUMBNAIL), "a B-scan", _short(each.prediction, 20)) for each in seen
    )
    if not row:
        return ""
    return f'<section><h2>The most pressing B-scans after it</h2><div class="strip">{row}</div></section>'


def _model(facts: Facts, most: int) -> str:
    trained = f" Trained on {facts.data}." if facts.data else ""
    fitted = f" Calibrated on {facts.fitted:,} held-out scans." if facts.fitted else ""
    rows = "".join(
        f'<tr><th>{escape(_cut(name, 40))}</th><td class="number">{escape(text)}</td></tr>'
        for name, text in facts.figures[:most]
    )
    said = "95 % intervals in brackets." if facts.intervals else "The model file states no intervals."
    known = f"<table>{rows}</table>" if rows else "<p>The model file tells nothing of its performance.</p>"
    return (
        f'<div class="columns small"><section><h2>Model</h2><p>{escape(_cut(facts.name, 60))}, '
        f"computed by {escape(facts.engine)}.{escape(trained + fitted)}</p>"
        f"<p>SHA-256 <code>{escape(facts.sha256)}</code></p><p>{said} Figures of a validation fold flatter. "
        "How it does on other scanners, diseases or patients is not known.</p></section>"
        f"<section><h2>Its known performance</h2>{known}</section></div>"
    )
