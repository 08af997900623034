"""The installer on this machine: upgrade, rollback, removal, and a stop at every one of its steps."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pi_fakes import MACHINE, OTHER, PYTHON, model, octlet_wheel

from octlet.pi.package import UNIT, assemble, write_archive
from octlet.pi.target import Target
from octlet.pi.wheels import read_wheel

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("flock") is None, reason="the installer is for Linux"
)

Install = Callable[..., "subprocess.CompletedProcess[str]"]
# What changes files, or runs something that does: a stop can leave a trace between any two of them.
STEPS = ("mkdir", "rm", "rmdir", "cp", "sed", "sync", "ln", "mv", "useradd", "systemctl")


def package(folder: Path, version: str, *, fault: int = 0, target: Target | None = None) -> Path:
    """Unpack a package of a fake Octlet; return its folder."""
    target = target or Target(PYTHON, MACHINE)
    wheels = [read_wheel(octlet_wheel(folder, version, fault))]
    made = assemble(model(folder / "m.octlet"), wheels, target, service=True)
    write_archive(made, folder / "p.tar")
    subprocess.run(["tar", "-x", "-f", "p.tar"], cwd=folder, check=True)
    return folder / made.folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("one"), "1.0")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("two"), "2.0")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "opt"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder that leads PATH: the machine's Python, and a log in place of what would change users."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / f"python{PYTHON}").symlink_to(Path(sys.base_prefix, "bin", f"python{PYTHON}"))
    for name in ("useradd", "systemctl"):
        script(folder / name, f'echo "{name} $*" >>{tmp_path}/log\ntest ! -e {tmp_path}/no-{name}')
    script(folder / "sync", "")  # it would wait for all that others write on this disk; its place is tested
    script(folder / "getent", f"grep -q useradd {tmp_path}/log 2>/dev/null")
    return folder


@pytest.fixture
def install(prefix: Path, tools: Path, tmp_path: Path) -> Install:
    def run(script: Path, *words: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "OCTLET_UNITS": str(tmp_path / "units"),
            "OCTLET_SYSTEMD": str(tmp_path / "systemd"),
        }
        return subprocess.run(
            ["sh", script / "install.sh", "--prefix", prefix, *words],
            env={**environment, **extra},
            capture_output=True,
            text=True,
        )

    return run


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def running(prefix: Path) -> str:
    """Return the version that answers, checked through the real command."""
    command = [prefix / "current/bin/octlet", "verify", prefix / "current/model.octlet", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["version"])


def releases(prefix: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (prefix / "releases").iterdir())


def test_install_upgrade_roll_back_remove(install: Install, prefix: Path, one: Path, two: Path) -> None:
    assert install(one).returncode == 0
    assert running(prefix) == "1.0"
    done = install(two)
    assert done.returncode == 0, done.stderr
    assert f"{prefix}/current/bin/octlet is 2.0-" in done.stderr
    assert running(prefix) == "2.0"
    for expected in ("1.0", "2.0"):  # to and fro
        assert install(prefix / "current", "--rollback").returncode == 0
        assert running(prefix) == expected
    assert releases(prefix) == ["1.0", "2.0"]
    assert install(prefix / "current", "--uninstall").returncode == 0
    assert not prefix.exists()
    assert install(two, "--uninstall").returncode == 0  # again: nothing to do


def test_what_is_kept(install: Install, prefix: Path, one: Path, two: Path, tmp_path: Path) -> None:
    """The version before, and no older one; nor what a stopped installation left."""
    assert install(one).returncode == 1 or running(prefix) == "1.0"
    (prefix / "releases/.9.9-abc.part").mkdir()
    install(two)
    install(package(tmp_path, "3.0"))
    assert releases(prefix) == ["2.0", "3.0"]
    assert install(two).returncode == 0  # backwards, with a package
    assert running(prefix) == "2.0"
    assert install(prefix / "current", "--rollback").returncode == 0
    assert running(prefix) == "3.0"


def test_a_version_that_does_not_work_is_not_switched_to(
    install: Install, prefix: Path, one: Path, tmp_path: Path
) -> None:
    install(one)
    done = install(package(tmp_path, "2.0", fault=5))
    assert done.returncode == 5
    assert "does not work on this machine; nothing was changed" in done.stderr
    assert running(prefix) == "1.0"
    assert releases(prefix) == ["1.0"]
    assert not (prefix / "previous").is_symlink()
    assert install(one, "--rollback").returncode == 1


def test_a_broken_installation_is_made_again(install: Install, prefix: Path, one: Path) -> None:
    install(one)
    (main,) = prefix.glob("releases/*/lib/*/site-packages/octlet/cli/main.py")
    main.write_text("syntax error")
    assert install(one).returncode == 0
    assert running(prefix) == "1.0"
    assert releases(prefix) == ["1.0"]
    assert install(one, "--rollback").returncode == 1  # nothing broken is kept to go back to


@pytest.mark.parametrize("name", ["model.octlet", "install.sh", "wheels/octlet-1.0-py3-none-any.whl"])
def test_a_damaged_package_changes_nothing(
    install: Install, prefix: Path, one: Path, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(one, copy)
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    done = install(copy)
    assert done.returncode == 3
    assert "the package is damaged" in done.stderr
    assert not prefix.exists()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (Target(PYTHON, OTHER), f"for {OTHER}; this machine is {MACHINE}"),
        (Target({"3.11": "3.12"}.get(PYTHON, "3.11"), MACHINE), "which is not here"),
    ],
)
def test_a_package_for_another_machine(
    install: Install, prefix: Path, tools: Path, tmp_path: Path, target: Target, told: str
) -> None:
    for version in {"3.11", "3.12", "3.13"} - {PYTHON}:  # whatever else this machine has
        script(tools / f"python{version}", "exit 1")
    script(tools / "python3", "exit 1")
    done = install(package(tmp_path, "1.0", target=target))
    assert done.returncode == 3
    assert told in done.stderr
    assert not prefix.exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--prefix"], 2),
        (["--prefix", "opt/octlet"], 2),
        (["--prefix", "/"], 2),
        (["--prefix", "/a b"], 2),
        (["--prefix", "/a/../b"], 2),
        (["--prefix", "/a/.."], 2),
        (["--prefix", "/a;b"], 2),
        (["--force"], 2),
        (["--rollback"], 1),
        (["--prefix", "/proc/octlet"], 1),
    ],
)
def test_what_it_refuses(install: Install, one: Path, words: list[str], code: int) -> None:
    done = install(one, *words)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("octlet install: ")


def test_two_at_a_time(install: Install, prefix: Path, one: Path) -> None:
    prefix.mkdir()
    with (prefix / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another installation" in install(one).stderr
    assert install(one).returncode == 0


def test_no_room(install: Install, prefix: Path, tools: Path, one: Path) -> None:
    script(tools / "df", "echo Filesystem Blocks Used Available; echo disk 9 9 0")
    done = install(one)
    assert done.returncode == 1
    assert "has 0 KiB free" in done.stderr
    assert not any((prefix / "releases").glob("*"))


# The service ------------------------------------------------------------------------------------------


def log(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    (tmp_path / "log").write_text("useradd\n" if lines else "")
    return [line for line in lines if line != "useradd"]


def test_the_service_follows_the_version(
    install: Install, prefix: Path, one: Path, two: Path, tmp_path: Path
) -> None:
    (tmp_path / "systemd").mkdir()
    units = tmp_path / "units"
    restart = ["systemctl daemon-reload", f"systemctl restart {UNIT}"]
    assert install(one).returncode == 0
    first = log(tmp_path)
    assert first[0].startswith("useradd --system --user-group")
    assert first[0].endswith(" octlet")
    assert first[1:] == restart
    assert (units / UNIT).readlink() == prefix / "current" / UNIT
    assert (units / "multi-user.target.wants" / UNIT).resolve() == (prefix / "current" / UNIT).resolve()
    assert f"ExecStart={prefix}/current/bin/octlet serve" in (units / UNIT).read_text()
    install(two)
    assert log(tmp_path) == restart  # the user is there, the links are
    install(one, "--rollback")
    assert log(tmp_path) == restart
    install(one, "--uninstall")
    assert log(tmp_path) == [f"systemctl stop {UNIT}", "systemctl daemon-reload"]
    assert [path for path in units.rglob("*") if not path.is_dir()] == []


def test_a_service_that_does_not_start_brings_the_old_version_back(
    install: Install, prefix: Path, tools: Path, one: Path, two: Path, tmp_path: Path
) -> None:
    (tmp_path / "systemd").mkdir()
    install(one)
    script(tools / "systemctl", f'test "$1" = daemon-reload || ! grep -q 2.0 {prefix}/current/package.json')
    done = install(two)
    assert done.returncode == 1
    assert "does not start: back to 1.0-" in done.stderr
    assert running(prefix) == "1.0"


def test_without_a_service(install: Install, one: Path, tmp_path: Path) -> None:
    (tmp_path / "systemd").mkdir()
    assert install(one, "--no-service").returncode == 0
    assert log(tmp_path) == []
    assert not (tmp_path / "units").exists()


# A stop at every step ---------------------------------------------------------------------------------


@pytest.fixture
def traced(tools: Path, prefix: Path, tmp_path: Path) -> Path:
    """Commands that change files first keep what the disk holds: what would be there after a stop right then.

    Where `STOP_AT` says so, they end the whole installation instead.
    """
    for name in STEPS:
        real = f"exec {shutil.which(name)}" if name not in ("sync", "useradd", "systemctl") else "exit 0 #"
        lines = [
            f'echo "{name} $*" >>{tmp_path}/steps',
            f"n=$(wc -l <{tmp_path}/steps)",
            f"test ! -e {prefix} || /bin/cp -a {prefix} {tmp_path}/state-$n",
            '[ "$n" != "$STOP_AT" ] || kill -KILL 0',
            f'{real} "$@"',
        ]
        script(tools / name, "\n".join(lines))
    return tools


@pytest.fixture
def trace(traced: Path, prefix: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Run the installer in a process group of its own; return the steps that it took."""

    def run(folder: Path, *words: str, stop_at: int = 0) -> list[str]:
        for old in tmp_path.glob("state-*"):
            shutil.rmtree(old)
        (tmp_path / "steps").write_text("")
        (tmp_path / "systemd").mkdir(exist_ok=True)
        environment = {
            "PATH": f"{traced}:{os.environ['PATH']}",
            "OCTLET_UNITS": str(tmp_path / "units"),
            "OCTLET_SYSTEMD": str(tmp_path / "systemd"),
            "STOP_AT": str(stop_at),
        }
        command = ["sh", folder / "install.sh", "--prefix", prefix, *words]
        done = subprocess.run(command, env=environment, capture_output=True, start_new_session=True)
        assert done.returncode == (-9 if stop_at else 0), done.stderr
        return (tmp_path / "steps").read_text().splitlines()

    return run


