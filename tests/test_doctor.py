"""`octlet doctor`, on machines that are folders of files, and on this one."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from octlet.cli.main import main
from octlet.core.bundle import GOLDEN, open_bundle, write_bundle
from octlet.runtime import doctor, machine
from octlet.runtime.doctor import FAULT, NOTE, OK, Diagnosis, Finding, examine
from octlet.runtime.engine import ENGINES
from octlet.runtime.machine import (
    Answer,
    Condition,
    Machine,
    Sources,
    ask,
    peak_bytes,
    read_condition,
    read_machine,
)
from octlet.runtime.verify import dump_golden, read_golden

# In the form that a Raspberry Pi 5 writes them; put together by hand, not recorded on one.
PI_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

processor\t: 1
Features\t: other

Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
PI_MODEL = "Raspberry Pi 5 Model B Rev 1.0\0"
MEMINFO = "MemTotal:        8256464 kB\nMemFree:         5161984 kB\n"
OLD_X86 = "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7-4770\nflags\t\t: fpu sse4_1 avx2 fma\n"

Write = Callable[..., Sources]


@pytest.fixture
def recorded(tmp_path: Path) -> Write:
    """Write files below a root, and answer vcgencmd with one line."""

    def write(files: dict[str, str], vcgencmd: Answer | None = None) -> Sources:
        root = tmp_path / "root"
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

        def run(words: Sequence[str]) -> Answer | None:
            assert tuple(words) == ("vcgencmd", "get_throttled")
            return vcgencmd

        return Sources(root, run)

    return write


def pi(recorded: Write, throttled: str = "0x0", celsius: str = "48312") -> Sources:
    files = {
        "proc/cpuinfo": PI_CPUINFO,
        "proc/meminfo": MEMINFO,
        "proc/device-tree/model": PI_MODEL,
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": f"{celsius}\n",
        "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
        "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
        "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
    }
    return recorded(files, Answer(0, f"throttled={throttled}\n"))


# What a machine says ------------------------------------------------------------------------------------


def test_a_pi_5(recorded: Write) -> None:
    sources = pi(recorded)
    found = read_machine(sources)
    assert (found.board, found.is_pi, found.cpu) == ("Raspberry Pi 5 Model B Rev 1.0", True, None)
    assert found.features == ("asimddp", "asimd", "fphp")
    assert found.memory_bytes == 8256464 * 1024
    assert read_condition(sources) == Condition(48.312, 0, False)


@pytest.mark.parametrize(
    ("bits", "now", "since_boot"),
    [
        ("0x0", (), ()),
        ("0x1", ("under-voltage",), ()),
        ("0x2", ("frequency capped",), ()),
        ("0x4", ("throttled",), ()),
        ("0x8", ("soft temperature limit",), ()),
        ("0x50000", (), ("under-voltage", "throttled")),
        ("0x50005", ("under-voltage", "throttled"), ("under-voltage", "throttled")),
        ("0xe0008", ("soft temperature limit",), ("frequency capped", "throttled", "soft temperature limit")),
    ],
)
def test_every_bit_of_get_throttled(
    recorded: Write, bits: str, now: tuple[str, ...], since_boot: tuple[str, ...]
) -> None:
    found = read_condition(pi(recorded, bits))
    assert (found.now, found.since_boot) == (now, since_boot)
    assert found.throttled == int(bits, 16)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        Answer(255, "VCHI initialization failed\n"),
        Answer(0, "error=1"),
        Answer(0, "throttled=?"),
        Answer(0, ""),
    ],
)
def test_a_vcgencmd_that_does_not_tell(recorded: Write, answer: Answer | None) -> None:
    assert read_condition(recorded({}, answer)) == Condition(None, None, None)


def test_the_voltage_sensor_needs_no_vcgencmd(recorded: Write) -> None:
    files = {"sys/class/hwmon/hwmon2/name": "rpi_volt\n", "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "1\n"}
    found = read_condition(recorded(files))
    assert (found.voltage_alarm, found.now, found.throttled) == (True, ("under-voltage",), None)
    both = recorded(files, Answer(0, "throttled=0x1"))
    assert read_condition(both).now == ("under-voltage",)


def test_what_is_not_told_is_none(recorded: Write) -> None:
    sources = recorded({})
    found = read_machine(sources)
    assert (found.board, found.cpu, found.features, found.memory_bytes) == (None, None, None, None)
    assert read_condition(sources) == Condition(None, None, None)
    assert peak_bytes(sources) is None
    disk = {"sys/class/thermal/thermal_zone0/type": "nvme", "sys/class/thermal/thermal_zone0/temp": "30000"}
    assert read_condition(recorded(disk)).celsius is None
    odd = {
        "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp",
        "sys/class/thermal/thermal_zone1/temp": "?",
    }
    assert read_condition(recorded(odd)).celsius is None


def test_the_peak_is_vmhwm(recorded: Write) -> None:
    status = "Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t   81920 kB\nVmRSS:\t   70000 kB\n"
    assert peak_bytes(recorded({"proc/self/status": status})) == 80 * 2**20


def test_commands_are_asked_or_missing() -> None:
    assert ask(("octlet-has-no-such-command",)) is None
    answer = ask(("sh", "-c", "echo throttled=0x0; exit 3"))
    assert answer == Answer(3, "throttled=0x0\n")


# What is found ------------------------------------------------------------------------------------------


@pytest.fixture
def _engines_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests of the machine a process for every engine."""
    monkeypatch.setattr(doctor.startup, "import_fault", lambda name: None)


