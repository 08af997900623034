"""`octlet benchmark`."""

from pathlib import Path
from shlex import quote

import click

from octlet.cli.options import model_argument
from octlet.cli.ui import bar, json_option, next_step, print_json, say, table
from octlet.core.bundle import open_bundle
from octlet.core.files import writing_to
from octlet.runtime.benchmark import COLD_STARTS, ROUNDS, Benchmark, Row, run_benchmark
from octlet.runtime.benchmark_files import FIGURE, write_benchmark
from octlet.runtime.choice import Choice, config_path, read_choice, write_choice
from octlet.runtime.engine import ENGINES

_HEADERS = (
    "engine",
    "version",
    "threads",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "scans/s",
    "load s",
    "cold start s",
    "memory MB",
    "Celsius",
)


@click.command()
@model_argument
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(list(ENGINES)),
    help="Time this one; repeatable. All that can be used if not given.",
)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(min=1),
    help="CPU threads; repeatable. From 1 to all if not given.",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Calls to count of each."
)
@click.option(
    "--choose", is_flag=True, help="Keep the fastest in your configuration; 'octlet predict' takes it."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("octlet-benchmark"),
    show_default=True,
    help="Folder to write to.",
)
@json_option
def command(
    model: Path,
    engines: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    choose: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Time each engine that is installed with a model file on this machine.

    An engine that crashes, or that computes something else than the exporting machine did, is left out and
    named. The others take turns on one scan at a time, the network alone. Writes benchmark.csv,
    benchmark.json and benchmark.svg.
    """
    if choose:
        read_choice(config_path())  # a file that cannot be kept is told of before the work
    benchmark = run_benchmark(open_bundle(model), engines, threads, rounds=rounds, progress=bar)
    with writing_to(out):
        write_benchmark(out, benchmark)
    if as_json:
        print_json(benchmark.as_dict())
    else:
        _print(benchmark)
    _tell(benchmark, out)
    if choose:
        _keep(benchmark.fastest)
        next_step(f"octlet predict -m {quote(str(model))} SCAN_OR_FOLDER")
    else:
        next_step(f"octlet benchmark {quote(str(model))} --choose")


def _print(benchmark: Benchmark) -> None:
    click.echo(f"{benchmark.model['name']} on {benchmark.machine.name}\n")
    click.echo(table(_HEADERS, [_cells(row) for row in benchmark.rows]))
    fastest = benchmark.fastest
    click.echo(f"\nfastest: {fastest.engine}, threads: {fastest.threads}")
    click.echo(
        f"{fastest.calls} calls each, of one scan, the network alone, in turn; cold start: the median of "
        f"{COLD_STARTS} whole commands. Figures of this machine as it was."
    )


def _cells(row: Row) -> tuple[object, ...]:
    def shown(value: float | None, unit: float = 1.0, form: str = "#.3g") -> str:
        return "" if value is None else format(value / unit, form)

    return (
        row.engine,
        row.version or "",
        row.threads,
        *(shown(value) for value in (row.p50_ms, row.p95_ms, row.p99_ms, row.scans_per_second)),
        shown(row.load_s),
        shown(row.cold_start_s),
        shown(row.peak_bytes, 1e6, ".0f"),
        shown(row.celsius, form=".1f"),
    )


def _tell(benchmark: Benchmark, out: Path) -> None:
    for engine, why in benchmark.left_out.items():
        say(f"left out: {engine}: {why}")
    for name in benchmark.warnings:
        say(f"octlet: warning: {name} while it was measured; see 'octlet doctor', then measure again")
    say(f"wrote {out / FIGURE}, benchmark.csv and benchmark.json")


def _keep(row: Row) -> None:
    path = config_path()
    write_choice(path, Choice(row.engine, row.threads))
    say(f"chosen: {row.engine}, threads: {row.threads}, kept in {path}")
