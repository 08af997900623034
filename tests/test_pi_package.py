"""`octlet pi package`: what is in a package, that it is closed, and the same bytes again."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from easy import result_of
from pi_fakes import MACHINE, OTHER, PYTHON, model, octlet_wheel, wheel

from octlet.cli.main import main
from octlet.core.errors import InputError, OctletError, UsageError
from octlet.pi.deb import _version, write_deb
from octlet.pi.package import Package, assemble, device_file, read_record, write_archive
from octlet.pi.target import Target
from octlet.pi.wheels import collect, own_wheel, read_wheel

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb here to read it with")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file, an Octlet with dependencies that hang on the machine, and a folder of wheels."""
    root = tmp_path_factory.mktemp("parts")
    model(root / "m.octlet")
    shelf = root / "shelf"
    for name in ("always", "there", "here", "server"):
        wheel(shelf, name)
    wheel(shelf, "deep", "2.5", requires=(f"there>=1; platform_machine == '{OTHER}'",))
    octlet_wheel(
        root,
        "1.0",
        requires=(
            "always",
            "Deep>=2",
            f"here; platform_machine == '{MACHINE}'",
            "nowhere; sys_platform == 'win32'",
            "server; extra == 'serve'",
        ),
    )
    return root


@pytest.fixture(scope="module")
def made(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run the verb on the fakes, for another machine; return the folder and what it printed."""
    out = tmp_path_factory.mktemp("made")
    words = [parts / "m.octlet", "--python", PYTHON, "--machine", OTHER, "--out", out]
    options = ["--wheel", parts / "octlet-1.0-py3-none-any.whl", "--wheels", parts / "shelf"]
    return out, result_of("pi", "package", *words, *options)


# Contents ---------------------------------------------------------------------------------------------


def test_the_archive_is_whole_by_its_own_sums(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, told = made
    (archive,) = out.glob("*.tar")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"octlet-1.0-py{PYTHON.replace('.', '')}-{OTHER}"
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True
    )
    assert checked.returncode == 0, checked.stderr
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert files == listed | {"SHA256SUMS"}
    assert os.access(folder / "install.sh", os.X_OK)
    release = "1.0-" + hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()[:12]
    assert told["release"] == release
    assert read_record(archive) == json.loads((folder / "package.json").read_text())


def test_the_record_names_every_wheel_and_its_hash(made: tuple[Path, dict[str, Any]], parts: Path) -> None:
    told = made[1]
    hashes = {each["file"]: each["sha256"] for each in told["wheels"]}
    shelf = {path.name: path for path in (parts / "shelf").iterdir()} | {
        "octlet-1.0-py3-none-any.whl": parts / "octlet-1.0-py3-none-any.whl"
    }
    assert hashes == {name: hashlib.sha256(shelf[name].read_bytes()).hexdigest() for name in hashes}
    assert told["model"]["sha256"] == hashlib.sha256((parts / "m.octlet").read_bytes()).hexdigest()
    size = sum(entry.file_size for name in hashes for entry in zipfile.ZipFile(shelf[name]).infolist())
    assert told["unpacked_bytes"] == size


def test_dependencies_are_those_of_the_device_not_of_this_machine(made: tuple[Path, dict[str, Any]]) -> None:
    """pip judges 'platform_machine' by where it runs: 'there' would be missing, 'here' too much."""
    names = [each["file"].split("-")[0] for each in made[1]["wheels"]]
    assert names == ["always", "deep", "octlet", "server", "there"]


def packed(parts: Path, out: Path, names: list[str]) -> list[Path]:
    wheels = [read_wheel(path) for path in parts.rglob("*.whl") if path.name in names]
    package = assemble(parts / "m.octlet", reversed(wheels), Target(PYTHON, OTHER), service=True)
    written = [out / "p.tar", out / "p.deb"]
    write_archive(package, written[0])
    write_deb(package, written[1])
    return written


def test_the_same_parts_give_the_same_bytes(
    made: tuple[Path, dict[str, Any]], parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in parts.rglob("*"):
        os.utime(path, (1, 1))
    names = [each["file"] for each in made[1]["wheels"]]
    old = os.umask(0o077)
    try:
        again = packed(parts, tmp_path, names)
    finally:
        os.umask(old)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in again]
    assert hashes == [each["sha256"] for each in made[1]["written"]]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    with tarfile.open(packed(parts, tmp_path, names)[0]) as opened:
        assert {entry.mtime for entry in opened} == {1700000000}
        assert opened.getnames() == sorted(opened.getnames())  # not in the order of a set
        assert {(entry.uid, entry.gid, entry.uname) for entry in opened} == {(0, 0, "root")}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        packed(parts, tmp_path, names)


def test_without_the_server_there_is_no_service(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pi", "package", parts / "m.octlet", "--python", PYTHON, "--machine", MACHINE, "--no-serve"]
    options = ["--wheel", parts / "octlet-1.0-py3-none-any.whl", "--wheels", parts / "shelf"]
    assert main([str(word) for word in [*words, *options, "--out", tmp_path, "--format", "archive"]]) == 0
    told = capsys.readouterr()
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    assert not any(name.endswith(".service") for name in names)
    listed = [line.split("-")[0] for line in told.out.splitlines() if ".whl" in line]
    assert listed == ["always", "deep", "here", "octlet"]
    assert f"next: octlet pi deploy USER@HOST --archive {archive}" in told.err


# Octlet's own wheel -----------------------------------------------------------------------------------


def test_own_wheel_is_what_runs_here(tmp_path: Path) -> None:
    path = own_wheel(tmp_path, ())
    first = path.read_bytes()
    assert own_wheel(tmp_path, ()).read_bytes() == first
    target = tmp_path / "installed"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        target,
    ]
    done = subprocess.run(
        [*command, path], capture_output=True, text=True
    )  # pip checks RECORD as it installs
    assert done.returncode == 0, done.stderr
    package = Path(__import__("octlet").__file__).parent
    for name in ("core/bundle.py", "pi/device/install.sh", "pi/device/octlet-serve.service"):
        assert (target / "octlet" / name).read_bytes() == (package / name).read_bytes()
    shown = subprocess.run(
        [sys.executable, "-m", "octlet", "--version"],
        cwd=target,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert shown.stdout.startswith("octlet ")


def test_an_extra_that_this_installation_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not know: sever"):
        own_wheel(tmp_path, ["sever"])


# What is refused --------------------------------------------------------------------------------------


def test_a_wheel_that_is_nowhere(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shelf = tmp_path / "shelf"
    shutil.copytree(parts / "shelf", shelf)
    (shelf / "server-1.0-py3-none-any.whl").unlink()
    words = ["pi", "package", str(parts / "m.octlet"), "--python", PYTHON, "--machine", OTHER]
    words += ["--wheel", str(parts / "octlet-1.0-py3-none-any.whl"), "--wheels", str(shelf)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    assert "server" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_wheel_that_pip_leaves_out_for_good(parts: Path, tmp_path: Path) -> None:
    own = octlet_wheel(tmp_path, "1.0", requires=(f"absent; platform_machine == '{OTHER}'",))
    (tmp_path / "to").mkdir()
    with pytest.raises(OctletError, match="absent"):
        collect(own, (), Target(PYTHON, OTHER), tmp_path / "to", source=parts / "shelf")


@pytest.mark.parametrize("name", ["../up.py", "/root.py", "w-1.0.data/scripts/run"])
def test_a_wheel_that_needs_more_than_unpacking(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="needs more than unpacking"):
        read_wheel(wheel(tmp_path, "w", files={name: ""}))


@pytest.mark.parametrize("data", [b"", b"no zip"])
def test_what_is_no_wheel(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w-1.0-py3-none-any.whl"
    path.write_bytes(data)
    with pytest.raises(InputError, match="is not a wheel"):
        read_wheel(path)


def test_no_model_no_package(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "m.octlet"
    bad.write_bytes((parts / "m.octlet").read_bytes()[:-1])
    words = ["pi", "package", str(bad), "--python", PYTHON, "--wheels", str(parts / "shelf"), "--json"]
    assert main([*words, "--wheel", str(parts / "octlet-1.0-py3-none-any.whl"), "--out", str(tmp_path)]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["file"] == str(bad)


def test_targets() -> None:
    options = Target("3.13").pip_options()
    assert "--platform=manylinux_2_41_aarch64" in options
    assert "--platform=manylinux_2_42_aarch64" not in options
    assert "--platform=manylinux_2_37_aarch64" not in Target("3.11").pip_options()  # newer than its system
    with pytest.raises(UsageError, match=r"Python 3\.9"):
        Target("3.9")
    with pytest.raises(UsageError, match="armv7l"):
        Target("3.11", "armv7l")


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    for data in (b"", b"x" * 2000):
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(InputError, match="is not a package"):
            read_record(tmp_path / "a.tar")


# The Debian package -----------------------------------------------------------------------------------


def deb(*words: object) -> str:
    done = subprocess.run(["dpkg-deb", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_dpkg
def test_dpkg_reads_the_debian_package(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (path,) = made[0].glob("*.deb")
    fields = dict(
        line.split(": ", 1) for line in deb("--field", path).splitlines() if not line.startswith(" ")
    )
    minor = int(PYTHON.split(".")[1])
    assert fields["Package"] == "octlet"
    assert fields["Version"] == "1.0-1"
    assert fields["Architecture"] == {"aarch64": "arm64", "x86_64": "amd64"}[OTHER]
    assert fields["Depends"].startswith(f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1})")
    deb("--raw-extract", path, tmp_path)
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "opt/octlet/package", check=True
    )
    subprocess.run(["md5sum", "--check", "--quiet", "DEBIAN/md5sums"], cwd=tmp_path, check=True)
    assert str((tmp_path / "usr/bin/octlet").readlink()) == "/opt/octlet/current/bin/octlet"
    for name in ("postinst", "prerm", "postrm"):
        assert os.access(tmp_path / "DEBIAN" / name, os.X_OK)
    owners = {line.split()[1] for line in deb("--contents", path).splitlines()}
    assert owners == {"root/root"}


@needs_dpkg
@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.1.0.dev1", "0.1.0a1"), ("0.1.0a1", "0.1.0rc1"), ("0.1.0rc1", "0.1.0"), ("0.1.0", "0.1.1")],
)
def test_versions_sort_as_pythons_do(older: str, newer: str) -> None:
    a, b = (_version(Package({}, b"", {"version": version}, Target("3.11"))) for version in (older, newer))
    assert subprocess.run(["dpkg", "--compare-versions", a, "lt", b]).returncode == 0


# The device's own files -------------------------------------------------------------------------------

SCRIPTS = ("install.sh", "postinst", "prerm", "postrm")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_posix(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(device_file(name))
    assert subprocess.run(["sh", "-n", path]).returncode == 0
    shellcheck = os.environ.get("OCTLET_SHELLCHECK") or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("no shellcheck here; its syntax alone was looked at")
    done = subprocess.run([shellcheck, "--shell=sh", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    binary = tmp_path / "current/bin/octlet"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    path = tmp_path / "octlet-serve.service"
    path.write_bytes(device_file(path.name, {"PREFIX": str(tmp_path), "DENY_WRITE_EXECUTE": "yes"}))
    assert not re.search("@[A-Z_]+@", path.read_text())
    return path


def test_the_service_reports_to_nobody(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert {"Environment=ORT_DISABLE_TELEMETRY=1", "IPAddressDeny=any", "IPAddressAllow=localhost"} <= set(
        lines
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_unit_and_finds_little_exposed(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert not [line for line in done.stderr.splitlines() if "octlet-serve" in line], done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", unit]  # 1.5 of 10
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout.splitlines()[-1]
