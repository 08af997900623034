"""A Debian package, written on any machine: an ar archive of two tar archives (deb(5)).

It holds the same files as the archive, and its scripts call the same installer: the version that runs is not
made of files that dpkg owns, so an upgrade that is cut short anywhere leaves it whole.
"""

import hashlib
import io
import re
import tempfile
from pathlib import Path
from typing import BinaryIO

from octlet.core.files import replacing
from octlet.pi.package import Package, build_date, device_file, write_tar

HOME = "opt/octlet/package"
_LICENCE = b"Octlet is under the Apache License 2.0; each wheel in /opt/octlet/package/wheels has its own.\n"


def write_deb(package: Package, path: Path) -> None:
    """Write the package as a .deb, whole or not at all; the same package gives the same bytes."""
    contents = {
        **package.under(f"./{HOME}"),
        "./usr/share/doc/octlet/copyright": _LICENCE,
    }
    links = {"./usr/bin/octlet": "/opt/octlet/current/bin/octlet"}
    with tempfile.TemporaryFile() as data, replacing(path) as temporary, temporary.open("wb") as file:
        write_tar(data, contents, links)
        control = io.BytesIO()
        size = sum(
            len(each) if isinstance(each, bytes) else each.stat().st_size for each in contents.values()
        )
        write_tar(
            control,
            {
                "./control": _control(package, size),
                "./md5sums": _md5sums(contents),
                **{f"./{name}": device_file(name) for name in ("postinst", "prerm", "postrm")},
            },
        )
        file.write(b"!<arch>\n")
        for name, stream in (
            ("debian-binary", io.BytesIO(b"2.0\n")),
            ("control.tar", control),
            ("data.tar", data),
        ):
            _member(file, name, stream)


def deb_name(package: Package) -> str:
    """Return the usual file name, with the Python's version: octlet_0.1.0-1_py311_arm64.deb."""
    python = package.target.tag.partition("-")[0]
    return f"octlet_{_version(package)}_{python}_{package.target.debian}.deb"


def _version(package: Package) -> str:
    # Debian sorts ~ before nothing and ~~ before ~: as PEP 440 does a release candidate, and .dev before it.
    version = re.sub(r"(a|b|rc)(?=\d)", r"~\1", str(package.record["version"]))
    return version.replace(".dev", "~~dev") + "-1"


def _control(package: Package, size: int) -> bytes:
    major, minor = map(int, package.target.python.split("."))
    depends = (
        f"python3 (>= {major}.{minor})",
        f"python3 (<< {major}.{minor + 1})",
        "libc6 (>= 2.28)",
        "libstdc++6",
        "passwd",
        "util-linux",
    )
    model = package.record["model"]["name"]
    return (
        "Package: octlet\n"
        f"Version: {_version(package)}\n"
        f"Architecture: {package.target.debian}\n"
        "Maintainer: The Octlet authors <octlet@localhost>\n"
        f"Installed-Size: {-(-size // 1024)}\n"
        f"Depends: {', '.join(depends)}\n"
        "Section: science\n"
        "Priority: optional\n"
        "Description: classifies retinal OCT B-scans, with its model\n"
        f" Installs Octlet {package.release} and the model '{model}' into /opt/octlet,\n"
        " in a Python environment of its own, and proves it on this machine first.\n"
        " Decision support for research. Not a medical device.\n"
    ).encode()


def _md5sums(contents: "dict[str, bytes | Path]") -> bytes:
    lines = []
    for name, data in sorted(contents.items()):
        whole = data if isinstance(data, bytes) else data.read_bytes()
        lines.append(f"{hashlib.md5(whole, usedforsecurity=False).hexdigest()}  {name[2:]}\n")
    return "".join(lines).encode()


def _member(file: BinaryIO, name: str, stream: BinaryIO) -> None:
    """Append a member of an ar archive: 60 characters of header, the bytes, one more if they are odd."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    file.write(f"{name:<16}{build_date():<12}{0:<6}{0:<6}{'100644':<8}{size:<10}`\n".encode())
    while chunk := stream.read(2**20):
        file.write(chunk)
    if size % 2:
        file.write(b"\n")
