"""`make pi-check`: a package on a Debian of the device's architecture, from installation to removal.

Power is cut before every step of an upgrade that changes files, and while wheels are unpacked: what the disk
held then is started from, and the version that is found must work.
"""

import csv
import io
import os
import select
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import click

from octlet.cli.ui import say, table
from octlet.core.errors import GateError, OctletError
from octlet.core.files import write_text
from octlet.pi.deb import write_deb
from octlet.pi.package import Package, assemble, sums_of, write_archive
from octlet.pi.target import Target
from octlet.pi.wheels import collect, own_wheel
from pi.root import prepare
from pi.sandbox import Disk, Sandbox, need_root
from pi.service import run_service

STEPS = ("mkdir", "rm", "cp", "sed", "sync", "ln", "mv", "useradd", "flock")
_SHIM = '#!/bin/sh\necho "{name} $*" >/cut/ask\nread -r _ </cut/answer\nexec {real} "$@"\n'
_UNPACKED = "rm -rf /root/p; mkdir /root/p; tar -x -f /packages/{}.tar -C /root/p; sh /root/p/*/install.sh"
_SILENT = b"[Service]\nType=notify\nTimeoutStartSec=5\nExecStart=/usr/bin/sleep infinity\n"
_TOUCHES = (" /opt/octlet", "/etc/systemd", "sed s|@PREFIX@")
_SWITCH = "mv -fT /opt/octlet/current.new"
_HOME = "/opt/octlet/current"
_LIMIT = 160_000_000  # bytes of a base installation, without a model


@dataclass(frozen=True)
class Row:
    """What was done, whether it held, what was seen, and how long it took on this machine."""

    what: str
    held: bool
    seen: str
    seconds: int


