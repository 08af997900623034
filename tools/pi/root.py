"""A Debian of another architecture, of essential packages and Python, installed by its own dpkg."""

import os
import shutil
import subprocess
from pathlib import Path

from arm.debian import Apt

from octlet.core.errors import OctletError
from pi.sandbox import Sandbox, run

RELEASES = {"3.11": "bookworm", "3.13": "trixie"}  # Raspberry Pi OS follows these Debians
_PACKAGES = ("?essential", "python3", "passwd", "mawk", "libstdc++6")
_UNPACK = 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"'
_INSTALL = """
: >/var/lib/dpkg/status
dpkg --force-depends --force-confnew --install /archives/*.deb >/dev/null 2>&1 || true
dpkg --configure -a
"""


def emulator(folder: Path) -> Path:
    """Return a QEMU that needs no library; unpacked into `folder` where this machine has none."""
    here = shutil.which("qemu-aarch64-static")
    if here:
        return Path(here)
    unpacked = folder / "qemu-static"
    if not unpacked.exists():
        apt = Apt(folder / "apt-qemu-static", "bookworm", "amd64")
        apt.update()
        apt.unpack(["qemu-user-static"], unpacked)
    return unpacked / "usr/bin/qemu-aarch64-static"


def prepare(folder: Path, python: str) -> tuple[Path, Path]:
    """Return a root with that Python, kept in `folder`, and the emulator for it.

    Raises:
        UsageError: this machine has no apt of Debian.
        OctletError: packages cannot be fetched or installed.
    """
    qemu, root = emulator(folder), folder / f"debian-{python}"
    if root.exists():
        return root, qemu
    apt = Apt(folder / f"apt-debian-{python}", RELEASES[python], "arm64")
    apt.update()
    archives = apt.state / "cache/archives"
    command = ["apt-get", "-q", "-y", "--download-only", "install", *_PACKAGES]
    environment = os.environ | {"APT_CONFIG": str(apt.state / "apt.conf"), "LC_ALL": "C"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OctletError(
            f"packages cannot be fetched: {done.stderr.strip()[-200:]}", remedy="see apt-get update"
        )
    part = folder / f"debian-{python}.part"
    shutil.rmtree(part, ignore_errors=True)
    for name in ("bin", "sbin", "lib"):  # merged from the start, as Debian's installer does
        (part / "usr" / name).mkdir(parents=True)
        (part / name).symlink_to(f"usr/{name}")
    for archive in sorted(archives.glob("*.deb")):
        # Not 'dpkg-deb -x': it would put folders in the place of those links.
        run("sh", "-euc", _UNPACK, "sh", archive, part)
    code, said = Sandbox(qemu, folder).run(part, ["sh", "-euc", _INSTALL], [archives])
    if code:
        raise OctletError(f"dpkg failed in the root: {said[-400:]}")
    part.replace(root)
    return root, qemu
