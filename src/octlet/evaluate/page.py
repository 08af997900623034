"""The parts of a report page: one HTML file that needs nothing beside it, no script and no network."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from octlet.core.labels import NOTICE
from octlet.evaluate.figures import DARK, LIGHT, Theme


def _variables(theme: Theme, soft: str) -> str:
    # The page takes its paper and ink from the figures' theme, so that a figure has no visible edge.
    return (
        f"--paper: {theme.paper}; --ink: {theme.ink}; --line: {theme.faint}; --accent: {theme.bar}; "
        f"--warn: {theme.classes[0]}; --soft: {soft};"
    )


_STYLE = f"""
:root {{ color-scheme: light; {_variables(LIGHT, "#5a646b")} }}
.dark {{ display: none; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ color-scheme: dark; {_variables(DARK, "#9aa5ad")} }}
  .dark {{ display: block; }} .light {{ display: none; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 2.5rem 1.25rem 3rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }}
h1 {{ font-size: 1.7rem; font-weight: 600; margin: 0; }}
h2 {{ font-size: 1.15rem; font-weight: 600; margin: 2.6rem 0 .7rem; }}
p {{ margin: .3rem 0; max-width: 46rem; }}
.soft {{ color: var(--soft); }}
.notice {{ border-left: 3px solid var(--warn); padding-left: .8rem; margin-top: 1rem; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: 1rem;
  margin: 1.6rem 0; }}
.tile {{ border-top: 2px solid var(--accent); padding-top: .5rem; }}
.tile.warn {{ border-color: var(--warn); }}
.tile b {{ display: block; font-size: 1.8rem; font-weight: 600; line-height: 1.3; }}
.tile span {{ display: block; color: var(--soft); font-size: .85rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }}
th, td {{ padding: .32rem 1.3rem .32rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }}
th {{ font-weight: 500; color: var(--soft); white-space: nowrap; }}
td {{ overflow-wrap: anywhere; }} td.whole {{ white-space: nowrap; overflow-wrap: normal; }}
.under {{ display: block; color: var(--soft); font-size: .8rem; }}
figure {{ margin: 0; }} figure img {{ max-width: 100%; height: auto; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 2rem;
  align-items: start; margin-top: 2.4rem; }}
figcaption {{ font-size: .85rem; color: var(--soft); max-width: 46rem; }}
footer {{ margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .85rem; }}
@media print {{
  html {{ font-size: 11px; }} body {{ max-width: none; padding: 0; font-size: 1rem; }}
  .tiles {{ grid-template-columns: repeat(4, 1fr); }}
  h2, figcaption {{ break-after: avoid; }} figure, tr, .tile {{ break-inside: avoid; }}
  .pair {{ grid-template-columns: 1fr 1fr; }}
}}
@page {{ margin: 16mm; }}
"""


def document(title: str, lead: str, parts: Iterable[str], style: str = "") -> str:
    """Return a whole page; `parts` are HTML, `title` and `lead` plain text, `style` is CSS of its own.

    The notice stands twice.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="soft">{escape(lead)}</p>\n'
        f'<p class="notice">{escape(NOTICE)}</p>\n'
        + "\n".join(filter(None, parts))
        + f"\n<footer>{escape(NOTICE)}</footer>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Return a headed section; `parts` are HTML."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *filter(None, parts), "</section>"])


def paragraph(text: str) -> str:
    """Return plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of plain text; a cell of up to 24 characters is not broken over lines.

    What follows a line end in a cell stands below the rest, smaller.
    """
    cells = "".join(f"<th>{escape(word)}</th>" for word in headers)
    head = f"<thead><tr>{cells}</tr></thead>\n" if any(headers) else ""
    body = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>\n{head}<tbody>{body}</tbody>\n</table></div>'


def _cell(value: object) -> str:
    text, _, below = str(value).partition("\n")
    kind = ' class="whole"' if len(text) <= 24 else ""
    under = f'<span class="under">{escape(below)}</span>' if below else ""
    return f"<td{kind}>{escape(text)}{under}</td>"


def tiles(entries: Iterable[tuple[str, str, str, bool]]) -> str:
    """Return headline figures in a row, each (name, value, range, whether it warns)."""
    shown = (
        f'<div class="tile{" warn" * warns}"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<span>{escape(note)}</span></div>"
        for name, value, note, warns in entries
    )
    return '<div class="tiles">' + "\n".join(shown) + "</div>"


def figure(light: bytes, dark: bytes, alt: str, caption: str) -> str:
    """Return a figure from its PNG for light and for dark, of which the page shows the one that fits."""
    images = ""
    for name, png in (("light", light), ("dark", dark)):
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        images += f'<img class="{name}" alt="{escape(alt)}" src="{source}">'
    return f"<figure>\n{images}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def pair(*figures: str) -> str:
    """Return figures side by side where there is room."""
    return f'<div class="pair">{"".join(figures)}</div>'


def facts(values: Mapping[str, Any]) -> str:
    """Return a mapping as a two-column table; a mapping in it becomes one line."""
    lines = ((name, _one_line(value)) for name, value in values.items() if value is not None)
    return table([], lines) if values else ""


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_one_line(each)}" for key, each in value.items())
    return str(value)
