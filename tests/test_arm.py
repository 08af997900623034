"""What `make arm` reckons with, without QEMU and without a network."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from arm import __main__ as command
from arm import check, debian, haswell, userland
from arm.agreement import Agreement, as_csv, choose, compare
from arm.userland import Userland, wheels_key
from click.testing import CliRunner
from PIL import Image

from octlet.core.errors import InputError, OctletError, UsageError
from octlet.core.labels import LABELS
from octlet.runtime.machine import Sources, read_machine

# Debian packages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (
            "Types: deb\nURIs: http://bookworm.example/debian\nSuites: bookworm bookworm-updates\n",
            "Types: deb\nURIs: http://bookworm.example/debian\nSuites: trixie trixie-updates\n",
        ),
        (
            "deb http://m.example/bookworm/ bookworm main\ndeb http://s.example bookworm-security main",
            "deb http://m.example/bookworm/ trixie main\ndeb http://s.example trixie-security main",
        ),
        ("deb http://m.example/bookworm bookworm main", "deb http://m.example/bookworm trixie main"),
        ("deb http://m.example sid main\n", "deb http://m.example sid main\n"),
    ],
)
def test_only_the_release_of_the_sources_changes(sources: str, expected: str) -> None:
    assert debian.for_release(sources, "bookworm", "trixie") == expected


def script(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder / name


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> debian.Apt:
    """apt for a release with stand-ins for its programs: two packages, of one file each."""
    archives = tmp_path / "state/cache/archives"
    get = f'case "$*" in *install*) echo 1 >{archives}/a.deb; echo 2 >{archives}/b.deb;; esac'
    script(tmp_path / "bin", "apt-get", f'echo "$APT_CONFIG $*" >>{tmp_path}/said\n{get}')
    script(tmp_path / "bin", "dpkg-deb", 'mkdir -p "$3/usr/lib" && cp "$2" "$3/usr/lib"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "etc/sources.list.d").mkdir(parents=True)
    (tmp_path / "etc/sources.list.d/x.sources").write_text("Suites: bookworm\n")
    monkeypatch.setattr(debian, "SOURCES", tmp_path / "etc")
    monkeypatch.setattr(debian, "own_release", lambda: "bookworm")
    return debian.Apt(tmp_path / "state", "trixie", "arm64")


def test_packages_are_unpacked_from_lists_of_their_own(apt: debian.Apt, tmp_path: Path) -> None:
    apt.update()
    assert (apt.state / "parts/x.sources").read_text() == "Suites: trixie\n"
    settings = (apt.state / "apt.conf").read_text()
    assert 'APT::Architecture "arm64"' in settings
    assert f'Dir::State::status "{apt.state}/status"' in settings
    apt.unpack(["p"], tmp_path / "root")
    assert sorted(path.name for path in (tmp_path / "root/usr/lib").iterdir()) == ["a.deb", "b.deb"]
    assert (tmp_path / "root/lib").readlink() == Path("usr/lib")
    said = (tmp_path / "said").read_text().splitlines()
    assert all(line.startswith(f"{apt.state}/apt.conf ") for line in said)
    assert said[-1].endswith("--download-only install p")


def test_a_package_that_does_not_unpack_leaves_no_root(apt: debian.Apt, tmp_path: Path) -> None:
    apt.update()
    script(tmp_path / "bin", "dpkg-deb", "echo 'dpkg-deb: error: broken' >&2; exit 2")
    with pytest.raises(OctletError, match="dpkg-deb: error: broken"):
        apt.unpack(["p"], tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_list_that_cannot_be_fetched_is_an_error_though_apt_says_0(apt: debian.Apt, tmp_path: Path) -> None:
    script(tmp_path / "bin", "apt-get", "echo 'E: Failed to fetch' >&2")
    with pytest.raises(OctletError, match="E: Failed to fetch"):
        apt.update()


def test_without_apt_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(command.main, ["check"])
    assert done.exit_code == UsageError.exit_code
    assert "qemu is missing" in done.stderr
    done = CliRunner().invoke(command.main, ["check", "--if-possible"])
    assert done.exit_code == 0
    assert "NOT CHECKED on this machine: qemu is missing" in done.stderr


# The userland -------------------------------------------------------------------------------------------


def test_wheels_are_fetched_again_only_when_their_own_pins_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def pip(*words: object) -> None:
        calls.append(words)
        (Path(str(words[2])) / "Ml.Dtypes-1.0.dist-info").mkdir(parents=True)

    monkeypatch.setattr(userland, "pip", pip)
    pins, site = tmp_path / "constraints.txt", tmp_path / "site"
    for text in ("ml_dtypes==1.0\ntorch==2\n", "ml_dtypes==1.0\ntorch==3\n", "ml_dtypes==1.1\ntorch==3\n"):
        pins.write_text(text)
        userland.install_wheels(site, "3.13", ["ml-dtypes"], pins)
    assert len(calls) == 2
    assert {"--python-version=3.13", "--abi=cp313", "--platform=manylinux_2_36_aarch64"} < set(calls[0])
    assert wheels_key(site, ["ml-dtypes"], pins) == "ml-dtypes\nml_dtypes==1.1"

    def fails(*words: object) -> None:
        raise OctletError("no such wheel")

    monkeypatch.setattr(userland, "pip", fails)
    pins.write_text("ml_dtypes==1.2\n")
    with pytest.raises(OctletError, match="no such wheel"):
        userland.install_wheels(site, "3.13", ["ml-dtypes"], pins)
    assert (site / "Ml.Dtypes-1.0.dist-info").exists()


def test_the_command_runs_the_emulator_with_the_sites_and_names_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder"
    show = 'for word; do echo "$word"; done; echo "$PYTHONPATH"'
    emulator = script(folder, "qemu-aarch64", show)
    monkeypatch.setattr(userland, "qemu", lambda folder: (emulator,))
    monkeypatch.setattr(userland, "prepare_qemu", lambda folder: None)
    monkeypatch.setattr(userland, "install_wheels", lambda *words: None)
    (folder / "root-3.11").mkdir()
    land = Userland(folder, "3.11")
    land.prepare()
    itself = land.command("engines", "tests")
    said = subprocess.run([itself, "-c", "x y"], capture_output=True, text=True, check=True).stdout
    python = str(folder / "root-3.11/usr/bin/python3.11")
    words = ["-L", str(land.root), "-cpu", "cortex-a76", "-0", str(itself), python, "-c", "x y"]
    sites = [folder / "octlet", *(land.site / name for name in ("device", "engines", "tests"))]
    assert said.splitlines() == [*words, ":".join(map(str, sites))]
    assert (land.root / "proc/cpuinfo").read_text().count("CPU part\t: 0xd0b") == 4
    assert str(land.site / "tests") not in land.command().read_text()


# Agreement ----------------------------------------------------------------------------------------------


def document(*rows: tuple[str, str, list[float]], errors: list[Any] | None = None) -> dict[str, Any]:
    predictions = [
        {"file": file, "label": label, "probabilities": dict(zip(LABELS, shares, strict=True))}
        for file, label, shares in rows
    ]
    return {"predictions": predictions, "errors": errors or []}


def test_labels_are_counted_and_the_largest_difference_is_found() -> None:
    here = document(("x/a", "CNV", [0.7, 0.3, 0, 0]), ("x/b", "DME", [0.1, 0.5, 0.4, 0]))
    there = document(("x/a", "CNV", [0.69, 0.31, 0, 0]), ("x/b", "DRUSEN", [0.1, 0.4, 0.5, 0]))
    n, same, largest, at = compare(here, there)
    assert (n, same, at) == (2, 1, "b")
    assert math.isclose(largest, 0.1)
    assert compare(here, here) == (2, 2, 0.0, "b")
    assert compare(document(), document()) == (0, 0, 0.0, "")


def test_what_cannot_be_compared() -> None:
    one, two = document(("a", "CNV", [1, 0, 0, 0])), document(("b", "CNV", [1, 0, 0, 0]))
    with pytest.raises(InputError, match="different scans"):
        compare(one, two)
    with pytest.raises(InputError, match="different scans"):
        compare(one, document())
    other = {"predictions": [one["predictions"][0] | {"probabilities": {"CNV": 1.0}}], "errors": []}
    with pytest.raises(InputError, match="different classes"):
        compare(one, other)
    with pytest.raises(InputError, match="cut short"):
        compare(one, document(errors=[{"file": "a", "message": "cut short"}]))


@pytest.mark.parametrize(("n", "same", "passed"), [(3, 3, True), (3, 2, False), (0, 0, False)])
def test_every_label_must_be_the_same_and_none_is_not_enough(n: int, same: int, passed: bool) -> None:
    row = Agreement("q", "3.11", "onnxruntime", "m", "real", n, same, 0.0123456, "a")
    assert row.passed is passed
    assert as_csv([row]).splitlines()[1] == f"q,3.11,onnxruntime,m,real,{n},{same},0.01235,a"


def test_some_scans_of_each_class_and_shape_always_the_same(tmp_path: Path) -> None:
    for label in ("CNV", "DME"):
        (tmp_path / label).mkdir()
        for k in range(9):
            size = (32, 20) if k % 3 else (48, 20)
            Image.new("L", size).save(tmp_path / label / f"{label}-{k}.jpeg")
    chosen = choose(tmp_path, 2)
    kinds = [(path.parent.name, Image.open(path).size) for path in chosen]
    assert sorted(kinds) == sorted(2 * [(c, s) for c in ("CNV", "DME") for s in ((32, 20), (48, 20))])
    assert choose(tmp_path, 2) == chosen
    wide = [f"DME-{k}.jpeg" for k in (0, 3, 6)]  # of one class and shape
    first = sorted(wide, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:2]
    assert {path.name for path in chosen} & set(wide) == set(first) != set(wide[:2])
    (tmp_path / "CNV/late.jpeg").write_bytes((tmp_path / "CNV/CNV-1.jpeg").read_bytes())
    assert len(set(chosen) - set(choose(tmp_path, 2))) <= 1
    with pytest.raises(InputError, match=r"no \.jpeg or \.png image"):
        choose(tmp_path / "CNV/late.jpeg", 2)


def test_the_report_of_pytest_is_read(tmp_path: Path) -> None:
    tests = "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip()\n"
    tests += "@pytest.fixture\ndef f(): raise OSError\ndef test_d(f): pass\ndef test_e(): pass\n"
    (tmp_path / "test_x.py").write_text(tests)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=r.xml", "test_x.py"]
    subprocess.run(words, cwd=tmp_path, capture_output=True, check=False)
    assert check.outcome((tmp_path / "r.xml").read_text()) == (2, 1, 2)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_file: Path) -> Callable[[str], Any]:
    """`arm check` with this machine's Python for the emulated one, which runs what it is told first."""
    root = tmp_path / "scans"
    root.mkdir()
    Image.linear_gradient("L").save(root / "a.jpeg")
    Image.radial_gradient("L").save(root / "b.jpeg")
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "_prepared", lambda pythons: [Userland(tmp_path, p) for p in pythons])
    monkeypatch.setattr(command, "install_octlet", lambda folder: None)
    monkeypatch.setattr(check, "qemu_version", lambda folder: "7.2")
    monkeypatch.setattr(check.phantom, "scans", lambda folder: sorted(root.iterdir()))
    monkeypatch.setattr(check.phantom, "models", lambda folder: (model_file,))

    def run(first: str) -> Any:
        body = f'{first}\nexec {sys.executable} "$@"'
        for name in ("python3.11", "python3.11-engines"):
            script(tmp_path, name, body)
        words = ["check", "--python", "3.11", "--no-tests", "--out", str(tmp_path / "out.csv")]
        return CliRunner().invoke(command.main, words)

    return run


