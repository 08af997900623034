"""The arithmetic of `octlet frontier`: Pareto points, the choice, the modelled Raspberry Pi 5."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octlet.compress.cost import cost_of
from octlet.evaluate.frontier import AXES, choice, frontier_of, pareto
from octlet.models.spec import named_spec
from octlet.runtime import pi5

# Pareto points ----------------------------------------------------------------------------------------

PLANES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8)


@given(PLANES)
def test_a_point_is_pareto_unless_another_beats_it(points):
    values, costs = zip(*points, strict=True)
    for mark, (value, cost) in zip(pareto(values, costs), points, strict=True):
        better = [(v >= value and c < cost) or (v > value and c <= cost) for v, c in points]
        assert mark is not any(better)


@given(PLANES)
def test_the_pareto_points_are_a_rising_line(points):
    values, costs = zip(*points, strict=True)
    line = sorted({(c, v) for v, c, mark in zip(values, costs, pareto(values, costs), strict=True) if mark})
    assert line
    assert all(one[0] < other[0] and one[1] < other[1] for one, other in pairwise(line))


# The choice -------------------------------------------------------------------------------------------


def named_points(*passed):
    """The dense network, and after it smaller and smaller ones with these verdicts."""
    return [
        {"name": str(k), "macs": 100 - k, "bytes": 5, "not_inferior": verdict}
        for k, verdict in enumerate((None, *passed))
    ]


@pytest.mark.parametrize(
    ("passed", "chosen", "in_order"),
    [
        ((True, True, True), "3", True),
        ((True, True, False), "2", True),
        ((True, False, True), "3", False),
        ((False, True, False), "2", False),
        ((False, False), None, False),
    ],
)
def test_the_smallest_that_passes_is_chosen_and_whether_all_larger_ones_passed(passed, chosen, in_order):
    assert choice(named_points(*passed)) == (chosen, in_order)
    assert choice(named_points(*passed)[::-1]) == (chosen, in_order)


def test_of_equal_macs_the_smaller_file_is_the_smaller_model():
    points = named_points(True, True)
    points[2] |= {"macs": 99, "bytes": 6}
    assert choice(points) == ("1", True)


def some_comparison(verdicts, margin=0.01):
    """What `compare_models` gives, as far as a frontier reads it; every model as good as the reference."""
    share = {"value": 0.9, "low": 0.8, "high": 1.0}
    names = [str(k) for k in range(len(verdicts) + 1)]
    models = [{"name": name, "balanced_accuracy": share, "bytes": 9, "latency_ratio": 1.0} for name in names]
    against = [{"name": n, "not_inferior": v} for n, v in zip(names[1:], verdicts, strict=True)]
    return {"models": models, "comparisons": against, "margin": margin}


def costs(n):
    return [{"macs": 9 - k, "pi5_modelled_ms": {"value": 9 - k, "low": 1, "high": 99}} for k in range(n)]


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ([True, False], "Every larger model passed"),
        ([False, True], "the best of 2 looks, and may be chance"),
        ([False, False], "None of 2 compressed models"),
    ],
)
def test_the_choice_is_told_to_be_a_choice(verdicts, said):
    found = frontier_of(some_comparison(verdicts), costs(3))
    assert said in found["selection"]
    assert ("picked on these very test scans" in found["selection"]) is any(verdicts)


def test_the_costs_are_parted_in_pareto_points():
    points = frontier_of(some_comparison([True]), costs(2))["points"]
    assert [set(point["pareto"]) for point in points] == [set(AXES)] * 2
    assert [point["pareto"]["macs"] for point in points] == [False, True]
    assert [point["pareto"]["bytes"] for point in points] == [True, True]  # equal in both
    assert points[0]["not_inferior"] is None


# The Pi 5 ---------------------------------------------------------------------------------------------


def test_the_peak_is_that_of_four_cores():
    assert pi5.INT8_PEAK == 307.2e9
    assert pi5.FLOAT_PEAK == 76.8e9


def test_a_published_network_has_its_published_latency():
    first = pi5.PUBLISHED[0]
    assert pi5.modelled_latency(first.macs, 0).value == pytest.approx(1e3 * first.seconds)
    for run in pi5.PUBLISHED:
        modelled = pi5.modelled_latency(run.macs, 0)
        assert modelled.low <= 1e3 * run.seconds * (1 + 1e-9)
        assert modelled.high >= 1e3 * run.seconds * (1 - 1e-9)


def test_the_efficiencies_are_those_of_the_page():
    assert [round(run.efficiency, 2) for run in pi5.PUBLISHED] == [0.64, 0.67, 0.75, 0.33]


@given(st.floats(0, 1e11), st.floats(0, 1e11))
def test_floats_take_four_times_as_long_and_take_turns_with_integers(int8, floats):
    whole = pi5.modelled_latency(int8, floats)
    parts = pi5.modelled_latency(int8 + 4 * floats, 0)
    assert whole.value == pytest.approx(parts.value)
    at_peak = int8 / 307.2e9 + floats / 76.8e9
    assert whole.value == pytest.approx(20.64 * at_peak / (4.089 / 307.2))
    assert whole.low <= whole.value <= whole.high


def test_the_published_networks_have_about_the_macs_of_ours():
    ours = {"ResNet-50": "resnet50", "ResNet-18": "resnet18"}
    for run in pi5.PUBLISHED:
        if run.network in ours:  # theirs has three channels and 1000 classes
            assert cost_of(named_spec(ours[run.network]), 224).macs == pytest.approx(run.macs, rel=0.05)
