"""Numbers in words: rounding at the edges of units, signs, and what cannot be shown."""
# ruff: noqa: RUF001 (the words carry mathematical signs)

import math

import pytest

from pennyweight.report import units


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.00 kB"), (1000, "1.00 kB"), (999_499, "999 kB"), (999_600, "1.00 MB"),
     (25e6, "25.0 MB"), (3.2e12, "3.20 TB"), (None, "not measured"), (math.nan, "not a number")],
)  # fmt: skip
def test_bytes(size: float | None, text: str) -> None:
    assert units.bytes_text(size) == text


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (0.0, "0 ns"),
        (850.0, "850 ns"),
        (41_234.0, "41.2 µs"),
        (999_700.0, "1.00 ms"),
        (2.5e9, "2.50 s"),
        (math.inf, "infinite"),
    ],
)
def test_times(time: float, text: str) -> None:
    assert units.time_text(time) == text


def test_values_choose_their_unit() -> None:
    assert units.value_text(0.0041, "s") == "4.10 ms"
    assert units.value_text(12345.6, "samples/s") == "12,300 samples/s"
    assert units.value_text(None, "samples/s") == "not measured"


@pytest.mark.parametrize(
    ("difference", "text"),
    [(0.0, "0.0"), (-0.0001, "0.0"), (0.0123, "+1.2"), (-0.0123, "−1.2"), (math.nan, "not a number")],
)
def test_points(difference: float, text: str) -> None:
    assert units.points_text(difference, 360) == text


def test_decimals_follow_the_sample() -> None:
    assert units.percent_text(0.97224, 360) == "97.2 %"
    assert units.percent_text(0.97224, 10_000) == "97.22 %"
    assert units.interval_text(0.1, None) == ""
    assert units.interval_text(0.1, math.nan) == ""


def test_durations() -> None:
    assert [units.seconds_text(s) for s in (0.5, 59.6, 3599.7, 7300)] == [
        "0.50 s",
        "1 min 0 s",
        "1 h 0 min",
        "2 h 1 min",
    ]