def test_the_same_machine_agrees_with_itself(stand_in: Callable[[str], Any], tmp_path: Path) -> None:
    done = stand_in("")
    assert done.exit_code == 0, done.output
    assert "Python 3.11: octlet verify, tiny: passed" in done.stdout
    row = (tmp_path / "out.csv").read_text().splitlines()[1]
    machine = '"qemu-aarch64 7.2, -cpu cortex-a76"'
    assert row.startswith(f"{machine},3.11,onnxruntime,tiny,simulated,2,2,0,")


def test_another_answer_fails(stand_in: Callable[[str], Any], model_file: Path) -> None:
    predict = [sys.executable, "-m", "octlet", "predict", "-m", model_file, "--json"]
    scans = check.phantom.scans(Path())
    said = subprocess.run([*predict, *scans], capture_output=True, text=True, check=True).stdout
    other = json.loads(said)
    label = other["predictions"][0]["label"]
    other["predictions"][0]["label"] = next(name for name in LABELS if name != label)
    answer = json.dumps(other)
    done = stand_in(f"case $3 in predict) cat <<'END'\n{answer}\nEND\nexit 0;; esac")
    assert done.exit_code == 5
    assert "1 of 2" in done.stdout
    assert "does not give the same answers" in done.stderr


# An older x86 ------------------------------------------------------------------------------------------


