"""What `make arm` and `make arm-count` reckon with, without QEMU and without a network."""

import ctypes
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from arm import __main__ as command
from arm import check, count, counting, debian, guest_predict, userland
from arm.agreement import Agreement, as_csv, choose, compare
from arm.counting import Count, modelled_latency, pace, parse, per_part, spread, total
from arm.userland import Userland, wheels_key
from click.testing import CliRunner
from PIL import Image

from octlet.core.errors import InputError, OctletError, UsageError
from octlet.core.labels import LABELS
from octlet.runtime import pi5

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


# Counting -----------------------------------------------------------------------------------------------


def test_a_mark_ends_each_part_of_each_prediction(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[int] = []

    def close(descriptor: int) -> None:
        closed.append(descriptor)
        raise OSError

    Image.linear_gradient("L").save(tmp_path / "a.jpeg")
    monkeypatch.setattr(guest_predict.os, "close", lambda d: close(d) if d < 0 else None)
    guest_predict.main(str(model_file), "onnxruntime", str(tmp_path / "a.jpeg"), 3)
    assert closed == [guest_predict.MARK] * (1 + 3 * len(guest_predict.PARTS))
    assert capsys.readouterr().out.strip() in LABELS
    assert f"#define MARK ({guest_predict.MARK})" in (count.HERE / "insn_count.c").read_text()


def marks(*predictions: tuple[int, ...], start: int = 1000) -> str:
    """What the counter writes: after the start, one line for each part of each prediction."""
    lines, now = [f"{start},0,0,0"], start
    for taken in predictions:
        for number in taken:
            now += number
            lines.append(f"{now},{now // 10},0,{now // 2}")
    return "\n".join(lines) + "\n"


def test_parts_are_medians_of_differences() -> None:
    counted = parse(marks((10, 20, 3000, 1), (11, 20, 3100, 2), (50, 20, 3050, 1)))
    parts = per_part(counted)
    assert [parts[name].all for name in guest_predict.PARTS] == [11, 20, 3050, 1]
    assert total(parts).all == 3082
    assert spread(counted) == pytest.approx(3133 / 3031 - 1)


@pytest.mark.parametrize("text", ["", "1,2,3,4\n", marks((1, 2, 3, 4)) + "9,9,9,9\n", "1,2\n", "a,b,c,d\n"])
def test_counters_that_are_cut_short(text: str) -> None:
    with pytest.raises(OctletError, match=r"malformed|marks"):
        parse(text)


def of_network(instructions: int, serial: int = 0) -> dict[str, Count]:
    none = Count(0, 0, 0, 0)
    return {"decode": replace(none, all=serial), "preprocessing": none, "answer": none} | {
        "network": replace(none, all=instructions)
    }


def test_the_modelled_latency_of_the_reference_is_that_of_its_macs() -> None:
    """Where nothing but the calibrating network runs, both models of the Pi 5 must say the same."""
    instructions, macs = 720_000_000, 7.8e9
    ours = modelled_latency(of_network(instructions), pace(instructions, macs))
    other = pi5.modelled_latency(macs, 0)
    assert (ours.value, ours.low, ours.high) == pytest.approx((other.value, other.low, other.high))
    assert ours.low < ours.value < ours.high


def test_the_network_has_four_cores_and_the_rest_one() -> None:
    rate = counting.Pace(2.0, 1.0, 4.0)
    latency = modelled_latency(of_network(4_800_000_000, 2_400_000), rate)
    assert latency.value == pytest.approx(1e3 * (4.8e9 / 4 + 2.4e6) / (2 * 2.4e9))
    assert (latency.low, latency.high) == pytest.approx((latency.value / 2, latency.value * 2))


def counted(name: str, engine: str, quantised: bool, instructions: int, macs: int = 10**9) -> count.Counted:
    subject = count.Subject(name, Path("m"), 256, quantised, macs)
    return count.Counted(subject, engine, "1.0", of_network(instructions, 10**6), 0.001)


def test_rows_are_compared_with_the_first_and_calibrated_by_dense_integers_in_litert() -> None:
    runs = [
        counted("float", "onnxruntime", False, 3 * 10**9),
        counted("int8", "onnxruntime", True, 8 * 10**8),
        counted("pruned", "litert", True, 3 * 10**8, macs=4 * 10**8),
        counted("int8", "litert", True, 7 * 10**8),
    ]
    assert count.reference(runs) is runs[3]
    assert count.reference(runs[:3]) is runs[2]
    assert count.reference(runs[:2]) is runs[1]
    rows, rate = count.rows(runs)
    assert rate.value == pytest.approx(pi5.PUBLISHED[0].macs * 0.7 / (0.02064 * 9.6e9))
    assert [row.times_fewer for row in rows] == pytest.approx([1, 3001 / 801, 3001 / 301, 3001 / 701])
    assert rows[1].total == rows[1].network + rows[1].decode == 801
    with pytest.raises(UsageError, match="no int8 model"):
        count.rows(runs[:1])


@pytest.mark.parametrize("words", [["model.octlet"], ["=m"], ["a="], ["a=m", "a=n"]])
def test_models_have_names_of_their_own(words: list[str]) -> None:
    with pytest.raises(UsageError, match="does not name a model file"):
        count.subjects(words)


def test_what_a_model_file_takes_is_asked_of_octlet(model_file: Path, tmp_path: Path) -> None:
    (found,) = count.subjects([f"a={model_file}"])
    assert (found.name, found.size, found.quantised) == ("a", 64, False)
    assert found.macs > 10**5
    with pytest.raises(UsageError, match="no such model file"):
        count.subjects([f"a={tmp_path / 'none.octlet'}"])


# The counter in C ---------------------------------------------------------------------------------------

# A QEMU that runs one block of instructions, and lets the program close the descriptor that is a mark.
_FAKE_QEMU = """
#include "insn_count.c"
static on_block_fn block_fn; static on_syscall_fn syscall_fn; static on_exit_fn exit_fn;
static const uint32_t *words; static size_t length;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, on_block_fn f) { (void)id; block_fn = f; }
void qemu_plugin_register_vcpu_syscall_cb(plugin_id id, on_syscall_fn f) { (void)id; syscall_fn = f; }
void qemu_plugin_register_atexit_cb(plugin_id id, on_exit_fn f, void *d) { (void)id, (void)d; exit_fn = f; }
void qemu_plugin_register_vcpu_tb_exec_inline(struct block *b, enum inline_op o, void *p, uint64_t n)
{ (void)b, (void)o; *(uint64_t *)p += n; }
size_t qemu_plugin_tb_n_insns(const struct block *b) { (void)b; return length; }
struct instruction *qemu_plugin_tb_get_insn(const struct block *b, size_t i)
{ (void)b; return (struct instruction *)(words + i); }
const void *qemu_plugin_insn_data(const struct instruction *i) { return i; }
EXPORT int run(const char *out, const uint32_t *block, size_t n, int64_t number, uint64_t descriptor)
{
    char *argv[] = {(char *)out};
    if (qemu_plugin_install(1, NULL, 1, argv)) return 1;
    words = block, length = n;
    block_fn(1, NULL);
    syscall_fn(1, 0, number, descriptor, 0, 0, 0, 0, 0, 0, 0);
    exit_fn(1, NULL);
    return 0;
}
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "fake.c").write_text(_FAKE_QEMU)
    words = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{count.HERE}"]
    subprocess.run([compiler, *words, "-o", folder / "fake.so", folder / "fake.c"], check=True)
    return ctypes.CDLL(str(folder / "fake.so"))


# Encodings as an assembler writes them: all, SDOT or UDOT, FMLA of single precision, loads and stores.
@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (0x4E829420, "dot"),  # sdot v0.4s, v1.16b, v2.16b
        (0x6E9F97FF, "dot"),  # udot v31.4s, v31.16b, v31.16b
        (0x4F82E020, "dot"),  # sdot v0.4s, v1.16b, v2.4b[0]
        (0x6FBFEBFF, "dot"),  # udot v31.4s, v31.16b, v31.4b[3]
        (0x4E22CC20, "fmla"),  # fmla v0.4s, v1.4s, v2.4s
        (0x4FBF1BFF, "fmla"),  # fmla v31.4s, v31.4s, v31.s[3]
        (0x4E62CC20, ""),  # fmla v0.2d, v1.2d, v2.2d
        (0x4EA2CC20, ""),  # fmls v0.4s, v1.4s, v2.4s
        (0xF9400020, "load_store"),  # ldr x0, [x1]
        (0xA9BF7BFD, "load_store"),  # stp x29, x30, [sp, #-16]!
        (0x4C407020, "load_store"),  # ld1 {v0.16b}, [x1]
        (0x8B020020, ""),  # add x0, x1, x2
        (0x14000001, ""),  # b
        (0x4E209420, ""),  # mla v0.16b, v1.16b, v0.16b
    ],
)
def test_instructions_are_told_apart(plugin: ctypes.CDLL, tmp_path: Path, word: int, kind: str) -> None:
    before = _counts(plugin, tmp_path, [])
    after = _counts(plugin, tmp_path, [word, 0xD503201F])
    found = {name: getattr(after, name) - getattr(before, name) for name in ("dot", "fmla", "load_store")}
    assert found == {name: int(name == kind) for name in found}
    assert after.all - before.all == 2


def _counts(plugin: ctypes.CDLL, folder: Path, block: list[int]) -> Count:
    """Run a block and read the counters, which go on from those of the block before."""
    words, out = (ctypes.c_uint32 * len(block))(*block), folder / "out"
    descriptor = ctypes.c_uint64(guest_predict.MARK & 0xFFFFFFFF)
    call = (ctypes.c_size_t(len(block)), ctypes.c_int64(57), descriptor)
    assert plugin.run(f"out={out}".encode(), words, *call) == 0
    return Count(*map(int, out.read_text().split(",")))


def test_other_calls_are_no_marks(plugin: ctypes.CDLL, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number, descriptor in ((57, 3), (56, guest_predict.MARK & 0xFFFFFFFF)):
        words = (ctypes.c_uint32 * 0)()
        call = (ctypes.c_size_t(0), ctypes.c_int64(number), ctypes.c_uint64(descriptor))
        assert plugin.run(f"out={out}".encode(), words, *call) == 0
        assert out.read_text() == ""
    assert plugin.run(f"out={tmp_path}/none/out".encode(), words, *call) == 1
