"""The wheels of a package: Octlet's own, from what runs here, and every one it needs on the target."""

import base64
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import HeaderParser
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from octlet.core.errors import InputError, OctletError, UsageError
from octlet.core.files import replacing, sha256_of
from octlet.pi.target import Target

_WHEEL = "Wheel-Version: 1.0\nGenerator: octlet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True)
class Wheel:
    """One wheel: its project's normalised name, its version, its file, and that file's SHA-256.

    `requires` are its dependencies as its metadata state them; `unpacked` the bytes of its files.
    """

    name: str
    version: str
    path: Path
    sha256: str
    unpacked: int
    requires: tuple[str, ...] = field(repr=False)


def own_wheel(folder: Path, extras: Sequence[str]) -> Path:
    """Write the wheel of the Octlet that runs this, in one form: the same files give the same bytes.

    What was tried here is what the device gets, from an editable installation, too; nothing is built.

    Raises:
        UsageError: the installation does not know one of the extras: it is older than its source.
    """
    installed = importlib.metadata.distribution("octlet")
    known = installed.metadata.get_all("Provides-Extra") or []
    if odd := sorted(set(extras) - set(known)):
        rule = f"this installation of Octlet does not know: {', '.join(odd)}"
        raise UsageError(rule, remedy="install Octlet again: its metadata are older than its source")
    info = f"octlet-{installed.version}.dist-info"
    contents = {f"octlet/{name}": data for name, data in _files_of(files("octlet"))}
    contents[f"{info}/METADATA"] = (installed.read_text("METADATA") or "").encode()
    contents[f"{info}/entry_points.txt"] = b"[console_scripts]\noctlet = octlet.__main__:run\n"
    contents[f"{info}/WHEEL"] = _WHEEL.encode()
    if licence := installed.read_text("licenses/LICENSE"):
        contents[f"{info}/licenses/LICENSE"] = licence.encode()
    path = folder / f"octlet-{installed.version}-py3-none-any.whl"
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in [*sorted(contents.items()), (f"{info}/RECORD", _record(contents, info))]:
            archive.writestr(zipfile.ZipInfo(name), data)  # stored, dated 1980
    return path


def _files_of(folder: Traversable, under: str = "") -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.is_dir():
            if each.name != "__pycache__":
                yield from _files_of(each, f"{under}{each.name}/")
        elif not each.name.endswith((".pyc", ".part")):
            yield under + each.name, each.read_bytes()


def _record(contents: Mapping[str, bytes], info: str) -> bytes:
    lines = []
    for name, data in sorted(contents.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    return "".join([*lines, f"{info}/RECORD,,\n"]).encode()


def collect(
    own: Path,
    extras: Sequence[str],
    target: Target,
    folder: Path,
    *,
    source: Path | None = None,
    constraint: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Wheel]:
    """Fetch into `folder` every wheel that Octlet needs on the target; return them by name, Octlet's, too.

    pip takes the conditions of dependencies ("only before Python 3.13") as of the machine that it runs on. So
    they are looked at again as of the target: what is missing is fetched, what is needless is left out.

    Args:
        own: Octlet's wheel.
        extras: of Octlet: "serve", "litert", "openvino".
        target: the machine that they are for.
        folder: an empty one.
        source: a folder of wheels; pip's own index if None.
        constraint: a constraints file for pip.
        progress: is told what is going on.

    Raises:
        OctletError: there is no pip, or it finds no wheel for one of them.
        InputError: a wheel needs more than unpacking.
    """
    shutil.copyfile(own, folder / own.name)
    wanted = [f"{folder / own.name}[{','.join(extras)}]" if extras else str(folder / own.name)]
    asked: set[str] = set()
    while True:
        progress(f"fetching wheels for Python {target.python} on {target.machine}")
        _download(wanted, target, folder, source, constraint)
        wheels = {wheel.name: wheel for wheel in map(read_wheel, sorted(folder.glob("*.whl")))}
        needed, missing = _closure(wheels, extras, target)
        if not missing:
            return [wheels[name] for name in sorted(needed)]
        if asked.issuperset(missing):
            rule = f"pip finds no versions that fit together: {', '.join(missing)}"
            raise OctletError(rule, remedy="give --constraint or --wheels")
        asked |= set(missing)
        wanted = [wanted[0], *missing]


def read_wheel(path: Path) -> Wheel:
    """Read a wheel's metadata; InputError if it is none, or one that unpacking alone does not install."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            (metadata,) = [name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            headers = HeaderParser().parsestr(archive.read(metadata).decode())
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise InputError("is not a wheel", path=path, remedy="fetch it again") from error
    odd = [name for name in names if name.startswith("/") or ".." in name.split("/") or ".data/" in name]
    if odd:
        raise InputError(f"needs more than unpacking: {odd[0]}", path=path, remedy="take another version")
    requires = tuple(headers.get_all("Requires-Dist") or ())
    return Wheel(_normal(headers["Name"]), headers["Version"], path, sha256_of(path), unpacked, requires)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()  # PEP 503


def _closure(
    wheels: Mapping[str, Wheel], extras: Sequence[str], target: Target
) -> tuple[set[str], list[str]]:
    """Return the names of the wheels that the target needs, and the requirements that none of them meets."""
    from packaging.requirements import Requirement  # ONNX Runtime brings it

    environment, missing = target.markers(), []
    seen: set[tuple[str, str]] = set()
    queue = [("octlet", extra) for extra in ("", *extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, wheels[name].requires):
            if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
                continue
            found = wheels.get(_normal(requirement.name))
            if found is None or not requirement.specifier.contains(found.version, prereleases=True):
                missing.append(f"{requirement.name}{requirement.specifier}")
            else:
                queue += [(found.name, each) for each in ("", *requirement.extras)]
    return {name for name, _ in seen}, sorted(set(missing))


def _download(
    wanted: Sequence[str], target: Target, folder: Path, source: Path | None, constraint: Path | None
) -> None:
    command = [*_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += [*target.pip_options(), f"--dest={folder}"]
    if source is not None:
        command += ["--no-index", f"--find-links={source}"]
    if constraint is not None:
        command.append(f"--constraint={constraint}")
    environment = {
        key: value for key, value in os.environ.items() if source is None or "FIND_LINKS" not in key
    }
    done = subprocess.run(  # noqa: S603 - a list of words, no shell
        [*command, *wanted], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        remedy = "look at the network, or give --wheels a folder that has them all"
        raise OctletError(f"no wheels: {told[-1].removeprefix('ERROR: ')}", remedy=remedy)


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip3") or shutil.which(
        "pip"
    ):  # any pip will do: it is told for whom it fetches
        return [found]
    raise OctletError("there is no pip here", remedy="install it (python -m ensurepip, or apt install pip)")