def test_the_haswell_has_a_cpuinfo_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = script(tmp_path, "qemu-x86_64", 'for word; do echo "$word"; done')
    monkeypatch.setattr(haswell, "qemu", lambda folder, guest: (folder / f"qemu-{guest}",))
    said = subprocess.run(
        [haswell.command(tmp_path), "-c", "x y"], capture_output=True, text=True, check=True
    )
    root = tmp_path / "root-haswell"
    assert said.stdout.splitlines() == ["-L", str(root), "-cpu", "Haswell", sys.executable, "-c", "x y"]
    assert emulator.exists()
    told = read_machine(Sources(root))
    assert told.features == ("avx2",)
    assert replace(told, architecture="x86_64").clips_sums


@pytest.mark.parametrize(("off", "code"), [(0.0, 0), (1e-6, 0), (1e-4, 5)])
def test_an_older_cpu_must_give_the_same_numbers(
    off: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_file: Path
) -> None:
    rows = {
        Path(sys.executable): document(("a", "CNV", [0.7, 0.3, 0, 0])),
        tmp_path / "there": document(("a", "CNV", [0.7 - off, 0.3 + off, 0, 0])),
    }
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(haswell, "prepare_qemu", lambda folder: None)
    monkeypatch.setattr(haswell.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(command.phantom, "scans", lambda folder: [tmp_path / "a"])
    monkeypatch.setattr(command.phantom, "models", lambda folder: (model_file,))
    monkeypatch.setattr(haswell, "command", lambda folder: tmp_path / "there")
    monkeypatch.setattr(haswell, "qemu_version", lambda folder: "7.2")
    monkeypatch.setattr(haswell, "predict", lambda python, model, engine, scans: rows[python])
    monkeypatch.delenv("OCTLET_DATA", raising=False)
    done = CliRunner().invoke(command.main, ["haswell", "--out", str(tmp_path / "out.csv")])
    assert done.exit_code == code, done.output
    assert ("does not give the same answers" in done.stderr) == (code == 5)
    text = (tmp_path / "out.csv").read_text()
    assert '"qemu-x86_64 7.2, -cpu Haswell"' in text
    assert "oct4-pi5" in text


def test_another_machine_is_no_haswell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haswell.platform, "machine", lambda: "aarch64")
    done = CliRunner().invoke(command.main, ["haswell"])
    assert done.exit_code == UsageError.exit_code
    assert "not one for x86-64" in done.stderr
    assert CliRunner().invoke(command.main, ["haswell", "--if-possible"]).exit_code == 0
