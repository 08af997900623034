"""An aarch64 userland with Octlet in it, and a command that runs its Python on an emulated Cortex-A76.

No Docker, no chroot, no pip under emulation: Debian packages and aarch64 wheels are unpacked, and QEMU looks
files up in the unpacked root first (`-L`). Everything lies in one folder; what is there is kept.
"""

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from arm.debian import Apt
from octlet.core.errors import OctletError, UsageError
from octlet.core.files import sha256_of, write_text

PROJECT = Path(__file__).resolve().parents[2]
CPU = "cortex-a76"  # of the Raspberry Pi 5
RELEASES = {"3.11": "bookworm", "3.13": "trixie"}  # Raspberry Pi OS follows these Debians
_LIBRARIES = ("libstdc++6", "libgomp1", "libatomic1")
_QEMU_RELEASE = "bookworm"  # QEMU 7.2: the emulator, and its interface to plugins, are the same everywhere
_GLIBC = range(17, 37)  # 2.36 is bookworm's: what is newer would not run there

# Beside what `pip install octlet` brings, with what of theirs that does not. Their versions are those of
# constraints.txt.
ENGINES = ("ai-edge-litert", "backports.strenum", "openvino", "openvino-telemetry", "tqdm")
_ORACLES = ("scipy", "onnx", "ml-dtypes", "typing-extensions")
TESTS = ("pytest", "pluggy", "iniconfig", "pygments", "hypothesis", "sortedcontainers", *_ORACLES)

# ONNX Runtime looks its kernels up in /proc/cpuinfo, and crashes on import where it finds the host's.
_CPUINFO = (
    "processor\t: {number}\nBogoMIPS\t: 108.00\n"
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n"
    "CPU revision\t: 1\n\n"
)


@dataclass(frozen=True)
class Userland:
    """One aarch64 Python of Debian's with Octlet's wheel and its dependencies, in a folder.

    Attributes:
        folder: where everything is kept; other Pythons may share it.
        python: "3.11" or "3.13".
    """

    folder: Path
    python: str

    @property
    def root(self) -> Path:
        """The unpacked Debian."""
        return self.folder / f"root-{self.python}"

    @property
    def site(self) -> Path:
        """Folders of packages: `device` has what `pip install octlet` brings, `engines` and `tests` more."""
        return self.folder / f"site-{self.python}"

    def command(self, *extras: str) -> Path:
        """Return a command that is this Python, with Octlet, its dependencies, and the sites in `extras`.

        It stays itself where a program starts its own Python again (`sys.executable`).
        """
        return self.folder / "-".join((f"python{self.python}", *extras))

    def prepare(self) -> None:
        """Bring what is missing.

        Raises:
            UsageError: this machine cannot do it; the message says what is missing.
            OctletError: packages cannot be fetched.
        """
        prepare_qemu(self.folder)
        if not self.root.exists():
            apt = Apt(self.folder / f"apt-{self.python}", RELEASES[self.python], "arm64")
            apt.update()
            apt.unpack((f"python{self.python}", *_LIBRARIES), self.root)
        write_text(self.root / "proc/cpuinfo", "".join(_CPUINFO.format(number=n) for n in range(4)))
        pins = PROJECT / "constraints.txt"
        install_wheels(self.site / "device", self.python, own_dependencies(), pins)
        for name, packages in (("engines", ENGINES), ("tests", TESTS)):
            install_wheels(self.site / name, self.python, ["--no-deps", *packages], pins)
        for extras in ((), ("engines",), ("engines", "tests")):
            self._write_command(extras)

    def _write_command(self, extras: Sequence[str]) -> None:
        sites = [self.folder / "octlet", *(self.site / name for name in ("device", *extras))]
        settings = {
            "PYTHONHOME": "/usr",
            "PYTHONPATH": ":".join(map(str, sites)),
            "PYTHONNOUSERSITE": "1",
            # A file that is not in the root is looked up, and would be written, outside of it.
            "PYTHONPYCACHEPREFIX": str(self.folder / f"cache-{self.python}"),
        }
        words = [*qemu(self.folder), "-L", self.root, "-cpu", CPU]
        lines = [f"export {name}={quote(value)}" for name, value in settings.items()]
        run = " ".join(quote(str(word)) for word in words)
        python = quote(str(self.root / f"usr/bin/python{self.python}"))
        lines.append(f'exec {run} -0 "$0" {python} "$@"')
        write_text(self.command(*extras), "\n".join(("#!/bin/sh", *lines, "")))
        self.command(*extras).chmod(0o755)


