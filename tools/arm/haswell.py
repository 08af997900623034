"""`make haswell`: does an older x86 CPU, without VNNI, compute the same integers as this machine?"""

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from arm.agreement import Agreement, compare
from arm.check import engines_of, name_of, predict
from arm.userland import prepare_qemu, qemu, qemu_version
from octlet.core.errors import UsageError
from octlet.core.files import write_text

CPU = "Haswell"  # has AVX2, neither AVX-512 nor VNNI
# Integers are the same; the means at a network's end are floats, added up in another order.
BOUND = 1e-5
_CPUINFO = "processor\t: 0\nmodel name\t: Intel Core Processor (Haswell)\nflags\t\t: sse4_1 avx2 fma\n"


def prepare(folder: Path) -> None:
    """Unpack the emulator; raises as `prepare_qemu`, and UsageError on another machine than x86-64."""
    if platform.machine() != "x86_64":
        raise UsageError("this Python is not one for x86-64", remedy="run it on an x86-64 machine")
    prepare_qemu(folder)


def command(folder: Path) -> Path:
    """Write and return a command that is this Python on that CPU."""
    root = folder / "root-haswell"  # where QEMU looks files up first
    write_text(root / "proc/cpuinfo", _CPUINFO)
    words = [*qemu(folder, "x86_64"), "-L", root, "-cpu", CPU, sys.executable]
    place = folder / "python-haswell"
    write_text(place, f'#!/bin/sh\nexec {" ".join(quote(str(word)) for word in words)} "$@"\n')
    place.chmod(0o755)
    return place


def check(folder: Path, models: Sequence[Path], sets: dict[str, list[Path]]) -> list[Agreement]:
    """Predict each set of scans on both CPUs, one thread, with every engine of the model files."""
    there, version = command(folder), ".".join(map(str, sys.version_info[:2]))
    machine = f"qemu-x86_64 {qemu_version(folder)}, -cpu {CPU}"
    rows = []
    for model in models:
        for engine in engines_of(model):
            for name, scans in sets.items():
                both = [predict(python, model, engine, scans) for python in (Path(sys.executable), there)]
                of = (machine, version, engine, name_of(model), name)
                rows.append(Agreement(*of, *compare(*both)))
    return rows


def passed(rows: Sequence[Agreement]) -> bool:
    """Whether every label is the same, and every probability within `BOUND`."""
    return all(row.passed and row.largest_difference <= BOUND for row in rows)
