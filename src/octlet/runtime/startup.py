"""What it takes to start one engine with one model file, found out in a process of its own.

There its peak of memory is its own, nothing is imported yet, and an engine that crashes on this machine takes
nothing else down with it. The process is `python -m octlet.runtime.startup MODEL ENGINE THREADS`.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octlet.core.errors import ModelFileError, OctletError
from octlet.runtime.engine import ENGINES


@dataclass(frozen=True)
class Startup:
    """One engine, started with one model file.

    Attributes:
        engine: its name.
        load_seconds: to import it, read the network from the file and make it ready.
        peak_bytes: the most memory that the process had, Python and the replay of the golden vectors
            included; None where the system does not tell.
        failed: names of the checks of `octlet verify` that it did not pass.
    """

    engine: str
    load_seconds: float
    peak_bytes: int | None
    failed: tuple[str, ...]


def start(model: Path, engine: str, threads: int) -> Startup:
    """Start an engine in a new process, verify the model file with it, and let it go.

    Raises:
        ModelFileError: the file is damaged, or not one that the engine can compute.
        OctletError: the engine is not installed, or crashes on this machine.
    """
    done = python("-m", "octlet.runtime.startup", str(model), engine, str(threads))
    told = _last_json(done.stdout)
    if told is None:
        remedy = f"install another version of {ENGINES[engine].distribution}"
        raise OctletError(f"the engine {end_of(done)}", remedy=remedy)
    if fault := told.get("error"):
        kind = ModelFileError if fault["code"] == ModelFileError.code else OctletError
        raise kind(fault["message"], path=fault["file"], remedy=fault["remedy"] or "")
    return Startup(engine, told["load_seconds"], told["peak_bytes"], tuple(told["failed"]))


def import_fault(engine: str) -> str | None:
    """Import an engine in a new process and return how that failed, or None."""
    done = python("-c", f"import {ENGINES[engine].package}")
    return end_of(done) if done.returncode else None


def python(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run this Python in a process of its own, which imports nothing from the folder that it runs in (-P)."""
    command = [sys.executable, "-P", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def _last_json(text: str) -> dict[str, Any] | None:
    """Return the document that the process ends with; an engine may have said something before."""
    try:
        value = json.loads((text.splitlines() or [""])[-1])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def end_of(done: "subprocess.CompletedProcess[str]") -> str:
    """Return, in a clause, how a process came to a bad end."""
    if done.returncode < 0:
        return f"was ended by signal {-done.returncode}"
    last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
    return f"failed: {last[:200]}"


# In the new process -------------------------------------------------------------------------------------


def _main(model: str, engine: str, threads: int) -> dict[str, Any]:
    from octlet.core.bundle import open_bundle
    from octlet.runtime.engine import load_engine
    from octlet.runtime.machine import peak_bytes
    from octlet.runtime.predictor import Predictor
    from octlet.runtime.verify import replay

    try:
        bundle = open_bundle(model)
        begin = time.perf_counter()
        loaded = load_engine(bundle, engine, threads)
        seconds = time.perf_counter() - begin
        report = replay(Predictor(bundle, loaded))
    except OctletError as error:
        return {"error": error.as_dict()}
    failed = [check.name for check in report.checks if not check.passed]
    return {"load_seconds": seconds, "peak_bytes": peak_bytes(), "failed": failed}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]))) + "\n")