class Check:
    """One root, two packages, a disk, and the rows that come of them."""

    def __init__(
        self, sandbox: Sandbox, disk: Disk, packages: tuple[Package, Package], scratch: Path
    ) -> None:
        self.sandbox, self.disk, self.scratch = sandbox, disk, scratch
        self.old, self.new = packages
        self.rows: list[Row] = []
        self.parts = scratch / "packages"
        self.parts.mkdir(parents=True)
        for name, package in (("old", self.old), ("new", self.new)):
            write_archive(package, self.parts / f"{name}.tar")
            write_deb(package, self.parts / f"{name}.deb")

    def row(self, what: str, act: Callable[[], str]) -> None:
        """Do something; it held unless it raised."""
        say(what)
        began = time.monotonic()
        try:
            seen, held = act(), True
        except OctletError as error:
            seen, held = str(error), False
            say(f"FAILED: {error}")
        self.rows.append(Row(what, held, seen, round(time.monotonic() - began)))

    def inside(self, root: Path, *command: object, path: str = "") -> str:
        """Run a command in the root; return what it said, OctletError if it fails."""
        settings = {"PATH": f"{path}/usr/sbin:/usr/bin:/sbin:/bin"} if path else {}
        binds = [self.parts, *([self.scratch / "cut"] if path else [])]
        code, said = self.sandbox.run(root, command, binds, **settings)
        if code:
            raise OctletError(f"exit code {code}: {said.strip()[-300:]}")
        return said

    def works(self, root: Path, package: Package | None = None) -> str:
        """Return which release runs and that it replays its golden vectors; OctletError if it does not."""
        self.inside(root, f"{_HOME}/bin/octlet", "verify", f"{_HOME}/model.octlet", "--json")
        release = str((root / _HOME[1:]).readlink()).removeprefix("releases/")
        if package is not None and release != package.release:
            raise OctletError(f"{release} runs, not {package.release}")
        return f"{release} verifies"

    def install(self, root: Path, name: str, path: str = "") -> str:
        """Unpack an archive as a user would, and install it."""
        return self.inside(root, "sh", "-euc", _UNPACKED.format(name), path=path).strip().splitlines()[-1]

    # What is done ------------------------------------------------------------------------------------

    def archive(self, scan: Path) -> None:
        """Install, predict, upgrade with cuts, roll back, remove."""
        self.disk.make(1500)
        shutil.copy(scan, self.parts / "scan.png")
        cuts: list[tuple[str, Path]] = []
        with self.disk.mounted() as root:
            self.row("archive: install", lambda: self.install(root, "old"))
            self.row("archive: it works", lambda: self.works(root, self.old))
            self.row("size of the installation, without the model", lambda: self.size(root))
            self.row("predict", lambda: self.predict(root))
            self.row("archive: upgrade", lambda: self.traced_upgrade(root, cuts))
            self.row("archive: the new version works", lambda: self.works(root, self.new))
            self.row("roll back", lambda: self.rolled_back(root))
            self.row("the old version works again", lambda: self.works(root, self.old))
            self.row("archive: remove", lambda: self.removed(root))
        for step, image in cuts:
            self.row(f"power cut before: {step}", lambda image=image: self.after_cut(image))  # type: ignore[misc]
            image.unlink()

    def debian(self) -> None:
        """Install with dpkg, upgrade, cut the power in the middle, recover, remove, purge."""
        self.disk.make(1500)
        cuts: list[tuple[str, Path]] = []
        with self.disk.mounted() as root:
            self.row("deb: install", lambda: self.dpkg(root, "--install", "/packages/old.deb"))
            self.row("deb: it works", lambda: self.works(root, self.old))
            self.row("deb: upgrade", lambda: self.traced_deb(root, cuts))
            self.row("deb: the new version works", lambda: self.works(root, self.new))
            self.row("deb: remove", lambda: self.dpkg(root, "--remove", "octlet"))
            self.row("deb: purge", lambda: self.purged(root))
        for step, image in cuts:
            with self.disk.mounted(image) as root:
                self.row(f"deb, power cut before: {step}", lambda root=root: self.works(root))  # type: ignore[misc]
                self.row("deb: 'dpkg --configure -a' after it", lambda root=root: self.recovered(root))  # type: ignore[misc]
            image.unlink()

    def service(self, scan: Path) -> None:
        """Run the service under systemd; the version that does not start says that it is never ready."""
        silent = {**self.new.contents, "octlet-serve.service": _SILENT}
        write_archive(replace(self.new, contents=silent, sums=sums_of(silent)), self.parts / "silent.tar")
        self.disk.make(1500)
        with self.disk.mounted() as root:
            self.row("service: install", lambda: self.install(root, "old"))
            for what, held, seen, spent in run_service(root, self.parts, scan):
                self.rows.append(Row(f"service: {what}", held, seen, spent))

    def size(self, root: Path) -> str:
        """Return the bytes of the installed version; OctletError if they are too many."""
        release = root / "opt/octlet/releases" / self.old.release
        model = (release / "model.octlet").stat().st_size
        size = sum(path.lstat().st_size for path in release.rglob("*") if not path.is_dir()) - model
        if self.old.target.machine == "aarch64" and size > _LIMIT:
            raise OctletError(f"{size / 1e6:.1f} MB, over {_LIMIT / 1e6:.0f}")
        return f"{size / 1e6:.1f} MB"

    def predict(self, root: Path) -> str:
        """Classify the scan; return the line that tells its label."""
        command = [f"{_HOME}/bin/octlet", "predict", "-m", f"{_HOME}/model.octlet", "/packages/scan.png"]
        return next(line for line in self.inside(root, *command).splitlines() if "scan.png" in line)

    def rolled_back(self, root: Path) -> str:
        """Go back; return what the installer said at its end."""
        return self.inside(root, "sh", f"{_HOME}/install.sh", "--rollback").strip().splitlines()[-1]

    def removed(self, root: Path) -> str:
        """Remove; return that nothing is left, OctletError if something is."""
        self.inside(root, "sh", f"{_HOME}/install.sh", "--uninstall")
        left = [
            path
            for path in ("opt/octlet", "etc/systemd/system/octlet-serve.service")
            if os.path.lexists(root / path)
        ]
        if left:
            raise OctletError(f"left behind: {', '.join(left)}")
        return "nothing is left but the user 'octlet'"

    def dpkg(self, root: Path, *words: str, path: str = "") -> str:
        """Run dpkg; return what the installer said at its end."""
        lines = self.inside(root, "dpkg", *words, path=path).strip().splitlines()
        told = [line for line in lines if line.startswith("octlet install: done")]
        return told[-1] if told else "done"

    def purged(self, root: Path) -> str:
        """Purge; return that nothing is left, OctletError if something is."""
        self.dpkg(root, "--purge", "octlet")
        left = [
            path for path in ("opt/octlet", "etc/octlet", "usr/bin/octlet") if os.path.lexists(root / path)
        ]
        if left or "octlet" in (root / "etc/passwd").read_text():
            raise OctletError(f"left behind: {', '.join(left) or 'the user'}")
        return "nothing is left"

    def recovered(self, root: Path) -> str:
        """Let dpkg end what was cut off; return the release that runs then."""
        self.dpkg(root, "--configure", "-a")
        return self.works(root, self.new)

    # Cutting the power -------------------------------------------------------------------------------

    def after_cut(self, image: Path) -> str:
        """Start from what was on the disk; return the release that works there."""
        with self.disk.mounted(image) as root:
            return self.works(root)

    def traced_upgrade(self, root: Path, cuts: list[tuple[str, Path]]) -> str:
        """Upgrade from the archive, with a copy of the disk before each step."""
        with self.traced(root, cuts) as path:
            return self.install(root, "new", path=path)

    def traced_deb(self, root: Path, cuts: list[tuple[str, Path]]) -> str:
        """Upgrade with dpkg, with a copy of the disk before each step."""
        with self.traced(root, cuts, everywhere=False) as path:
            return self.dpkg(root, "--install", "/packages/new.deb", path=path)

    @contextmanager
    def traced(self, root: Path, cuts: list[tuple[str, Path]], *, everywhere: bool = True) -> Iterator[str]:
        """Yield a PATH whose programs wait until the disk was copied; a copy each, and more in between.

        Not `everywhere`: only on both sides of the switch. Copies take seconds, in which the kernel brings
        what was written to the disk of its own accord: with few of them a missing sync is found.
        """
        folder = self.scratch / "cut"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("ask", "answer"):
            os.mkfifo(folder / name)
        for name in STEPS:
            real = next(
                (f"/{each}/{name}" for each in ("usr/bin", "usr/sbin") if (root / each / name).exists()), None
            )
            if real:
                (folder / name).write_text(_SHIM.format(name=name, real=real))
                (folder / name).chmod(0o755)
        child = os.fork()
        if child == 0:
            self._answer(folder, everywhere)
        try:
            yield "/cut:"
        finally:
            (folder / "ask").write_text("end\n")
            os.waitpid(child, 0)
        for line in (folder / "cuts").read_text().splitlines():
            image, _, step = line.partition(" ")
            cuts.append((step, Path(image)))

    def _answer(self, folder: Path, everywhere: bool) -> None:
        """Copy the disk whenever a step begins, and every ten seconds of a long one; never returns."""
        log = (folder / "cuts").open("w")
        ask = os.open(folder / "ask", os.O_RDWR)
        last, number, waited = "the first step", 0, 0
        while True:
            ready = select.select([ask], [], [], 10)[0]
            step = os.read(ask, 4096).decode().strip() if ready else f"(while after) {last}"
            if step == "end":
                log.close()
                os._exit(0)
            waited = 0 if ready else waited + 1
            if everywhere:
                wanted = waited <= 3 and (any(word in step for word in _TOUCHES) or step.startswith("cp"))
            else:
                wanted = bool(ready) and any(_SWITCH in each for each in (step, last))
            if wanted:
                number += 1
                log.write(f"{self.disk.cut(f'cut-{number}')} {step}\n")
                log.flush()
            if ready:
                last = step
                (folder / "answer").write_text("\n")


