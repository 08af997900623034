"""`octlet pi`: a package for a device, and the way there."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from octlet.cli.options import model_argument
from octlet.cli.ui import bar, json_option, next_step, print_json, say, table
from octlet.core.bundle import open_bundle
from octlet.core.errors import UsageError
from octlet.core.files import sha256_of, writing_to
from octlet.pi.deb import deb_name, write_deb
from octlet.pi.deploy import deploy, look
from octlet.pi.package import Package, assemble, write_archive
from octlet.pi.remote import Remote
from octlet.pi.target import DEBIAN, GLIBC, Target
from octlet.pi.wheels import collect, own_wheel

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_HEADERS = ("engine", "threads", "p50 ms", "p95 ms", "scans/s", "load s", "cold start s", "memory MB")


@click.group()
def command() -> None:
    """Make a package for a Raspberry Pi, offline and whole; bring it there."""


def _contents_options(function: F) -> F:
    options = (
        click.option(
            "--engine",
            "engines",
            multiple=True,
            type=click.Choice(["litert", "openvino"]),
            help="Add an engine.",
        ),
        click.option("--no-serve", is_flag=True, help="Leave out the server and its service."),
        click.option(
            "--wheel", type=_FILE, help="Octlet's wheel; made of the Octlet that runs if not given."
        ),
        click.option(
            "--wheels",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Take every other wheel from this folder, not from pip's index.",
        ),
        click.option("--constraint", type=_FILE, help="Constraints file for pip: the versions to take."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command()
@model_argument
@click.option("--python", required=True, type=click.Choice(list(GLIBC)), help="Of the device: 'python3 -V'.")
@click.option(
    "--machine",
    type=click.Choice(list(DEBIAN)),
    default="aarch64",
    show_default=True,
    help="Its processor: 'uname -m'. x86_64 is for a PC.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["archive", "deb", "both"]),
    default="both",
    show_default=True,
    help="A tar archive with install.sh, or a Debian package.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("octlet-package"),
    show_default=True,
    help="Folder to write to.",
)
@_contents_options
@json_option
def package(
    model: Path, python: str, machine: str, form: str, out: Path, as_json: bool, **contents: Any
) -> None:
    """Make one package of a model file, Octlet and all it needs; the device needs no network.

    The archive holds install.sh, which checks every file, proves the model on the device and only then
    switches to it: 'sh install.sh', 'sh install.sh --rollback', 'sh install.sh --uninstall'. The Debian
    package does the same with 'apt install ./FILE.deb'. The same wheels and model give the same bytes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        made = _assemble(model, Target(python, machine), Path(scratch), **contents)
        written = _write(made, form, out)
    wheels = made.record["wheels"]
    result = {
        **made.record,
        "release": made.release,
        "unpacked_bytes": sum(wheel["unpacked"] for wheel in wheels),
        "written": [
            {"file": str(path), "sha256": sha256_of(path), "bytes": path.stat().st_size} for path in written
        ],
    }
    if as_json:
        print_json(result)
    else:
        rows = [(w["file"], f"{w['unpacked'] / 1e6:.1f}", w["sha256"]) for w in wheels]
        click.echo(table(("wheel", "unpacked MB", "SHA-256"), rows))
        click.echo(f"\n{result['unpacked_bytes'] / 1e6:.1f} MB unpacked, release {made.release}\n")
        rows = [(w["file"], f"{w['bytes'] / 1e6:.1f}", w["sha256"]) for w in result["written"]]
        click.echo(table(("written", "MB", "SHA-256"), rows))
    if form != "deb":
        next_step(f"octlet pi deploy USER@HOST --archive {written[0]}")
    else:
        next_step(f"on the device: sudo apt install ./{written[0].name}")