def by_subject(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.subject: finding for finding in diagnosis.findings}


def diagnosed(sources: Sources, config: Path | None = None) -> Diagnosis:
    return examine((), config, sources)


@pytest.mark.usefixtures("_engines_import")
def test_a_sound_pi(recorded: Write, tmp_path: Path) -> None:
    diagnosis = diagnosed(pi(recorded), tmp_path / "none.toml")
    found = by_subject(diagnosis)
    assert diagnosis.exit_code == 0
    assert found["power and clock"] == Finding("power and clock", "nothing holds the CPU back")
    assert found["temperature"].found == "48.3 degrees Celsius"
    assert found["CPU features"].found.startswith("asimddp")
    assert found["CPU features"].state == found["temperature"].state == OK
    assert found["machine"].found.startswith("Raspberry Pi 5 Model B Rev 1.0, ")
    assert found["your choice"].found == "none; onnxruntime runs with every CPU"


@pytest.mark.usefixtures("_engines_import")
@pytest.mark.parametrize(
    ("bits", "state", "code", "advice"),
    [
        ("0x1", FAULT, 1, "27 W"),
        ("0x10000", NOTE, 0, "27 W"),
        ("0x8", FAULT, 1, "fan"),
        ("0x80000", NOTE, 0, "fan"),
        ("0x50005", FAULT, 1, "27 W supply that the Pi 5 is made for, and a short cable; cool it"),
    ],
)
def test_a_pi_that_is_held_back(recorded: Write, bits: str, state: str, code: int, advice: str) -> None:
    diagnosis = diagnosed(pi(recorded, bits))
    found = by_subject(diagnosis)["power and clock"]
    assert (found.state, found.exit_code, diagnosis.exit_code) == (state, code, code)
    assert advice in found.remedy
    assert ("fan" in found.remedy) == (bits not in ("0x1", "0x10000"))


@pytest.mark.usefixtures("_engines_import")
def test_a_hot_pi_and_one_that_does_not_tell(recorded: Write) -> None:
    hot = by_subject(diagnosed(pi(recorded, celsius="80000")))["temperature"]
    assert (hot.state, "fan" in hot.remedy) == (NOTE, True)
    silent = replace(pi(recorded), run=lambda words: None)
    found = by_subject(diagnosed(silent))["power and clock"]
    assert (found.state, "video" in found.remedy) == (NOTE, True)


