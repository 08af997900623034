"""A benchmark as files: a table for a spreadsheet, a document for a program, a figure for people.

The figure is SVG written here, since a device has no drawing library.
"""

from collections.abc import Iterator
from dataclasses import asdict, fields
from html import escape
from pathlib import Path

from octlet.core.files import csv_of, write_json, write_text
from octlet.runtime.benchmark import Benchmark, Row

CSV_COLUMNS = tuple(field.name for field in fields(Row))
FIGURE = "benchmark.svg"

# Okabe and Ito's, told apart without colour vision; text stands beside every bar all the same.
_COLOURS = {"onnxruntime": "#0072B2", "litert": "#D55E00", "openvino": "#009E73"}
_LEFT, _WIDTH, _RIGHT, _BAR, _GAP, _TOP = 190, 420, 110, 18, 8, 64  # pixels


def write_benchmark(folder: Path, benchmark: Benchmark) -> None:
    """Write benchmark.csv, benchmark.json and benchmark.svg into a folder; OSError passes through."""
    write_text(folder / "benchmark.csv", benchmark_csv(benchmark))
    write_json(folder / "benchmark.json", benchmark.as_dict())
    write_text(folder / FIGURE, benchmark_svg(benchmark))


def benchmark_csv(benchmark: Benchmark) -> str:
    """Return one line for each row, in `CSV_COLUMNS`; what was not measured is empty."""
    return csv_of((asdict(row) for row in benchmark.rows), CSV_COLUMNS)


def benchmark_svg(benchmark: Benchmark) -> str:
    """Draw the medians as bars from zero, and from each a line to the 99th percentile, ticked at the 95th."""
    rows = benchmark.rows
    height = _TOP + len(rows) * (_BAR + _GAP) + 34
    width = _LEFT + _WIDTH + _RIGHT
    scale = _WIDTH / max(row.p99_ms for row in rows)
    title = f"{benchmark.model['name']} on {benchmark.machine.name}"
    note = f"bar: median; line: to the 99th percentile, tick: 95th; {rows[0].calls} calls of one scan each"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12" fill="#222">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="15">{escape(_cut(title))}</text>',
        '<text x="12" y="44" fill="#555">milliseconds for one scan, less is better</text>',
        *(line for i, row in enumerate(rows) for line in _bar(row, _TOP + i * (_BAR + _GAP), scale)),
        f'<text x="12" y="{height - 12}" fill="#555">{note}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(row: Row, top: int, scale: float) -> Iterator[str]:
    middle = top + _BAR / 2
    p50, p95, p99 = (_LEFT + scale * value for value in (row.p50_ms, row.p95_ms, row.p99_ms))
    threads = f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    size = f'width="{p50 - _LEFT:.1f}" height="{_BAR}"'
    yield f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{row.engine}, {threads}</text>'
    yield f'<rect x="{_LEFT}" y="{top}" {size} fill="{_COLOURS[row.engine]}"/>'
    yield f'<path d="M{p50:.1f} {middle}H{p99:.1f}M{p95:.1f} {middle - 5}v10" stroke="#222" fill="none"/>'
    yield f'<text x="{p99 + 6:.1f}" y="{middle + 4}">{row.p50_ms:.3g} ms</text>'


def _cut(text: str, most: int = 88) -> str:
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
