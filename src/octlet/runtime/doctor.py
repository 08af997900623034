"""Is this machine fit to run model files, and what is to be done where it is not?

A finding is sound, a note (worth knowing, nothing is wrong) or a fault. A fault carries the exit code that
`octlet.core.errors` has for its kind: 1 the machine or an engine, 2 a setting, 4 a model file that is
invalid, 5 one that is whole but computes something else here. The highest is the worst: an answer that may
be wrong is worse than none.
"""

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from octlet import __version__
from octlet.core.bundle import Bundle, open_bundle
from octlet.core.errors import GateError, OctletError, UsageError
from octlet.runtime import startup
from octlet.runtime.choice import Choice, read_choice
from octlet.runtime.engine import DEFAULT, ENGINES, readers
from octlet.runtime.machine import (
    HELD_BACK,
    Condition,
    Machine,
    Sources,
    read_condition,
    read_machine,
)

OK, NOTE, FAULT = "ok", "note", "FAULT"
_ARM = ("aarch64", "arm64")
HOT = 80.0  # degrees Celsius at which a Raspberry Pi begins to slow down

_COOL = "cool it: a fan or a heat sink, and air about the case"
_POWER = "use the 27 W supply that the Pi 5 is made for, and a short cable"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        found: what it is like.
        state: `OK`, `NOTE` or `FAULT`.
        remedy: what to do about it.
        exit_code: of a fault, 1 to 5; else 0.
    """

    subject: str
    found: str
    state: str = OK
    remedy: str = ""
    exit_code: int = 0

    @classmethod
    def fault(cls, subject: str, error: OctletError) -> "Finding":
        """Return the fault that an error tells of."""
        return cls(subject, error.rule, FAULT, error.remedy, error.exit_code)


@dataclass(frozen=True)
class Diagnosis:
    """What a machine is, how it is, and every finding."""

    machine: Machine
    condition: Condition
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """The code of the worst fault; 0 without one."""
        return max(finding.exit_code for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "sound": not self.exit_code,
            "exit_code": self.exit_code,
            "machine": self.machine.as_dict(),
            "condition": self.condition.as_dict(),
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(
    models: Sequence[Path],
    config: Path | None,
    sources: Sources | None = None,
    progress: Callable[[str], None] = print,
) -> Diagnosis:
    """Look at the machine, the engines, the user's choice and the model files; raises nothing of its own.

    Args:
        models: model files to verify with every engine that is installed and reads them.
        config: the file of the user's choice, see `octlet.runtime.choice`.
        sources: where the machine is asked; this machine if not given.
        progress: told, in a line, of what takes seconds.
    """
    sources = sources or Sources()
    machine, condition = read_machine(sources), read_condition(sources)
    findings = [*_software(), *_cpu(machine), *_heat(machine, condition), _power(machine, condition)]
    usable: list[str] = []
    for name in ENGINES:
        finding = _engine(name)
        findings.append(finding)
        if finding.state == OK:
            usable.append(name)
    choice, finding = _choice(config, usable)
    findings.append(finding)
    if choice.engine == "openvino" and machine.architecture in _ARM:
        rule = "OpenVINO takes over ten times the instructions of the others for 8-bit models on Arm"
        remedy = "choose again: octlet benchmark MODEL --choose"
        findings.append(Finding("your engine", rule, NOTE, remedy))
    for model in models:
        progress(f"verifying {model}")
        findings += _model(model, usable, choice, machine.cpus)
    return Diagnosis(machine, condition, tuple(findings))


def _software() -> Iterator[Finding]:
    yield Finding("Octlet", f"{__version__} on Python {platform.python_version()}, {sys.executable}")
    for package in ("numpy", "pillow", "click"):
        try:
            yield Finding(package, version(package))
        except PackageNotFoundError:
            yield Finding(package, "no version is recorded", NOTE, "install it with pip")


def _cpu(machine: Machine) -> Iterator[Finding]:
    memory = "" if machine.memory_bytes is None else f", {machine.memory_bytes / 2**30:.1f} GiB of memory"
    yield Finding("machine", f"{machine.name}{memory}")
    if machine.features is None:
        yield Finding("CPU features", "not told by this system", NOTE)
        return
    told = ", ".join(machine.features) or "none that matter"
    if machine.multiplies_bytes:
        yield Finding("CPU features", told)
        return
    if machine.clips_sums:
        remedy = "expect 8-bit models to be slower than with VNNI: ONNX Runtime keeps their sums exact"
    else:
        remedy = "expect 8-bit models to be hardly faster than float ones (a Raspberry Pi 5 has asimddp)"
    yield Finding("CPU features", f"{told}; none for 8-bit integers", NOTE, remedy)


def _heat(machine: Machine, condition: Condition) -> Iterator[Finding]:
    if condition.celsius is None:
        yield Finding("temperature", "not told by this system", NOTE if machine.is_pi else OK)
    else:
        hot = condition.celsius >= HOT
        told = f"{condition.celsius:.1f} degrees Celsius"
        yield Finding("temperature", told, NOTE if hot else OK, _COOL if hot else "")


def _power(machine: Machine, condition: Condition) -> Finding:
    """Judge what holds the CPU back: now it is a fault, since the start it is worth knowing."""
    subject = "power and clock"
    names = condition.now or condition.since_boot
    cool = [_COOL] if set(names) - {HELD_BACK[0]} else []
    remedy = "; ".join(([_POWER] if HELD_BACK[0] in names else []) + cool)
    if condition.now:
        return Finding.fault(subject, OctletError(f"now: {', '.join(names)}", remedy=remedy))
    if names:
        return Finding(subject, f"since it was started: {', '.join(names)}; not now", NOTE, remedy)
    if condition.throttled is not None:
        return Finding(subject, "nothing holds the CPU back")
    if machine.is_pi:
        rule = "vcgencmd does not answer: the clock is not told"
        return Finding(subject, rule, NOTE, "install vcgencmd, and add the user to the group 'video'")
    return Finding(subject, "not told by this system")


def _engine(name: str) -> Finding:
    """Import an engine in a process of its own: a library for another CPU may end the process."""
    kind, subject = ENGINES[name], f"engine {name}"
    if not kind.installed:
        if name == DEFAULT:
            return Finding.fault(subject, OctletError("is not installed", remedy=kind.install))
        return Finding(subject, "not installed (optional)", NOTE, kind.install)
    fault = startup.import_fault(name)
    if fault is not None:
        remedy = f"install {kind.distribution} again, or another version"
        return Finding.fault(subject, OctletError(f"cannot be imported: it {fault}", remedy=remedy))
    return Finding(subject, kind.version or "installed, of an unknown version")


def _choice(config: Path | None, usable: Sequence[str]) -> tuple[Choice, Finding]:
    subject = "your choice"
    try:
        choice = read_choice(config)
        if config is None or not config.exists():
            return choice, Finding(subject, f"none; {choice.engine} runs with every CPU")
        if choice.engine not in usable:
            remedy = f"{ENGINES[choice.engine].install}, or choose again: octlet benchmark MODEL --choose"
            raise UsageError(f"the engine {choice.engine} cannot be used here", path=config, remedy=remedy)
    except UsageError as error:
        where = f"{error.path}: " if error.path else ""
        return Choice(), Finding(subject, where + error.rule, FAULT, error.remedy, error.exit_code)
    threads = choice.threads or "every CPU"
    return choice, Finding(subject, f"{choice.engine}, threads: {threads} ({config})")


def _model(model: Path, usable: Sequence[str], choice: Choice, cpus: int) -> Iterator[Finding]:
    try:
        bundle = open_bundle(model)
    except OctletError as error:
        yield Finding.fault(str(model), error)
        return
    yield Finding(str(model), f"whole; '{bundle.manifest.name}', for {', '.join(bundle.manifest.engines)}")
    able = readers(bundle)
    if choice.engine not in able:
        remedy = f"octlet predict --engine {able[0]}" if able else "export the model again"
        yield Finding(
            str(model), f"holds nothing for your engine, {choice.engine}", FAULT, remedy, UsageError.exit_code
        )
    for name in able:
        if name in usable:
            yield _verified(bundle, name, choice.threads or cpus)


def _verified(bundle: Bundle, engine: str, threads: int) -> Finding:
    subject = f"{bundle.path}, {engine}"
    try:
        found = startup.start(bundle.path, engine, threads)
    except OctletError as error:
        return Finding.fault(subject, error)
    if found.failed:
        rule = f"computes something else here: {', '.join(found.failed)}"
        remedy = f"do not use the model here with {engine}; 'octlet verify' measures by how much"
        return Finding.fault(subject, GateError(rule, remedy=remedy))
    return Finding(subject, "computes what the exporting machine did")
