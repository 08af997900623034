"""Debian packages of any architecture and release, unpacked into a folder; nothing is installed.

Mirrors, keys and proxies are those of this machine's own apt; only the release is another. No root is needed:
apt keeps its lists and archives in the folder that it is given.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from octlet.core.errors import OctletError, UsageError
from octlet.core.files import write_text

SOURCES = Path("/etc/apt")
_CONF = """\
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::State "{state}";
Dir::State::status "{state}/status";
Dir::State::lists "{state}/lists";
Dir::Cache "{state}/cache";
Dir::Etc::SourceList "{state}/sources.list";
Dir::Etc::SourceParts "{state}/parts";
"""


class Apt:
    """apt for one release and architecture, with its state in a folder of its own.

    Raises UsageError where the machine has no apt.
    """

    def __init__(self, state: Path, release: str, architecture: str) -> None:
        if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
            remedy = "run it on Debian, or in a Debian container"
            raise UsageError("apt-get and dpkg-deb are not here to fetch Debian packages", remedy=remedy)
        self.state, self.release, self.architecture = state, release, architecture
        self._environment = os.environ | {"APT_CONFIG": str(state / "apt.conf"), "LC_ALL": "C.UTF-8"}

    def update(self) -> None:
        """Write the settings and fetch the lists of packages.

        Raises:
            UsageError: this machine's apt is not Debian's.
            OctletError: the lists cannot be fetched.
        """
        for folder in ("lists/partial", "cache/archives/partial", "parts"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        write_text(self.state / "status", "")  # as if nothing was installed: all dependencies come along
        write_text(self.state / "apt.conf", _CONF.format(architecture=self.architecture, state=self.state))
        for file in (SOURCES / "sources.list", *sorted((SOURCES / "sources.list.d").glob("*"))):
            if file.suffix in (".list", ".sources") and file.exists():
                place = self.state if file.name == "sources.list" else self.state / "parts"
                write_text(place / file.name, for_release(file.read_text(), own_release(), self.release))
        self._run(["apt-get", "-q", "update"])

    def unpack(self, packages: Iterable[str], target: Path) -> None:
        """Fetch packages with all that they depend on, and unpack them into `target`, whole or not at all.

        Raises OctletError where a package cannot be fetched or unpacked.
        """
        archives = self.state / "cache/archives"
        shutil.rmtree(archives, ignore_errors=True)
        (archives / "partial").mkdir(parents=True)
        self._run(["apt-get", "-q", "-y", "--download-only", "install", *packages])
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for archive in sorted(archives.glob("*.deb")):
            self._run(["dpkg-deb", "-x", str(archive), str(part)])
        merge_usr(part)
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
        shutil.rmtree(archives)

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg-deb: error"))]
        if done.returncode or said:  # apt-get update ends with 0 although a list could not be fetched
            rule = f"'{' '.join(command[:4])}' failed: {(said or ['without a word'])[0]}"
            raise OctletError(rule, remedy="are Debian's mirrors reachable? 'apt-get update' tells")


def own_release() -> str:
    """Return this machine's Debian release by name; UsageError where it is not Debian."""
    told: dict[str, str] = dict(
        re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE)
    )
    if told.get("ID") != "debian":
        rule = f"the mirrors of {told.get('PRETTY_NAME', 'this system')} do not hold Debian's packages"
        raise UsageError(rule, remedy="run it in a Debian container")
    return told["VERSION_CODENAME"]


def for_release(sources: str, own: str, release: str) -> str:
    """Return apt's sources, one-line or deb822, with one release's name put in another's place.

    Names that only contain it, as a mirror's may, stay; `own-updates` and `own-security` are releases too.
    """
    return re.sub(rf"(?<![\w./-]){re.escape(own)}(?=$|[\s-])", release, sources, flags=re.MULTILINE)


def merge_usr(root: Path) -> None:
    """Link /lib, /bin and /sbin into /usr where nothing did: in newer releases a package's script does it."""
    for name in ("lib", "bin", "sbin"):
        if not (root / name).exists() and (root / "usr" / name).is_dir():
            (root / name).symlink_to(f"usr/{name}")
