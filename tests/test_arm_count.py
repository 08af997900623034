"""Instructions of a prediction: the arithmetic, what marks the parts, and the counter under a fake QEMU."""

import ctypes
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from arm import count, counting, guest_predict
from arm.counting import Count, modelled_latency, pace, parse, per_part, spread, total
from PIL import Image

from octlet.core.errors import OctletError, UsageError
from octlet.core.labels import LABELS
from octlet.runtime import pi5


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
