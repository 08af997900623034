"""`octlet pi deploy`: through a stand-in for ssh, and through a real sshd on loopback where there is one."""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from easy import command, result_of
from pi_fakes import MACHINE, OTHER, PYTHON, ROW, model, octlet_wheel

from octlet.core.errors import OctletError, UsageError
from octlet.pi.package import assemble, write_archive
from octlet.pi.remote import Remote
from octlet.pi.target import Target
from octlet.pi.wheels import read_wheel

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("flock") is None, reason="the installer is for Linux"
)


def archive(folder: Path, version: str, fault: int = 0, target: Target | None = None) -> Path:
    wheels = [read_wheel(octlet_wheel(folder, version, fault))]
    made = assemble(model(folder / "m.octlet"), wheels, target or Target(PYTHON, MACHINE), service=False)
    write_archive(made, folder / "package.tar")
    return folder / "package.tar"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH that leads to the Python of these tests alone, on whatever machine ssh lands."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in (f"python{PYTHON}", "python3"):
        (tools / name).symlink_to(Path(sys.base_prefix, "bin", f"python{PYTHON}"))
    for version in {"3.11", "3.12", "3.13"} - {PYTHON}:
        script(tools / f"python{version}", "exit 1")
    script(tools / "sync", "")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return tools


def script(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def ssh(home: Path, tmp_path: Path) -> Path:
    """A stand-in for ssh that runs the last word, as sshd does with what it is sent: by the user's shell."""
    lines = [f'printf "%s\\n" "$@" >{tmp_path}/words', "for last; do :; done", 'exec sh -c "$last"']
    script(home / "ssh", "\n".join(lines))
    return tmp_path


def leftovers() -> set[str]:
    return {path.name for path in Path("/var/tmp").glob("octlet.*")}  # noqa: S108 - looked at only


def test_deploy_twice(ssh: Path, tmp_path: Path) -> None:
    before = leftovers()
    words = ["pi", "deploy", "pi@device", "--no-service", "--prefix", tmp_path / "opt", "--port", 2222]
    for version in ("1.0", "2.0"):
        (tmp_path / version).mkdir()
        told = result_of(*words, "--archive", archive(tmp_path / version, version))
        assert told["release"].startswith(f"{version}-")
        assert (tmp_path / "opt/current").readlink().name == told["release"]
        assert told["verify"]["version"] == version
        assert told["benchmark"] == {"rows": [ROW]}
        assert (told["python"], told["machine"], told["host"]) == (PYTHON, MACHINE, "pi@device")
    sent = (ssh / "words").read_text().split("\n")
    assert sent[sent.index("-p") + 1] == "2222"
    assert "BatchMode=yes" in sent
    assert leftovers() == before


def test_deploy_makes_the_package_that_the_device_needs(ssh: Path, tmp_path: Path) -> None:
    own = octlet_wheel(tmp_path, "1.0")
    words = ["pi", "deploy", "device", model(tmp_path / "m.octlet"), "--wheel", own, "--wheels", tmp_path]
    code, out, err = command(*words, "--no-service", "--prefix", tmp_path / "opt")
    assert code == 0, err
    assert "logits  off by 0  by 1     ok" in out
    assert "onnxruntime        1  12.5    13.0    80.0" in out
    assert f"next: ssh device {tmp_path}/opt/current/bin/octlet predict" in err


def failed(*words: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = command("pi", "deploy", *words, "--json")
    error: dict[str, Any] = json.loads(out)["error"]
    return code, error


def test_a_model_that_does_not_work_there_changes_nothing(ssh: Path, tmp_path: Path) -> None:
    before = leftovers()
    words = ["device", "--no-service", "--prefix", tmp_path / "opt", "--archive"]
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    result_of("pi", "deploy", *words, archive(tmp_path / "1", "1.0"))
    code, error = failed(*words, archive(tmp_path / "2", "2.0", fault=5))
    assert code == 5
    assert error["file"] == "device"
    assert "does not work on this machine; nothing was changed" in error["message"]
    assert (tmp_path / "opt/current").readlink().name.startswith("1.0-")
    assert leftovers() == before


def test_an_archive_for_another_machine(ssh: Path, tmp_path: Path) -> None:
    code, error = failed("device", "--archive", archive(tmp_path, "1.0", target=Target(PYTHON, OTHER)))
    assert code == 3
    assert f"on {OTHER}; the host has Python {PYTHON} on {MACHINE}" in error["message"]
    assert error["remedy"] == f"octlet pi package --python {PYTHON} --machine {MACHINE}"


def test_a_connection_that_is_cut_leaves_nothing(ssh: Path, home: Path, tmp_path: Path) -> None:
    before = leftovers()
    path = archive(tmp_path, "1.0")
    # the first half of the archive arrives, then the connection ends
    lines = ["for last; do :; done", f'head -c {path.stat().st_size // 2} | sh -c "$last"', "exit 255"]
    script(
        home / "ssh",
        "\n".join(['case "$*" in *mktemp*) ;; *) for last; do :; done; exec sh -c "$last" ;; esac', *lines]),
    )
    code, error = failed("device", "--no-service", "--prefix", tmp_path / "opt", "--archive", path)
    assert code == 1
    assert error["file"] == "device"
    assert leftovers() == before
    assert not (tmp_path / "opt").exists()


@pytest.mark.parametrize(
    ("told", "remedy"),
    [
        ("Host key verification failed.", "compare the fingerprint"),
        ("pi@device: Permission denied (publickey,password).", "ssh-copy-id pi@device"),
        ("ssh: Could not resolve hostname device: Name or service not known", "look at the name"),
        ("ssh: connect to host device port 22: Connection refused", "is ssh enabled"),
        ("ssh: connect to host device port 22: No route to host", "is the device on"),
        ("ssh: connect to host device port 22: Connection timed out", "is the device on"),
        ("kex_exchange_identification: banner", "try 'ssh pi@device' by hand"),
    ],
)
def test_what_ssh_says_comes_with_what_to_do(ssh: Path, home: Path, told: str, remedy: str) -> None:
    script(home / "ssh", f'echo "{told}" >&2\nexit 255')
    with pytest.raises(OctletError, match=r"^pi@device: ") as caught:
        Remote("pi@device").run("true")
    assert caught.value.rule == told
    assert remedy in caught.value.remedy


def test_no_python_there(ssh: Path, home: Path) -> None:
    for path in home.glob("python*"):
        script(path, "exit 127")
    assert failed("device", "--archive", sys.executable)[1]["message"] == "has no Python"
    script(home / "python3", "echo python 3.9")
    code, error = failed("device", "--archive", sys.executable)
    assert (code, error["message"]) == (2, "has Python 3.9")


def test_the_service_needs_root(ssh: Path, home: Path, tmp_path: Path) -> None:
    script(home / "id", "echo 1000")
    script(home / "sudo", "exit 1")
    code, error = failed("device", "--archive", archive(tmp_path, "1.0"), "--prefix", tmp_path / "opt")
    assert code == 2
    assert error["message"] == "the service needs root there"
    # with sudo it is used for the installer, and for nothing else
    script(home / "sudo", f'printf "%s\\n" "$*" >>{tmp_path}/sudo\n[ "$1" = -n ] && shift\nexec "$@"')
    result_of("pi", "deploy", "device", "--archive", tmp_path / "package.tar", "--prefix", tmp_path / "opt")
    asked, used = (tmp_path / "sudo").read_text().splitlines()
    assert asked == "-n true"
    assert used.startswith("-n sh /var/tmp/octlet.")


@pytest.mark.parametrize("host", ["-oProxyCommand=sh", "", "a b"])
def test_a_host_that_is_an_option(host: str) -> None:
    with pytest.raises(UsageError, match="is not USER@HOST"):
        Remote(host)


def test_words_reach_the_other_shell_as_they_are(ssh: Path) -> None:
    words = ["a b", "$HOME", "'", '"', "*", "a;b", ""]
    answer = Remote("device").run('printf "%s\\n" "$@"', *words)
    assert answer.out.splitlines() == words


@pytest.mark.parametrize("words", [[], ["m.octlet", "--archive", sys.executable]])
def test_a_model_or_an_archive(words: list[str]) -> None:
    assert failed("device", *words)[0] == 2


# A real sshd ------------------------------------------------------------------------------------------

SSHD = os.environ.get("OCTLET_SSHD") or shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
# As root sshd parts privileges, for which Debian's package makes a user and a folder; here they are made in a
# mount namespace, and the machine stays as it is.
_LONELY = """
cp /etc/passwd "$1/passwd"
grep -q ^sshd: "$1/passwd" || echo sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin >>"$1/passwd"
mount --bind "$1/passwd" /etc/passwd
mount -t tmpfs none /run
mkdir /run/sshd
shift
exec "$@"
"""


@pytest.fixture
def sshd(home: Path, tmp_path: Path) -> Iterator[list[str]]:
    """An sshd on a free port with keys of its own; yields the options that reach it."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd here: apt install openssh-server, or name one in OCTLET_SSHD")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nPermitRootLogin yes\n"
        f"SetEnv PATH={os.environ['PATH']}\n"
    )
    key = (tmp_path / "host.pub").read_text()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {key}")
    options = f"-o UserKnownHostsFile={tmp_path}/known -o GlobalKnownHostsFile=none -F none"
    script(home / "ssh", f'exec {shutil.which("ssh", path="/usr/bin:/usr/local/bin:/bin")} {options} "$@"')
    words = [SSHD, "-D", "-e", "-f", str(tmp_path / "config")]
    if os.geteuid() == 0:
        words = ["unshare", "--mount", "sh", "-euc", _LONELY, "sh", str(tmp_path), *words]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.readline() if process.stderr else ""
        try:
            if "listening" not in said:
                pytest.skip(f"sshd does not start here: {said.strip()}")
            yield ["--port", str(port), "--identity", str(tmp_path / "user")]
        finally:
            process.kill()


def test_deploy_through_sshd(sshd: list[str], tmp_path: Path) -> None:
    before = leftovers()
    host = f"{getpass.getuser()}@127.0.0.1"
    words = [host, *sshd, "--no-service", "--prefix", tmp_path / "opt", "--archive", archive(tmp_path, "1.0")]
    told = result_of("pi", "deploy", *words)
    assert told["release"].startswith("1.0-")
    assert told["verify"]["passed"]
    assert leftovers() == before
    (tmp_path / "known").write_text("")
    code, error = failed(*words)
    assert code == 1
    assert error["message"] == "Host key verification failed."
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    shutil.copy(tmp_path / "host.pub", tmp_path / "known")
    (tmp_path / "known").write_text(f"[127.0.0.1]:{sshd[1]} {(tmp_path / 'host.pub').read_text()}")
    code, error = failed(*[str(tmp_path / "other") if word == sshd[3] else word for word in words])
    assert code == 1
    assert "Permission denied" in error["message"]
