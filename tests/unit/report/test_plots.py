"""The pictures: same bytes for the same data, names that keep apart, text that is the user's and harmless."""

import dataclasses
import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from pennyweight.report import Accuracy, ArmReport, CurvePoint, RunReport, ScenarioReport
from pennyweight.report.labels import Box, log_ticks, place_labels
from pennyweight.report.plots import (
    accuracy_against_size,
    latency_distribution,
    palette,
    training_accuracy,
    training_loss,
)
from pennyweight.report.svg import _restyle

HOSTILE = '</text></svg><script>alert("$x^2_$")</script>--> & $\\frac{'


def every_picture(report: RunReport) -> list[str | None]:
    return [
        accuracy_against_size(report),
        latency_distribution(report, "SingleStream"),
        training_loss(report),
        training_accuracy(report),
    ]


def test_same_report_same_bytes(sample_report: RunReport) -> None:
    first, second = every_picture(sample_report), every_picture(sample_report)
    assert first == second
    assert all(first)


def test_pictures_are_well_formed_described_and_closed(sample_report: RunReport) -> None:
    ids: list[str] = []
    for svg in every_picture(sample_report):
        assert svg is not None
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img"
        assert root[0].tag.endswith("title")
        assert root[1].tag.endswith("desc")
        assert "binary" in (root[1].text or "")
        ids += [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        assert "<metadata" not in svg
        assert "<!--" not in svg
        assert not re.search(r'(href="|url\()(?!#)', svg), "a picture loads nothing"
        assert "DejaVu" not in svg, "the page chooses the font"
        assert "var(--arm-1, #0072b2)" in svg
    assert len(ids) == len(set(ids)), "ids are unique in the page"


def test_pictures_hold_hostile_names_as_text(sample_report: RunReport) -> None:
    arms = tuple(dataclasses.replace(arm, name=f"{index} {HOSTILE}") for index, arm in enumerate(sample_report.arms))
    for svg in every_picture(dataclasses.replace(sample_report, arms=arms)):
        assert svg is not None
        root = ElementTree.fromstring(svg)
        assert not [element for element in root.iter() if element.tag.endswith("script")]


def test_a_name_in_any_script_draws_without_a_warning(sample_report: RunReport) -> None:
    arms = tuple(dataclasses.replace(arm, name=f"_{arm.name} 二値 \x00\n🪙") for arm in sample_report.arms)
    for svg in every_picture(dataclasses.replace(sample_report, arms=arms)):
        assert svg is not None
        assert "二値" in svg
        ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    "style",
    [
        "font: 700 10.5px 'DejaVu Sans', 'A', sans-serif; fill: #1c2430",
        "font-size: 10.5px; font-weight: 700; font-family: 'DejaVu Sans', sans-serif; fill: #1c2430",
    ],
)
def test_old_and_new_ways_to_write_a_font_lose_the_family(style: str) -> None:
    tag = _restyle(f'<text style="{style}" x="1">', "n")
    assert tag == '<text style="font-size: 10.5px; font-weight: 700; fill: var(--ink, #1c2430)" x="1">'


def test_nothing_to_draw_is_none() -> None:
    report = RunReport(name="x", arms=(ArmReport(name="a"), ArmReport(name="b", size_bytes=5)))
    assert every_picture(report) == [None, None, None, None]
    assert every_picture(RunReport(name="x", arms=())) == [None, None, None, None]


def test_values_that_cannot_be_drawn_are_left_out() -> None:
    bad = ScenarioReport(
        scenario="SingleStream",
        metric_name="p90",
        value=math.nan,
        unit="ns",
        valid=False,
        quantiles=((0.1, math.nan), (0.5, 0.0), (0.9, math.inf)),
    )
    arm = ArmReport(
        name="a",
        accuracy=Accuracy(value=math.nan, n=10),
        size_bytes=100,
        scenarios=(bad,),
        curve=(CurvePoint(step=0, loss=math.nan),),
    )
    assert every_picture(RunReport(name="x", arms=(arm,))) == [None, None, None, None]


def test_single_points_and_perfect_scores_draw() -> None:
    same = ScenarioReport(
        scenario="SingleStream", metric_name="p90", value=5.0, unit="ns", valid=True, p50_ns=5.0, p90_ns=5.0, p99_ns=5.0
    )
    arm = ArmReport(
        name="only",
        accuracy=Accuracy(value=1.0, low=0.99, high=1.0, n=10),
        size_bytes=100,
        scenarios=(same,),
        curve=(CurvePoint(step=0, loss=0.0, accuracy=1.0), CurvePoint(step=1, loss=0.0, accuracy=1.0)),
    )
    assert all(every_picture(RunReport(name="x", arms=(arm,))))


def test_one_point_is_no_curve() -> None:
    arm = ArmReport(name="only", curve=(CurvePoint(step=600, loss=0.1, accuracy=0.9),))
    assert every_picture(RunReport(name="x", arms=(arm,)))[2:] == [None, None]


def test_labels_of_crowded_marks_keep_apart() -> None:
    anchors = [(200.0 + 3 * i, 100.0 + 2 * (i % 3)) for i in range(8)]
    boxes = place_labels(
        anchors, [(50.0, 12.0)] * 8, [Box(x - 5, y - 5, x + 5, y + 5) for x, y in anchors], Box(0, 0, 400, 250)
    )
    assert all(one.overlap(other) == 0 for one, other in itertools.combinations(boxes, 2))
    assert all(box.outside(Box(0, 0, 400, 250)) == 0 for box in boxes)


def test_ticks_are_few_round_and_inside() -> None:
    for low, high in ((1.0, 1.01), (15, 400), (1e2, 1e9), (3e-4, 2e-1), (99, 101), (1, 1e30)):
        ticks = log_ticks(low, high)
        assert len(ticks) <= 6
        assert all(low <= tick <= high for tick in ticks)


def test_an_arm_keeps_its_color(sample_report: RunReport) -> None:
    assert palette(sample_report) == {"float": 0, "binary": 1, "w8a8": 2, "w4a4": 3}
    assert palette(dataclasses.replace(sample_report, baseline="w8a8"))["w8a8"] == 0