def put_back(state: Path, prefix: Path) -> None:
    shutil.rmtree(prefix, ignore_errors=True)
    shutil.copytree(state, prefix, symlinks=True)


Trace = Callable[..., list[str]]


def test_a_stop_at_any_step_leaves_a_version_that_works(
    trace: Trace, prefix: Path, one: Path, two: Path, tmp_path: Path
) -> None:
    trace(one)
    steps = trace(two)
    assert len(steps) > 15
    states = [
        shutil.copytree(tmp_path / f"state-{n}", tmp_path / f"kept-{n}", symlinks=True)
        for n in range(1, len(steps) + 1)
    ]
    (switch,) = [
        n for n, step in enumerate(steps) if step.startswith("mv") and step.endswith(f"{prefix}/current")
    ]
    for n, state in enumerate(states):
        put_back(state, prefix)
        assert running(prefix) == ("1.0" if n <= switch else "2.0"), steps[n]
    for n in (2, len(states) // 2, switch - 3, switch, switch + 1):  # and the next try is a whole one
        put_back(states[n], prefix)
        trace(two)
        assert running(prefix) == "2.0"
        assert releases(prefix) == ["1.0", "2.0"], steps[n]


def test_a_killed_installer_leaves_what_the_states_say(
    trace: Trace, prefix: Path, one: Path, two: Path
) -> None:
    trace(one)
    steps = trace(two, stop_at=7)
    assert len(steps) == 7
    assert running(prefix) == "1.0"
    assert len(list(prefix.glob("releases/.*.part"))) == 1
    trace(two)
    assert running(prefix) == "2.0"
    assert not list(prefix.glob("releases/.*.part"))


def test_everything_is_on_the_disk_before_the_link_changes(trace: Trace, one: Path, two: Path) -> None:
    trace(one)
    steps = [step.split()[0] for step in trace(two)]
    renames = [i for i, step in enumerate(steps) if step == "mv"]
    assert len(renames) == 3  # the release, 'previous', 'current'
    assert steps[renames[0] - 1] == "sync"
    for i in renames[1:]:
        assert steps[i - 2 : i + 2] == ["sync", "ln", "mv", "sync"]


def test_a_stopped_rollback_and_a_stopped_removal(
    trace: Trace, prefix: Path, one: Path, two: Path, tmp_path: Path
) -> None:
    trace(one)
    trace(two)
    before = shutil.copytree(prefix, tmp_path / "before", symlinks=True)
    for n in range(1, len(trace(two, "--rollback")) + 1):
        put_back(tmp_path / f"state-{n}", prefix)
        assert running(prefix) in ("1.0", "2.0")
    put_back(before, prefix)
    steps = len(trace(two, "--uninstall"))
    states = [tmp_path / f"state-{n}" for n in range(1, steps + 1)]
    kept = [shutil.copytree(state, tmp_path / f"kept{state.name}", symlinks=True) for state in states]
    for state in kept:
        put_back(state, prefix)
        trace(two, "--uninstall")
        assert not prefix.exists() or not any(prefix.iterdir())