def newer(wheel: Path, folder: Path) -> Path:
    """Write Octlet's wheel again as a later version of itself: something to upgrade to."""
    name, version, rest = wheel.name.split("-", 2)
    later = folder / f"{name}-{version}.post1-{rest}"
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(later, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith(".dist-info/METADATA"):
                data = data.replace(
                    f"\nVersion: {version}\n".encode(), f"\nVersion: {version}.post1\n".encode()
                )
            renamed = entry.filename.replace(
                f"octlet-{version}.dist-info", f"octlet-{version}.post1.dist-info"
            )
            new.writestr(zipfile.ZipInfo(renamed), data)
    return later


def packages(
    model: Path, target: Target, scratch: Path, constraint: Path, *, serve: bool
) -> tuple[Package, Package]:
    """Make two packages of one model, of Octlet as it runs here and as a later version."""
    made = []
    extras = ("serve",) if serve else ()
    own = own_wheel(scratch, extras)
    for wheel in (own, newer(own, scratch)):
        folder = Path(tempfile.mkdtemp(dir=scratch))
        wheels = collect(wheel, extras, target, folder, constraint=constraint, progress=say)
        made.append(assemble(model, wheels, target, service=serve))
    return made[0], made[1]


def record(path: Path, system: str, rows: Sequence[Row]) -> None:
    """Write the rows of a system into a CSV file; those of others stay."""
    header = ["system", *(field.name for field in fields(Row))]
    lines = list(csv.reader(path.read_text().splitlines()))[1:] if path.exists() else []
    lines = [line for line in lines if line[0] != system] + [
        [system, *map(str, astuple(row))] for row in rows
    ]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([header, *lines])
    write_text(path, written.getvalue())


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("scan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--python", default="3.11", show_default=True, help="3.11: Debian 12; 3.13: Debian 13.")
@click.option(
    "--here", is_flag=True, help="This machine's own system and processor: quick, nothing emulated."
)
@click.option("--work", type=click.Path(path_type=Path), default=Path(".arm"), show_default=True)
@click.option(
    "--constraint", type=click.Path(path_type=Path), default=Path("constraints.txt"), show_default=True
)
@click.option("--no-serve", is_flag=True, help="Without the server.")
@click.option("--out", type=click.Path(path_type=Path), help="CSV file to write.")
def main(
    model: Path,
    scan: Path,
    python: str,
    here: bool,
    work: Path,
    constraint: Path,
    no_serve: bool,
    out: Path | None,
) -> None:
    """Install, upgrade, cut the power of, roll back and remove a package of MODEL; classify SCAN with it."""
    work = work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    need_root()
    if here:
        root, emulator, target = Path("/"), None, Target(python, os.uname().machine)
    else:
        root, emulator = prepare(work, python)
        target = Target(python)
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        pair = packages(model, target, Path(scratch), constraint, serve=not no_serve)
        check = Check(Sandbox(emulator, Path(scratch)), Disk(work / "pi-disk", root), pair, Path(scratch))
        check.archive(scan)
        check.debian()
        if here and not no_serve:
            check.service(scan)
    shutil.rmtree(work / "pi-disk")
    header = [field.name for field in fields(Row)]
    click.echo(table(header, [astuple(row) for row in check.rows]))
    if out is not None:
        record(
            out, f"Python {python}, {'this machine' if here else 'emulated'}, {target.machine}", check.rows
        )
    failed = sum(not row.held for row in check.rows)
    if failed:
        say(f"pi-check: {GateError(f'{failed} of {len(check.rows)} steps failed')}")
        sys.exit(GateError.exit_code)
