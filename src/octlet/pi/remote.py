"""Another machine over the system's own ssh: its keys, known hosts and configuration hold here, too."""

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octlet.core.errors import OctletError, UsageError

Progress = Callable[[str], Callable[[Iterable[int]], Iterator[int]]]

_LOST = 255  # ssh's own exit code
_CHUNK = 2**20
# What ssh says on stderr -> what can be done about it.
_REMEDIES = {
    "Host key verification failed": "run 'ssh {host}' once, and compare the fingerprint with the device's",
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "another machine, or a new system on it: see ssh-keygen -R",
    "Permission denied": "give the device your key: ssh-copy-id {host}, or name another with --identity",
    "Could not resolve hostname": "look at the name, or give the address",
    "Connection refused": "is ssh enabled there, on this --port?",
    "No route to host": "is the device on, and on this network?",
    "Network is unreachable": "is this machine on a network?",
    "timed out": "is the device on, and on this network?",
}


@dataclass(frozen=True)
class Answer:
    """What a remote command left: its exit code, stdout, and stderr."""

    code: int
    out: str
    told: str


@dataclass(frozen=True)
class Remote:
    """A machine that ssh reaches without asking anything.

    Attributes:
        host: "USER@HOST", "HOST", or a name in ssh's configuration.
        port: of sshd; ssh's own choice if None.
        identity: file of the private key; ssh's own choice if None.
    """

    host: str
    port: int | None = None
    identity: Path | None = None

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-") or any(c.isspace() for c in self.host):
            raise UsageError(f"'{self.host}' is not USER@HOST", remedy="for example pi@raspberrypi.local")

    def run(
        self, script: str, *words: str, stdin: Path | None = None, progress: Progress = lambda label: iter
    ) -> Answer:
        """Run a POSIX shell script there with `words` as "$1", "$2"...; send it a file if one is given.

        Raises:
            OctletError: ssh is not installed, or the connection cannot be made or is lost.
        """
        if shutil.which("ssh") is None:
            raise OctletError("no program 'ssh' here", remedy="install OpenSSH's client")
        command = [
            "ssh",
            "-T",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "ServerAliveInterval=15",
        ]
        if self.port is not None:
            command += ["-p", str(self.port)]
        if self.identity is not None:
            command += ["-i", str(self.identity), "-o", "IdentitiesOnly=yes"]
        command += ["--", self.host, shlex.join(["sh", "-c", script, "sh", *words])]
        answer = _run(command, stdin, progress)
        if answer.code == _LOST:
            raise self._lost(answer.told)
        return answer

    def _lost(self, told: str) -> OctletError:
        lines = [line.strip() for line in told.splitlines() if line.strip()] or ["ssh failed"]
        for words, remedy in _REMEDIES.items():
            if words in told:
                line = next((each for each in lines if words in each), lines[-1])
                return OctletError(line, path=self.host, remedy=remedy.format(host=self.host))
        return OctletError(lines[-1], path=self.host, remedy=f"try 'ssh {self.host}' by hand")


def _run(command: list[str], stdin: Path | None, progress: Progress) -> Answer:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:
        process = subprocess.Popen(  # noqa: S603 - a list of words, no shell here
            command, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, stdout=out, stderr=told
        )
        try:
            if stdin is not None:
                _send(process.stdin, stdin, progress)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        told.seek(0)
        return Answer(code, out.read().decode(errors="replace"), told.read().decode(errors="replace"))


def _send(pipe: Any, path: Path, progress: Progress) -> None:
    chunks = range(-(-path.stat().st_size // _CHUNK))
    try:
        with pipe, path.open("rb") as file:
            for _ in progress(f"sending {path.name}")(chunks):
                pipe.write(file.read(_CHUNK))
    except BrokenPipeError:
        pass  # the other side ended early, and says why