def qemu(folder: Path, guest: str = "aarch64") -> tuple[str | Path, ...]:
    """Return the words that run the unpacked emulator of `guest`, with its own loader, on any Linux."""
    root = folder / "qemu"
    loader = root / (
        "lib64/ld-linux-x86-64.so.2" if platform.machine() == "x86_64" else "lib/ld-linux-aarch64.so.1"
    )
    triplet = f"{platform.machine()}-linux-gnu"
    libraries = ":".join(str(root / place / triplet) for place in ("lib", "usr/lib"))
    return loader, "--library-path", libraries, root / f"usr/bin/qemu-{guest}"


def prepare_qemu(folder: Path) -> None:
    """Unpack the emulator; raises as `Userland.prepare`."""
    if not (folder / "qemu").exists():
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
        if architecture is None or not shutil.which("apt-get"):
            remedy = "it is fetched on Debian, x86-64 or Arm, or in a container of it"
            raise UsageError("qemu is missing: the emulator", remedy=remedy)
        apt = Apt(folder / "apt-qemu", _QEMU_RELEASE, architecture)
        apt.update()
        apt.unpack(["qemu-user"], folder / "qemu")  # the static build knows no plugins
    try:
        qemu_version(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        remedy = f"remove {folder / 'qemu'} to fetch it again"
        raise OctletError(f"the unpacked qemu does not run: {said}", remedy=remedy) from error


def qemu_version(folder: Path) -> str:
    """Return "7.2", of the unpacked emulator."""
    done = subprocess.run([*qemu(folder), "--version"], capture_output=True, text=True, check=True)
    return ".".join(done.stdout.split("version ")[1].split(".")[:2])


def own_dependencies() -> list[str]:
    """Return what Octlet's wheel depends on, as pyproject.toml says it."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"])


def install_wheels(target: Path, python: str, words: Sequence[str], pins: Path) -> None:
    """Unpack aarch64 wheels into `target` with this machine's pip, unless the same ones are there.

    Raises OctletError where a wheel cannot be had.
    """
    mark = target / ".octlet-wheels"
    if mark.exists() and mark.read_text() == wheels_key(target, words, pins):
        return
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pip("install", "--target", part, *foreign(python), "--constraint", pins, *words)
    write_text(part / mark.name, wheels_key(part, words, pins))
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)


def wheels_key(target: Path, words: Iterable[str], pins: Path) -> str:
    """Return what decides which wheels lie in `target`: what was asked for, and the pins of what came."""
    here = {_plain(path.name.split("-")[0]) for path in target.glob("*.dist-info")}
    lines = pins.read_text(encoding="utf-8").splitlines()
    return "\n".join((*words, *(line for line in lines if _plain(line.split("==")[0]) in here)))


def _plain(distribution: str) -> str:
    return re.sub("[-_.]+", "_", distribution).lower()


def foreign(python: str) -> list[str]:
    """Return pip's options for another machine's wheels: aarch64 of Debian, and this version of CPython."""
    tag = f"cp{python.replace('.', '')}"
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in _GLIBC]
    platforms += ["--platform=manylinux2014_aarch64"]
    abis = [f"--abi={abi}" for abi in (tag, "abi3", "none")]
    return ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *abis, *platforms]


def install_octlet(folder: Path) -> None:
    """Build Octlet's wheel from this checkout and unpack it, for every Python: it is pure Python.

    Raises OctletError where it cannot be built.
    """
    part, target = folder / "octlet.part", folder / "octlet"
    key, mark = source_key(), target / ".octlet-source"
    if mark.exists() and mark.read_text() == key:
        return
    shutil.rmtree(part, ignore_errors=True)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", part / "wheel", PROJECT)
    (wheel,) = (part / "wheel").glob("octlet-*.whl")
    pip("install", "--no-deps", "--no-compile", "--target", part / "site", wheel)
    write_text(part / "site" / mark.name, key)
    shutil.rmtree(target, ignore_errors=True)
    (part / "site").replace(target)
    shutil.rmtree(part)


def source_key() -> str:
    """Return a digest of what Octlet's wheel is built from."""
    digest = hashlib.sha256()
    for path in (PROJECT / "pyproject.toml", *sorted((PROJECT / "src").rglob("*.py"))):
        digest.update(f"{path.relative_to(PROJECT)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def pip(*words: object) -> None:
    """Run this machine's pip; raises OctletError with what it said."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-200:]]
        raise OctletError(f"pip {words[0]} failed: {said[0]}", remedy="is the package index reachable?")