@pytest.mark.usefixtures("_engines_import")
def test_a_cpu_without_8_bit_instructions(recorded: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for architecture, advice in (("x86_64", "sums exact"), ("aarch64", "hardly faster")):
        monkeypatch.setattr(machine.platform, "machine", lambda name=architecture: name)
        found = by_subject(diagnosed(recorded({"proc/cpuinfo": OLD_X86})))["CPU features"]
        assert found.state == NOTE
        assert found.found == "avx2; none for 8-bit integers"
        assert advice in found.remedy


def test_engines_that_are_missing_or_broken(recorded: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {name: replace(kind, package="octlet_has_none") for name, kind in ENGINES.items()}
    monkeypatch.setattr(doctor, "ENGINES", MappingProxyType(absent))
    diagnosis = diagnosed(recorded({}))
    found = by_subject(diagnosis)
    assert diagnosis.exit_code == 1
    assert (found["engine onnxruntime"].state, found["engine onnxruntime"].exit_code) == (FAULT, 1)
    assert found["engine litert"].state == NOTE
    assert found["engine litert"].remedy == 'pip install "octlet[litert]"'
    monkeypatch.setattr(doctor, "ENGINES", ENGINES)
    monkeypatch.setattr(doctor.startup, "import_fault", lambda name: "was ended by signal 4")
    found = by_subject(diagnosed(recorded({})))
    assert found["engine onnxruntime"].found == "cannot be imported: it was ended by signal 4"
    assert found["engine onnxruntime"].exit_code == 1


@pytest.mark.usefixtures("_engines_import")
def test_the_users_choice(recorded: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[runtime]\nengine = "onnxruntime"\nthreads = 3\n')
    assert (
        f"onnxruntime, threads: 3 ({config})"
        == by_subject(diagnosed(recorded({}), config))["your choice"].found
    )
    config.write_text('[runtime]\nengine = "openvino"\n')
    for architecture in ("x86_64", "aarch64"):
        monkeypatch.setattr(machine.platform, "machine", lambda name=architecture: name)
        found = by_subject(diagnosed(recorded({}), config))
        assert ("your engine" in found) == (architecture == "aarch64")
    assert found["your engine"].state == NOTE
    broken = {"onnxruntime": None, "litert": None, "openvino": "failed"}
    monkeypatch.setattr(doctor.startup, "import_fault", broken.get)
    found = by_subject(diagnosed(recorded({}), config))["your choice"]
    assert (found.state, found.exit_code) == (FAULT, 2)
    assert found.found == f"{config}: the engine openvino cannot be used here"
    config.write_text("[runtime]\nthread = 3\n")
    diagnosis = diagnosed(recorded({}), config)
    found = by_subject(diagnosis)["your choice"]
    assert (found.state, diagnosis.exit_code) == (FAULT, 2)
    assert str(config) in found.found
    assert found.remedy == "did you mean 'threads'?"


# The verb -----------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_a_sound_machine_and_model(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("octlet.runtime.doctor.read_condition", lambda sources: Condition())
    monkeypatch.setenv("OCTLET_MODEL", str(model_file))
    code, out, err = run(capsys, "doctor")
    assert code == 0, out
    rows = [line for line in out.splitlines() if str(model_file) in line]
    assert "whole; 'tiny', for onnxruntime" in rows[0]
    installed = [name for name in ("onnxruntime", "openvino") if ENGINES[name].installed]
    for name, row in zip(installed, rows[1:], strict=True):
        assert f"{model_file}, {name}" in row
        assert "computes what the exporting machine did" in row
    assert f"next: octlet benchmark {model_file}" in err


def test_the_worst_fault_gives_the_exit_code(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged file (4) and one that computes something else (5); the report is one JSON document."""
    only = {"onnxruntime": ENGINES["onnxruntime"]}
    monkeypatch.setattr(doctor, "ENGINES", MappingProxyType(only))
    monkeypatch.setattr("octlet.runtime.doctor.read_condition", lambda sources: Condition())
    damaged, changed = tmp_path / "damaged.octlet", tmp_path / "changed.octlet"
    data = bytearray(model_file.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    code, out, err = run(capsys, "doctor", damaged)
    assert code == 4
    assert "what to do" in out
    assert "copy or download the model file again" in out
    assert "1 of " in err

    bundle = open_bundle(model_file)
    first, *rest = read_golden(bundle)
    moved = replace(first, outputs=replace(first.outputs, logits=np.roll(first.outputs.logits, 1, axis=1)))
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(changed, bundle.manifest, contents | {GOLDEN: dump_golden([moved, *rest])})
    code, out, _ = run(capsys, "doctor", damaged, changed, tmp_path / "none.octlet", "--json")
    found: dict[str, Any] = json.loads(out)
    assert (code, found["exit_code"], found["sound"]) == (5, 5, False)
    faults = [each for each in found["findings"] if each["state"] == FAULT]
    assert [each["exit_code"] for each in faults] == [4, 5, 4]
    assert "logits" in faults[1]["found"]
    assert found["machine"]["cpus"] == os.cpu_count()
    assert set(found["condition"]) == {"celsius", "throttled", "voltage_alarm", "now", "since_boot"}


@pytest.mark.usefixtures("_engines_import")
def test_a_file_that_does_not_serve_the_chosen_engine(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor.startup, "start", lambda path, name, threads: doctor.startup.Startup(name, 1, None, ())
    )
    config = tmp_path / "config.toml"
    config.write_text('[runtime]\nengine = "litert"\n')
    if not ENGINES["litert"].installed:
        pytest.skip("ai-edge-litert is not installed")
    diagnosis = examine((model_file,), config, progress=lambda text: None)
    faults = [each for each in diagnosis.findings if each.state == FAULT]
    assert [each.found for each in faults] == ["holds nothing for your engine, litert"]
    assert faults[0].remedy == "octlet predict --engine onnxruntime"


def test_the_name_of_a_machine() -> None:
    bare = Machine("Darwin", "arm64", None, None, 8, None, None)
    assert bare.name == "Darwin on arm64, 8 CPUs"
    assert replace(bare, cpu="A CPU", cpus=1).name == "A CPU, 1 CPU"
    assert json.dumps(bare.as_dict())
