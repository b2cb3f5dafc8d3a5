"""Verdicts in words: better, worse, the same, or not comparable, and never more than the numbers allow."""
# ruff: noqa: RUF001 (the words carry mathematical signs)

import dataclasses
import math

import pytest

from pennyweight.report import Accuracy, ArmReport, Comparison, RunReport, ScenarioReport
from pennyweight.report.verdict import accuracy_finding, baseline_sentence, size_finding, speed_finding, verdict


def arm(name: str, **fields: object) -> ArmReport:
    return ArmReport(name=name, **fields)  # type: ignore[arg-type]


def stream(
    value: float | None, *, valid: bool = True, unit: str = "ns", scenario: str = "SingleStream"
) -> ScenarioReport:
    return ScenarioReport(scenario=scenario, metric_name="p90 latency", value=value, unit=unit, valid=valid)


def test_sizes_are_compared_both_ways() -> None:
    big, small = arm("big", size_bytes=1000), arm("small", size_bytes=100)
    assert size_finding(small, big).headline == "10.0× smaller"
    assert size_finding(big, small).headline == "10.0× larger"
    assert size_finding(big, small).kind == "worse"
    assert size_finding(small, small).kind == "same"
    assert "no artifact of float" in size_finding(small, arm("float")).clause


def test_a_change_whose_interval_includes_zero_is_no_change() -> None:
    base = arm("float")
    paired = Comparison(reference="float", only_reference=13, only_candidate=5, n=720)
    finding = accuracy_finding(arm("binary", comparison=paired), base)
    assert finding.kind == "same"
    assert "not measurably different" in finding.clause
    worse = accuracy_finding(arm("w2", comparison=dataclasses.replace(paired, only_reference=60)), base)
    assert worse.kind == "worse"
    assert worse.clause.startswith("less accurate (−7.6 points")


def test_a_comparison_with_another_arm_is_not_used() -> None:
    paired = Comparison(reference="other", only_reference=60, only_candidate=0, n=100)
    candidate = arm("a", comparison=paired, accuracy=Accuracy(value=0.9, n=100))
    finding = accuracy_finding(candidate, arm("float", accuracy=Accuracy(value=0.88, n=100)))
    assert finding.clause == "more accurate (+2.0 points, no interval)"


def test_paired_interval_agrees_with_the_score_of_a_simulation() -> None:
    # Agresti-Min on (10, 20, n=100), worked by hand: centre 10/102, half 1.96 * sqrt((31 - 100/102)) / 102.
    change, low, high = Comparison(reference="f", only_reference=10, only_candidate=20, n=100).change()
    assert change == 0.1
    half = 1.959964 * math.sqrt(31 - 100 / 102) / 102
    assert low == pytest.approx(10 / 102 - half)
    assert high == pytest.approx(10 / 102 + half)


def test_no_discordant_pair_leaves_a_width() -> None:
    change, low, high = Comparison(reference="f", only_reference=0, only_candidate=0, n=100).change()
    assert low is not None
    assert high is not None
    assert low < change == 0.0 < high


def test_slower_is_called_slower() -> None:
    fast, slow = arm("fast", scenarios=(stream(100.0),)), arm("slow", scenarios=(stream(190.0),))
    assert speed_finding(slow, fast).headline == "1.90× slower"
    assert speed_finding(fast, slow).headline == "1.90× faster"
    assert speed_finding(arm("same", scenarios=(stream(101.0),)), fast).kind == "same"


def test_a_rate_is_better_when_larger() -> None:
    rate = {"unit": "samples/s", "scenario": "Offline"}
    slow, fast = arm("s", scenarios=(stream(10.0, **rate),)), arm("f", scenarios=(stream(30.0, **rate),))  # type: ignore[arg-type]
    assert speed_finding(fast, slow).headline == "3.00× faster"


@pytest.mark.parametrize("value", [None, math.nan, 0.0, math.inf])
def test_figures_that_are_none_are_not_compared(value: float | None) -> None:
    base = arm("float", scenarios=(stream(100.0),))
    finding = speed_finding(arm("a", scenarios=(stream(value),)), base)
    assert finding.kind == "unknown"
    assert "SingleStream gave no figure" in finding.clause


def test_an_invalid_run_is_not_compared() -> None:
    base = arm("float", scenarios=(stream(100.0),))
    assert "SingleStream of a is INVALID" in speed_finding(arm("a", scenarios=(stream(1.0, valid=False),)), base).clause
    assert "a was not benchmarked" in speed_finding(arm("a"), base).clause


def test_simulated_arms_say_so(sample_report: RunReport) -> None:
    base, *others = sample_report.arms
    sentences = {candidate.name: verdict(candidate, base).sentence for candidate in others}
    assert "1.77× slower in SingleStream" in sentences["w4a4"]
    assert "its speed is not the speed of its formats" in sentences["w4a4"]
    assert "simulated" not in sentences["binary"]
    assert baseline_sentence(base).startswith("float is the baseline: 97.2 %, 8.74 MB, SingleStream p90 latency")


def test_an_empty_arm_is_a_whole_sentence() -> None:
    assert verdict(arm("a"), arm("float")).sentence == (
        "Against float, a is not compared in size (no artifact of a), "
        "not compared in accuracy (accuracy of a not measured) and not compared in speed (a was not benchmarked)."
    )
    assert (
        baseline_sentence(arm("float")) == "float is the baseline: accuracy not measured, no artifact, not benchmarked."
    )
