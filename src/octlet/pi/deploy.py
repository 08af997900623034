"""From a package here to a proven, measured installation there; or nothing has changed there."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octlet.core.errors import GateError, InputError, ModelFileError, OctletError, UsageError
from octlet.pi.package import INSTALLER, MODEL, read_record
from octlet.pi.remote import Answer, Progress, Remote
from octlet.pi.target import GLIBC, Target

_LOOK = f"""
echo "machine $(uname -m)"
echo "user $(id -u)"
for python in python3 {" ".join(f"python{version}" for version in GLIBC)}; do
    "$python" -c 'import sys; print("python %d.%d" % sys.version_info[:2])' 2>/dev/null
done
sudo -n true 2>/dev/null && echo "sudo yes"
exit 0
"""

# /var/tmp, not /tmp, which may be memory. The folder goes when the connection does.
_INSTALL = f"""
folder=$(mktemp -d /var/tmp/octlet.XXXXXX) || exit 1
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
tar -x -f - -C "$folder" || {{ echo "the package did not arrive whole" >&2; exit 3; }}
set -- "$folder"/*/{INSTALLER} "$@"
if [ "$SUDO" = yes ]; then sudo -n sh "$@"; else sh "$@"; fi
"""

_MEASURE = """
folder=$(mktemp -d /var/tmp/octlet.XXXXXX) || exit 1
trap 'rm -rf "$folder"' EXIT
"$1" benchmark "$2" --json --out "$folder" --rounds "$3"
"""

_FAULTS: dict[int, type[OctletError]] = {
    error.exit_code: error for error in (UsageError, InputError, ModelFileError, GateError)
}


@dataclass(frozen=True)
class Host:
    """What the other machine is: for which target a package must be, and whether root is to be had."""

    target: Target
    root: bool
    sudo: bool


def look(remote: Remote) -> Host:
    """Ask the other machine what it is.

    Raises:
        UsageError: it has no Python or processor that Octlet is made for.
        OctletError: it cannot be reached.
    """
    answer = remote.run(_LOOK)
    words = [line.split(" ", 1) for line in answer.out.splitlines() if " " in line]
    told = dict(reversed(words))  # the first Python that answers is the system's own
    versions = [value for key, value in words if key == "python"]
    python = next((version for version in versions if version in GLIBC), None)
    if "machine" not in told:
        raise OctletError(
            "does not answer as a Linux machine", path=remote.host, remedy="look at 'ssh' there"
        )
    if python is None:
        rule = f"has Python {versions[0]}" if versions else "has no Python"
        remedy = f"Octlet is made for {', '.join(GLIBC)}: install Raspberry Pi OS 12 or 13, 64-bit"
        raise UsageError(rule, path=remote.host, remedy=remedy)
    return Host(Target(python, told["machine"]), told.get("user") == "0", told.get("sudo") == "yes")


def deploy(
    remote: Remote,
    host: Host,
    archive: Path,
    *,
    prefix: str,
    service: bool,
    rounds: int,
    say: Callable[[str], None],
    progress: Progress,
) -> dict[str, Any]:
    """Copy an archive, install it there, replay the golden vectors there, and time the engines.

    Returns:
        plain JSON: host, machine, python, release, installer (its lines), verify and benchmark (as those
        verbs' ``--json``).

    Raises:
        InputError: the archive is none, did not arrive whole, or is for another machine.
        UsageError: root is needed there and not to be had.
        ModelFileError, GateError: the model does not work there; the version before still runs.
        OctletError: the connection is lost, or the installer names a fault of the machine.
    """
    _check_fit(read_record(archive), host, archive)
    sudo = service and not host.root
    if sudo and not host.sudo:
        remedy = "allow it sudo without a password, or give --no-service and a --prefix of its own"
        raise UsageError("the service needs root there", path=remote.host, remedy=remedy)
    words = ["--prefix", prefix, *(() if service else ("--no-service",))]
    script = f"SUDO={'yes' if sudo else 'no'}\n{_INSTALL}"
    answer = remote.run(script, *words, stdin=archive, progress=progress)
    for line in answer.told.splitlines():
        say(line)
    _check(answer, remote, "the installation failed", "what ran there before still runs")
    say("replaying the golden vectors there")
    command, model = f"{prefix}/current/bin/octlet", f"{prefix}/current/{MODEL}"
    verified = _json(remote.run('"$1" verify "$2" --json', command, model), remote)
    say("timing there")
    measured = _json(remote.run(_MEASURE, command, model, str(rounds)), remote)
    current = remote.run(f"readlink {shlex.quote(prefix)}/current").out.strip()
    return {
        "host": remote.host,
        "machine": host.target.machine,
        "python": host.target.python,
        "release": current.removeprefix("releases/"),
        "verify": verified,
        "benchmark": measured,
    }


def _check_fit(record: dict[str, Any], host: Host, archive: Path) -> None:
    made, there = (record["python"], record["machine"]), (host.target.python, host.target.machine)
    if made != there:
        rule = f"is for Python {made[0]} on {made[1]}; the host has Python {there[0]} on {there[1]}"
        remedy = f"octlet pi package --python {there[0]} --machine {there[1]}"
        raise InputError(rule, path=archive, remedy=remedy)


def _check(answer: Answer, remote: Remote, otherwise: str, remedy: str) -> None:
    if answer.code:
        lines = [line for line in answer.told.splitlines() if line.strip()] or [otherwise]
        kind = _FAULTS.get(answer.code, OctletError)
        rule = lines[-1].removeprefix("octlet install: ").removeprefix("octlet: ")
        raise kind(rule, path=remote.host, remedy=remedy)


def _json(answer: Answer, remote: Remote) -> dict[str, Any]:
    _check(answer, remote, "Octlet does not answer there", "run 'octlet doctor' there")
    try:
        value: dict[str, Any] = json.loads(answer.out)
    except ValueError as error:
        raise OctletError("does not answer in JSON", path=remote.host, remedy="try it by hand") from error
    return value
