"""Intervals against scipy and coverage, the records, and the order in which things are timed."""

import getpass
import json
import math
import platform
import statistics

import pytest
from scipy import stats

from pennyweight.numerics.measure import (
    Measurement,
    interleaved,
    interval_mean,
    interval_proportion,
    machine,
    relative_spread,
    versions,
)


def test_mean_interval_equals_scipy() -> None:
    values = [0.3, 1.7, 2.2, 0.9, 1.1]
    for confidence in (0.9, 0.95, 0.99):
        interval = interval_mean(values, confidence)
        low, high = stats.t.interval(confidence, 4, loc=statistics.fmean(values), scale=stats.sem(values))
        assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
        assert (interval.value, interval.n, interval.confidence) == (pytest.approx(1.24), 5, confidence)


def test_one_value_has_no_bounded_interval() -> None:
    interval = interval_mean([3.0])
    assert (interval.value, interval.low, interval.high) == (3.0, -math.inf, math.inf)
    assert interval_mean([2.0, 2.0]).low == interval_mean([2.0, 2.0]).high == 2.0


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 50), (7, 10), (50, 50), (9871, 10000)])
def test_share_interval_equals_scipy(k: int, n: int) -> None:
    interval = interval_proportion(k, n)
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (interval.low, interval.high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high))
    assert 0 <= interval.low <= k / n <= interval.high <= 1


def test_share_of_nothing() -> None:
    interval = interval_proportion(0, 0)
    assert math.isnan(interval.value)
    assert (interval.low, interval.high) == (0, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], 0.0), ([5.0], 0.0), ([2.0, 2.0, 2.0], 0.0), ([1.0, 2.0, 3.0, 4.0, 5.0], 2 / 3), ([-1.0, 0.0, 1.0], math.inf)],
)
def test_relative_spread(values: list[float], expected: float) -> None:
    assert relative_spread(values) == pytest.approx(expected)


def test_timing_alternates_and_reports_the_median_ratio() -> None:
    clock, calls = [0.0], []

    def spend(name: str, seconds: float) -> None:
        calls.append(name)
        clock[0] += seconds

    pair = (lambda: spend("a", 0.3)), (lambda: spend("b", 0.1))
    result = interleaved(*pair, repeats=5, warmup=1, min_seconds=0.0, clock=lambda: clock[0])
    assert calls == ["a", "b", "a", "b"] + ["a", "b"] * 5
    assert result.a_seconds == pytest.approx(0.3)
    assert result.b_seconds == pytest.approx(0.1)
    assert result.ratio == pytest.approx(3.0)
    assert result.spread == pytest.approx(0.0, abs=1e-9)
    assert result.n == 5


def test_short_calls_are_repeated_within_a_timing() -> None:
    clock, calls = [0.0], [0]

    def short() -> None:
        calls[0] += 1
        clock[0] += 0.001

    result = interleaved(short, short, repeats=1, warmup=0, min_seconds=0.0099, clock=lambda: clock[0])
    assert calls[0] == 2 + 2 * 10
    assert result.a_seconds == pytest.approx(0.001)


def test_machine_names_hardware_and_nobody() -> None:
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert isinstance(facts["isa"], list)
    text = json.dumps(facts).lower()
    assert platform.node().lower() not in text
    assert f'"{getpass.getuser().lower()}"' not in text


def test_versions_name_what_is_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"].startswith("2.")


def test_a_measurement_is_plain_data() -> None:
    measured = Measurement(
        value=1.5, unit="ms", n=7, spread=0.02, machine=machine(), versions=versions(), excluded="load"
    )
    plain = json.loads(json.dumps(measured.to_dict()))
    assert (plain["value"], plain["unit"], plain["n"], plain["spread_kind"]) == (1.5, "ms", 7, "iqr/median")
    assert plain["modelled"] is False
    assert Measurement(**plain) == Measurement(**plain)
