"""What a machine says of itself: its CPU, its memory, how hot it is and whether it is held back.

Everything is read through `Sources`: Linux's /proc and /sys, and vcgencmd of the Raspberry Pi. What a machine
does not tell is None, never a guess.
"""

import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Instructions that multiply and add 8-bit integers in one step, as Linux names them: Arm's SDOT and SMMLA,
# x86's VNNI and AMX.
INT8_FEATURES = ("asimddp", "i8mm", "avx_vnni", "avx512_vnni", "amx_int8")
_OTHER_FEATURES = ("asimd", "fphp", "avx2", "avx512f")
_CPU_SENSORS = ("cpu-thermal", "cpu_thermal", "x86_pkg_temp")

# Bits of `vcgencmd get_throttled`; the same 16 places higher: since the machine was started.
# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
HELD_BACK = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_SINCE_BOOT = 16


@dataclass(frozen=True)
class Answer:
    """What a command said: its exit status, and its stdout."""

    status: int
    text: str


def ask(words: Sequence[str]) -> Answer | None:
    """Run a command for ten seconds at most; None where there is no such command, or no answer."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Answer(done.returncode, done.stdout)


@dataclass(frozen=True)
class Sources:
    """Where a machine is asked: the root of its file system, and what runs a command."""

    root: Path = Path("/")
    run: Callable[[Sequence[str]], Answer | None] = ask

    def text(self, path: str) -> str | None:
        """Return a file's text without the space and NUL at its ends; None if it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip("\0 \n")
        except OSError:
            return None


@dataclass(frozen=True)
class Machine:
    """What does not change while it runs.

    Attributes:
        system, architecture: as Python names them: "Linux", "aarch64".
        board: of a machine with a device tree, "Raspberry Pi 5 Model B Rev 1.0".
        cpu: model name, where Linux tells it.
        cpus: that the system has.
        features: those of the CPU's features that matter to a network.
        memory_bytes: of the machine.
    """

    system: str
    architecture: str
    board: str | None
    cpu: str | None
    cpus: int
    features: tuple[str, ...] | None
    memory_bytes: int | None

    @property
    def is_pi(self) -> bool:
        """Whether it is a Raspberry Pi."""
        return (self.board or "").startswith("Raspberry Pi")

    @property
    def multiplies_bytes(self) -> bool:
        """Whether its CPU tells of an instruction of `INT8_FEATURES`."""
        return not set(self.features or ()).isdisjoint(INT8_FEATURES)

    @property
    def clips_sums(self) -> bool:
        """Whether it is an x86 CPU that tells its features, and none for bytes.

        VPMADDUBSW, used in their place, adds two products in 16 bits that saturate (Intel SDM, vol. 2).
        """
        known = self.features is not None and self.architecture in ("x86_64", "AMD64")
        return known and not self.multiplies_bytes

    @property
    def name(self) -> str:
        """Its board or its CPU, or what is known instead, with its number of CPUs."""
        known = self.board or self.cpu or f"{self.system} on {self.architecture}"
        return f"{known}, {self.cpus} CPU{'s' if self.cpus > 1 else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"features": None if self.features is None else list(self.features)}


@dataclass(frozen=True)
class Condition:
    """What changes while it runs.

    Attributes:
        celsius: of the CPU.
        throttled: the bits of `vcgencmd get_throttled`.
        voltage_alarm: too low in the last seconds, says the Pi's sensor in /sys, which needs no vcgencmd.
    """

    celsius: float | None = None
    throttled: int | None = None
    voltage_alarm: bool | None = None

    @property
    def now(self) -> tuple[str, ...]:
        """What holds the CPU back, of `HELD_BACK`; () too where the machine does not tell."""
        found = [name for bit, name in enumerate(HELD_BACK) if (self.throttled or 0) >> bit & 1]
        if self.voltage_alarm and HELD_BACK[0] not in found:
            found.insert(0, HELD_BACK[0])
        return tuple(found)

    @property
    def since_boot(self) -> tuple[str, ...]:
        """What has held it back since it was started."""
        bits = (self.throttled or 0) >> _SINCE_BOOT
        return tuple(name for bit, name in enumerate(HELD_BACK) if bits >> bit & 1)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"now": list(self.now), "since_boot": list(self.since_boot)}


def read_machine(sources: Sources | None = None) -> Machine:
    """Ask a machine, this one if no other is given, what it is."""
    sources = sources or Sources()
    cpu = _fields(sources.text("proc/cpuinfo"))
    memory = _fields(sources.text("proc/meminfo")).get("MemTotal", "").split()
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        board=sources.text("proc/device-tree/model"),
        cpu=cpu.get("model name"),
        cpus=os.cpu_count() or 1,
        features=_features(cpu),
        memory_bytes=int(memory[0]) * 1024 if memory and memory[0].isdigit() else None,
    )


def read_condition(sources: Sources | None = None) -> Condition:
    """Ask a machine, this one if no other is given, how it is now."""
    sources = sources or Sources()
    return Condition(_celsius(sources), _throttled(sources), _voltage_alarm(sources))


def peak_bytes(sources: Sources | None = None) -> int | None:
    """Return the most memory that this process has had resident; None where Linux does not tell.

    It is VmHWM of /proc/self/status: ru_maxrss is handed on from the process that started this one.
    """
    words = _fields((sources or Sources()).text("proc/self/status")).get("VmHWM", "").split()
    return int(words[0]) * 1024 if words and words[0].isdigit() else None


def _fields(text: str | None) -> dict[str, str]:
    """Return the first value of every "key : value" line."""
    found: dict[str, str] = {}
    for line in (text or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def _features(cpu: dict[str, str]) -> tuple[str, ...] | None:
    told = cpu.get("Features", cpu.get("flags"))  # Arm's key, and x86's
    if told is None:
        return None
    return tuple(name for name in (*INT8_FEATURES, *_OTHER_FEATURES) if name in told.split())


def _celsius(sources: Sources) -> float | None:
    for zone in sorted((sources.root / "sys/class/thermal").glob("thermal_zone*")):
        folder = str(zone.relative_to(sources.root))
        told = sources.text(f"{folder}/temp")
        if sources.text(f"{folder}/type") in _CPU_SENSORS and told and told.lstrip("-").isdigit():
            return int(told) / 1000
    return None


def _throttled(sources: Sources) -> int | None:
    answer = sources.run(("vcgencmd", "get_throttled"))
    if answer is None or answer.status:
        return None
    key, _, value = answer.text.strip().partition("=")
    try:
        return int(value, 16) if key == "throttled" else None
    except ValueError:
        return None


def _voltage_alarm(sources: Sources) -> bool | None:
    for sensor in sorted((sources.root / "sys/class/hwmon").glob("hwmon*")):
        folder = str(sensor.relative_to(sources.root))
        if sources.text(f"{folder}/name") == "rpi_volt":
            told = sources.text(f"{folder}/in0_lcrit_alarm")
            return None if told not in ("0", "1") else told == "1"
    return None
