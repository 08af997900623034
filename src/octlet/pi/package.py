"""One self-contained package for a device without a network, as an archive and as a Debian package.

    install.sh            installs, upgrades, rolls back, removes; checks SHA256SUMS first
    unpack.py             what it unpacks wheels with
    octlet-serve.service  the server's unit for systemd
    package.json          what is in here, and for what machine
    model.octlet          the model file
    wheels/               Octlet and all it needs
    SHA256SUMS            of every file above; its own SHA-256 names the release

Nothing is compressed: wheels are, weights hardly can be, and the bytes depend on no version of zlib.
"""

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from octlet.core.bundle import open_bundle
from octlet.core.errors import InputError, UsageError
from octlet.core.files import dump_json, replacing, sha256_of
from octlet.pi.target import Target
from octlet.pi.wheels import Wheel

SUMS, RECORD, INSTALLER, UNIT, MODEL = (
    "SHA256SUMS",
    "package.json",
    "install.sh",
    "octlet-serve.service",
    "model.octlet",
)
_COMPILED = 1.15  # a wheel's unpacked bytes with the compiled Python beside them; 1.08 were measured
_DATE_1980 = 315532800  # as in a model file


@dataclass(frozen=True)
class Package:
    """The files of a package, name -> bytes or the file that has them.

    Attributes:
        contents: all but `SUMS`.
        sums: the SHA-256 of each.
        record: what `package.json` says.
        target: the machine that it is for.
    """

    contents: Mapping[str, bytes | Path]
    sums: bytes
    record: Mapping[str, Any]
    target: Target

    @property
    def release(self) -> str:
        """The name of the release that a device makes of it: the version and a hash of everything in it."""
        return f"{self.record['version']}-{hashlib.sha256(self.sums).hexdigest()[:12]}"

    def under(self, folder: str) -> dict[str, bytes | Path]:
        """Return all files, by their names below `folder`."""
        return {f"{folder}/{name}": data for name, data in {**self.contents, SUMS: self.sums}.items()}

    @property
    def folder(self) -> str:
        """The one folder that the archive unpacks to."""
        return f"octlet-{self.record['version']}-{self.target.tag}"


def assemble(model: Path, wheels: Iterable[Wheel], target: Target, *, service: bool) -> Package:
    """Put a package together.

    Args:
        model: the model file; all of it is verified.
        wheels: Octlet's and every one it needs.
        target: the machine that they are for.
        service: with the server's unit.

    Raises:
        ModelFileError: as `octlet.core.bundle.open_bundle`.
        UsageError: the version of Octlet's wheel cannot stand in a shell script.
    """
    bundle = open_bundle(model)
    wheels = sorted(wheels, key=lambda wheel: wheel.path.name)
    (version,) = [wheel.version for wheel in wheels if wheel.name == "octlet"]
    if not re.fullmatch(r"[0-9A-Za-z.+]+", version):
        raise UsageError(f"Octlet's wheel has the version '{version}'", remedy="digits, letters, . and +")
    unpacked = sum(wheel.unpacked for wheel in wheels)
    names = {wheel.name for wheel in wheels}
    record: dict[str, Any] = {
        "version": version,
        "python": target.python,
        "machine": target.machine,
        "model": {"name": bundle.manifest.name, "sha256": sha256_of(model), "bytes": model.stat().st_size},
        "wheels": [{"file": w.path.name, "sha256": w.sha256, "unpacked": w.unpacked} for w in wheels],
        "service": service,
    }
    values = {
        "VERSION": version,
        "PYTHON": target.python,
        "MACHINE": target.machine,
        "NEEDS_KIB": str(round((unpacked * _COMPILED + record["model"]["bytes"]) / 1024)),
        # OpenVINO writes machine code while it runs, ONNX Runtime and LiteRT do not.
        "DENY_WRITE_EXECUTE": "no" if "openvino" in names else "yes",
    }
    contents: dict[str, bytes | Path] = {
        INSTALLER: device_file(INSTALLER, values),
        "unpack.py": device_file("unpack.py"),
        RECORD: dump_json(record).encode(),
        MODEL: model,
        **{f"wheels/{wheel.path.name}": wheel.path for wheel in wheels},
    }
    if service:
        contents[UNIT] = device_file(UNIT, values)
    return Package(contents, sums_of(contents), record, target)


def device_file(name: str, values: Mapping[str, str] | None = None) -> bytes:
    """Return a file that is installed on devices, with ``@NAME@`` replaced by its value."""
    text = (files("octlet.pi") / "device" / name).read_text("utf-8")
    for key, value in (values or {}).items():
        text = text.replace(f"@{key}@", value)
    return text.encode()


def sums_of(contents: Mapping[str, bytes | Path]) -> bytes:
    """Return the SHA-256 of every file, as `sha256sum` writes and checks them."""
    lines = []
    for name, data in sorted(contents.items()):
        digest = hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else sha256_of(data)
        lines.append(f"{digest}  {name}\n")
    return "".join(lines).encode()


def write_archive(package: Package, path: Path) -> None:
    """Write the package as a tar archive, whole or not at all; the same package gives the same bytes."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        write_tar(file, package.under(package.folder))


def write_tar(
    file: BinaryIO, contents: Mapping[str, bytes | Path], links: Mapping[str, str] | None = None
) -> None:
    """Write a tar archive of files, symbolic links and the folders they need, all owned by root.

    Sorted by name and of one date, 1980-01-01 or that of SOURCE_DATE_EPOCH. A script is executable.
    """
    links = links or {}
    entries = contents.keys() | links.keys()
    folders = {"/".join(name.split("/")[:k]) for name in entries for k in range(1, name.count("/") + 1)}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(entries | folders):
            info = tarfile.TarInfo(name)
            info.mtime, info.mode = build_date(), 0o644
            info.uname = info.gname = "root"
            if name in folders:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            elif name in links:
                info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, links[name]
                archive.addfile(info)
            else:
                _add_file(archive, info, contents[name])


def _add_file(archive: tarfile.TarFile, info: tarfile.TarInfo, data: bytes | Path) -> None:
    if isinstance(data, Path):
        info.size = data.stat().st_size
        with data.open("rb") as stream:
            archive.addfile(info, stream)
        return
    if data.startswith(b"#!"):
        info.mode = 0o755
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def build_date() -> int:
    """Return the date of everything written, in seconds since 1970: SOURCE_DATE_EPOCH, or 1980-01-01."""
    text = os.environ.get("SOURCE_DATE_EPOCH", str(_DATE_1980))
    if not text.isdecimal():
        raise UsageError(f"SOURCE_DATE_EPOCH = '{text}'", remedy="seconds since 1970, or unset it")
    return int(text)


def read_record(archive: Path) -> dict[str, Any]:
    """Return what `package.json` of an archive says; InputError if it is no archive of this kind."""
    import json

    try:
        with tarfile.open(archive, "r:") as opened:
            names = [
                name for name in opened.getnames() if name.count("/") == 1 and name.endswith(f"/{RECORD}")
            ]
            stream = opened.extractfile(names[0]) if len(names) == 1 else None
            record = json.loads(stream.read()) if stream else None
    except (OSError, tarfile.TarError, ValueError) as error:
        raise InputError("is not a package", path=archive, remedy="make one: octlet pi package") from error
    if not isinstance(record, dict) or not {"version", "python", "machine"} <= record.keys():
        raise InputError("is not a package", path=archive, remedy="make one: octlet pi package")
    return record
