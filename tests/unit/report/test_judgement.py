"""Verdicts on margins fixed beforehand."""

import math

import pytest

from pennyweight.report import Accuracy, ArmReport, Comparison, claim_box, judge


@pytest.mark.parametrize(
    ("difference", "low", "margin", "verdict"),
    [
        (0.0, -0.01, 0.02, "holds"),
        (-0.01, -0.02, 0.02, "partly"),
        (-0.01, -0.05, 0.02, "partly"),
        (-0.03, -0.05, 0.02, "not"),
        (-0.02, -0.02, 0.02, "not"),
        (0.5, None, 0.02, "partly"),  # without an interval nothing holds
        (math.nan, math.nan, 0.02, "not"),
    ],
)
def test_verdicts(difference: float, low: float | None, margin: float, verdict: str) -> None:
    assert judge(difference, low, margin) == verdict


def test_the_box_states_margin_interval_and_n() -> None:
    arm = ArmReport(
        name="small",
        accuracy=Accuracy(value=0.9, n=100, seeds=(0, 1)),
        comparison=Comparison(
            reference="float", only_reference=4, only_candidate=2, n=200, difference=-0.01, low=-0.03, high=0.01
        ),
    )
    box = claim_box("c", "p", "s", arm, margin_points=2, command="x")
    assert box.verdict == "partly"
    assert "at most 2 points of accuracy lost, fixed beforehand" in box.setting
    assert box.measured.startswith("small against float: \N{MINUS SIGN}1")
    assert box.n == "200 answers, 2 seeds"
    assert claim_box("c", "p", "s", None, margin_points=2, command="x").verdict == "not run"
    assert claim_box("c", "p", "s", ArmReport(name="a"), margin_points=2, command="x").verdict == "not run"
