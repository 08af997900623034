"""The arithmetic of latencies, with a clock and engines of the test's own: nothing here is timed."""

import os
import statistics
from pathlib import Path

import numpy as np
import pytest

from octlet.core.bundle import open_bundle
from octlet.core.errors import UsageError
from octlet.runtime import latency
from octlet.runtime.predictor import Predictor


class Machine:
    """A clock that only engines move on."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def clock(self):
        return self.now

    def engine(self, name, seconds):
        return Fake(self, name, iter(seconds))


class Fake:
    def __init__(self, machine, name, seconds):
        self.machine, self.name, self.seconds, self.seen = machine, name, seconds, []

    def run(self, batch):
        self.machine.now += next(self.seconds)
        self.machine.log.append(self.name)
        self.seen.append(batch)


def test_medians_and_ratios_are_those_of_the_counted_rounds():
    machine = Machine()
    times = {"float": [90, 80, 4, 6, 5, 100, 4.5], "int8": [0, 70, 2, 2.5, 3, 1, 50]}
    engines = [machine.engine(*each) for each in times.items()]
    found = latency.measure(engines, [32, 32], rounds=5, warm_up=2, clock=machine.clock)
    expected = [statistics.median(seconds[2:]) for seconds in times.values()]
    assert found.medians == pytest.approx(expected)
    assert found.ratios == pytest.approx((1.0, 5 / 2.5))


def test_every_round_runs_all_engines_in_turn():
    machine = Machine()
    engines = [machine.engine(name, [1.0] * 4) for name in "abc"]
    latency.measure(engines, [32] * 3, rounds=3, warm_up=1, clock=machine.clock)
    assert "".join(machine.log) == "abc" * 4


def test_engines_see_one_seeded_scan_of_their_size():
    machine = Machine()
    engines = [machine.engine(name, [1.0] * 4) for name in "abc"]
    latency.measure(engines, [32, 48, 32], rounds=1, warm_up=1, seed=3, clock=machine.clock)
    a, b, c = (engine.seen[-1] for engine in engines)
    assert (a.shape, b.shape, a.dtype) == ((1, 1, 32, 32), (1, 1, 48, 48), np.float32)
    assert np.array_equal(a, c)
    assert np.array_equal(a[0, 0], np.random.default_rng(3).uniform(-1, 1, (32, 32)).astype(np.float32))


def test_nothing_to_measure_is_refused():
    with pytest.raises(UsageError, match="an engine and a round"):
        latency.measure([], [])
    with pytest.raises(UsageError, match="an engine and a round"):
        latency.measure([Machine().engine("a", [])], [32], rounds=0)


def test_model_files_are_loaded_with_one_thread_and_run(model_file, monkeypatch):
    asked, load = [], latency.load_engine

    def noted(bundle, threads):
        asked.append(threads)
        return load(bundle, threads=threads)

    monkeypatch.setattr(latency, "load_engine", noted)
    found = latency.measure_files([open_bundle(model_file)] * 2)
    assert asked == [1, 1]
    assert len(found.medians) == 2
    assert found.ratios[0] == 1


def test_onnx_runtime_is_told_to_keep_silent(model_file: Path) -> None:
    Predictor.open(model_file, engine="onnxruntime", threads=1)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