def _assemble(
    model: Path,
    target: Target,
    scratch: Path,
    *,
    engines: tuple[str, ...],
    no_serve: bool,
    wheel: Path | None,
    wheels: Path | None,
    constraint: Path | None,
) -> Package:
    open_bundle(model)  # a file that is no model is told of before the work
    extras = sorted({*engines, *(() if no_serve else ("serve",))})
    fetched = scratch / "wheels"
    fetched.mkdir()
    own = wheel or own_wheel(scratch, extras)
    found = collect(own, extras, target, fetched, source=wheels, constraint=constraint, progress=say)
    return assemble(model, found, target, service=not no_serve)


def _write(made: Package, form: str, out: Path) -> list[Path]:
    written = []
    with writing_to(out):
        if form != "deb":
            written.append(out / f"{made.folder}.tar")
            write_archive(made, written[-1])
        if form != "archive":
            written.append(out / deb_name(made))
            write_deb(made, written[-1])
    return written


@command.command(name="deploy")
@click.argument("host", metavar="USER@HOST")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--archive", type=_FILE, help="A package that was made before, in place of MODEL.")
@click.option("--prefix", default="/opt/octlet", show_default=True, help="Folder on the device.")
@click.option(
    "--no-service", is_flag=True, help="Start no service: needs no root with a --prefix of your own."
)
@click.option("--port", type=click.IntRange(1, 65535), help="Of ssh; its own configuration if not given.")
@click.option("--identity", type=_FILE, help="Private key; ssh's own choice if not given.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=100, show_default=True, help="Of the benchmark there."
)
@_contents_options
@json_option
def deploy_command(
    host: str,
    model: Path | None,
    archive: Path | None,
    prefix: str,
    no_service: bool,
    port: int | None,
    identity: Path | None,
    rounds: int,
    as_json: bool,
    **contents: Any,
) -> None:
    """Install on a device over ssh: copy, prove, switch, replay the golden vectors there, time it there.

    Give a MODEL, of which a package for that device is made, or an --archive. ssh must get in without a
    question: with a key, and the device's own key known. If anything fails, the version that ran still runs.
    """
    source = model or archive
    if source is None or (model and archive):
        raise UsageError("give a MODEL or an --archive, one of them", remedy="octlet pi deploy --help")
    remote = Remote(host, port, identity)
    there = look(remote)
    say(f"{host}: Python {there.target.python} on {there.target.machine}")
    with tempfile.TemporaryDirectory() as scratch:
        if model:
            contents["no_serve"] = contents["no_serve"] or no_service
            made = _assemble(model, there.target, Path(scratch), **contents)
            source = _write(made, "archive", Path(scratch))[0]
        result = deploy(
            remote,
            there,
            source,
            prefix=prefix,
            service=not no_service,
            rounds=rounds,
            say=say,
            progress=bar,
        )
    if as_json:
        print_json(result)
    else:
        _print(result)
    next_step(f"ssh {host} {prefix}/current/bin/octlet predict -m {prefix}/current/model.octlet SCAN")


def _print(result: dict[str, Any]) -> None:
    checks = [
        (c["name"], c["measured"], c["limit"], "ok" if c["passed"] else "FAILED")
        for c in result["verify"]["checks"]
    ]
    click.echo(f"{result['release']} on {result['host']}\n")
    click.echo(table(("check", "measured", "allowed", "result"), checks) + "\n")
    rows = [
        (row["engine"], row["threads"], *(_shown(row[key], unit, form) for key, unit, form in _COLUMNS))
        for row in result["benchmark"]["rows"]
    ]
    click.echo(table(_HEADERS, rows))


_COLUMNS = (
    ("p50_ms", 1.0, "#.3g"),
    ("p95_ms", 1.0, "#.3g"),
    ("scans_per_second", 1.0, "#.3g"),
    ("load_s", 1.0, "#.3g"),
    ("cold_start_s", 1.0, "#.3g"),
    ("peak_bytes", 1e6, ".0f"),
)


def _shown(value: float | None, unit: float, form: str) -> str:
    return "" if value is None else format(value / unit, form)
