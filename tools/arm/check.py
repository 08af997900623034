"""`make arm`: does Octlet give the same answers on an emulated Cortex-A76 as on this machine?"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from arm import phantom
from arm.agreement import Agreement, choose, compare
from arm.userland import CPU, PROJECT, Userland, qemu_version
from octlet.cli.ui import say
from octlet.core.bundle import open_bundle
from octlet.core.errors import ModelFileError, OctletError
from octlet.runtime.engine import ENGINES

# What a device runs, and what its code is tested with: none of it trains.
GUEST_TESTS = ("core_files", "core_image", "core_settings", "bundle", "runtime", "predict", "latency")
HOST_TESTS = ("device",)  # they run here, and start the device's Python

_Case = tuple[Path, str, str]  # a model file, an engine, a set of scans


@dataclass(frozen=True)
class Tests:
    """One run of pytest: `where` it ran, and what came of it."""

    machine: str
    python: str
    files: str
    passed: int
    skipped: int
    failed: int


@dataclass(frozen=True)
class Findings:
    """All that was found out."""

    agreements: tuple[Agreement, ...]
    verified: tuple[tuple[str, str, bool], ...]  # Python, model, whether `octlet verify` passed
    tests: tuple[Tests, ...]

    @property
    def passed(self) -> bool:
        """Whether everything agrees, verifies and passes."""
        tests = all(run.passed and not run.failed for run in self.tests)
        return tests and all(each.passed for each in self.agreements) and all(ok for *_, ok in self.verified)


@dataclass(frozen=True)
class Check:
    """What is to be checked.

    Attributes:
        folder: of the userlands.
        models: model files beside the simulated scans' own.
        data: a folder of real scans, in a folder for each class; None for simulated scans alone.
        per_kind: of the real scans, how many of each class and shape.
        tests: whether the tests run too.
    """

    folder: Path
    models: tuple[Path, ...]
    data: Path | None
    per_kind: int
    tests: bool

    def run(self, userlands: Sequence[Userland]) -> Findings:
        """Check each Python, side by side; raises OctletError where something cannot be run at all."""
        sets = {"simulated": phantom.scans(self.folder)}
        if self.data:
            sets["real"] = choose(self.data, self.per_kind)
        models = (*phantom.models(self.folder), *self.models)
        here = {
            (model, engine, name): predict(Path(sys.executable), model, engine, scans)
            for model in models
            for engine in engines_of(model)
            for name, scans in sets.items()
        }
        with ThreadPoolExecutor(len(userlands)) as pool:
            found = list(pool.map(lambda userland: self._one(userland, sets, here), userlands))
        return Findings(
            tuple(row for each in found for row in each.agreements),
            tuple(row for each in found for row in each.verified),
            tuple(row for each in found for row in each.tests),
        )

    def _one(self, userland: Userland, sets: dict[str, list[Path]], here: dict[_Case, Any]) -> Findings:
        machine = f"qemu-aarch64 {qemu_version(self.folder)}, -cpu {CPU}"
        models = dict.fromkeys(model for model, *_ in here)
        verified = tuple((userland.python, name_of(model), verify(userland, model)) for model in models)
        agreements = []
        for (model, engine, name), expected in here.items():
            say(f"Python {userland.python}: {name_of(model)}, {engine}, {name} scans")
            there = predict(userland.command("engines"), model, engine, sets[name])
            of = (machine, userland.python, engine, name_of(model), name)
            agreements.append(Agreement(*of, *compare(expected, there)))
        tests = tuple(self._tests(userland, machine)) if self.tests else ()
        return Findings(tuple(agreements), verified, tests)

    def _tests(self, userland: Userland, machine: str) -> Iterator[Tests]:
        model = phantom.test_model(self.folder)
        guest = userland.command("engines", "tests")
        for python, names in ((guest, GUEST_TESTS), (Path(sys.executable), HOST_TESTS)):
            say(f"Python {userland.python}: tests of {', '.join(names)}")
            settings = {"OCTLET_TEST_MODEL": str(model), "OCTLET_DEVICE_PYTHON": str(userland.command())}
            report = self.folder / f"tests-{userland.python}-{names[0]}.xml"
            passed, skipped, failed = run_tests(python, names, settings, report)
            yield Tests(machine, userland.python, " ".join(names), passed, skipped, failed)


def name_of(model: Path) -> str:
    """Return the name that a model file gives its network."""
    return open_bundle(model).manifest.name


def engines_of(model: Path) -> list[str]:
    """Return the engines that a model file holds a network for by name: those that a device would use."""
    return [name for name in open_bundle(model).manifest.engines if name in ENGINES]


def predict(python: Path, model: Path, engine: str, scans: Iterable[Path]) -> dict[str, Any]:
    """Run `octlet predict --json` with one thread; ModelFileError where it cannot."""
    words = ["-m", "octlet", "predict", "-m", str(model), "--engine", engine, "--threads", "1", "--json"]
    done = _run([python, *words, *scans])
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        rule = f"'octlet predict' ended with {done.returncode} on {python}: {said}"
        raise ModelFileError(rule, path=model)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def verify(userland: Userland, model: Path) -> bool:
    """Run `octlet verify` there."""
    say(f"Python {userland.python}: octlet verify {model.name}")
    done = _run([userland.command(), "-m", "octlet", "verify", model, "--threads", "1"])
    if done.returncode:
        say(done.stdout + done.stderr)
    return done.returncode == 0


def run_tests(
    python: Path, names: Iterable[str], settings: dict[str, str], report: Path
) -> tuple[int, int, int]:
    """Run test files with a Python; return how many passed, were skipped and failed (or broke).

    Raises OctletError where pytest did not get as far as a report.
    """
    files = [PROJECT / f"tests/test_{name}.py" for name in names]
    report.unlink(missing_ok=True)
    words = ["-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={PROJECT}", f"--junitxml={report}"]
    done = _run([python, *words, *files], settings)
    if not report.exists():
        raise OctletError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
    passed, skipped, failed = outcome(report.read_text(encoding="utf-8"))
    if failed or not passed:
        say(done.stdout)
    return passed, skipped, failed


def outcome(junit: str) -> tuple[int, int, int]:
    """Read pytest's XML: how many tests passed, were skipped, and failed or broke."""
    suites = list(ElementTree.fromstring(junit).iter("testsuite"))  # noqa: S314 - written by pytest just now
    total, skipped, *bad = (
        sum(int(suite.attrib[key]) for suite in suites) for key in ("tests", "skipped", "failures", "errors")
    )
    return total - skipped - sum(bad), skipped, sum(bad)


def _run(
    command: Sequence[str | Path], settings: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | (settings or {})
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=PROJECT)
