"""Reports survive JSON: equal records back, equal bytes for equal records, and clear words for what is not a report."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from pennyweight.errors import BenchmarkError
from pennyweight.report import ArmReport, RunReport, ScenarioReport, read_report, report_from_json, report_to_json


def test_a_report_survives_json(sample_report: RunReport) -> None:
    text = report_to_json(sample_report)
    assert report_from_json(text) == sample_report
    assert report_to_json(report_from_json(text)) == text


def test_an_empty_report_survives_json() -> None:
    report = RunReport(name="", arms=())
    assert report_from_json(report_to_json(report)) == report


def test_what_json_lacks_travels_as_strings() -> None:
    scenario = ScenarioReport(
        scenario="SingleStream", metric_name="p90", value=math.nan, unit="ns", valid=False, p50_ns=math.inf
    )
    text = report_to_json(RunReport(name="x", arms=(ArmReport(name="a", scenarios=(scenario,)),)))
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    back = report_from_json(text).arms[0].scenarios[0]
    assert back.value is not None
    assert math.isnan(back.value)
    assert back.p50_ns == math.inf


def test_executed_may_be_a_truth_or_a_text() -> None:
    for executed in (True, False, "executed, but for the classifier", None):
        report = RunReport(name="x", arms=(ArmReport(name="a", executed=executed),))
        assert report_from_json(report_to_json(report)).arms[0].executed is executed or isinstance(executed, str)
        assert report_from_json(report_to_json(report)) == report


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not list"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 1, "name": "x", "arm": []}', "did you mean 'arms'"),
        ('{"schema": 1, "name": "x"}', "arms"),
        ('{"schema": 1, "name": 3, "arms": []}', "report.name is 3"),
        ('{"schema": 1, "name": "x", "arms": [{"name": "a", "size_bytes": "big"}]}', r"report.arms\[0\].size_bytes"),
        ('{"schema": 1, "name": "x", "arms": [{"name": "a", "size_bytes": true}]}', "size_bytes is True"),
    ],
)
def test_what_is_not_a_report_is_named(text: str, words: str) -> None:
    with pytest.raises(BenchmarkError, match=words):
        report_from_json(text)


def test_a_value_json_cannot_hold_is_named() -> None:
    with pytest.raises(BenchmarkError, match=r"report.machine.lock is a object"):
        report_to_json(RunReport(name="x", arms=(), machine={"lock": object()}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="cannot read report"):
        read_report(tmp_path)


def test_machine_values_come_back_as_json_has_them(sample_report: RunReport) -> None:
    report = dataclasses.replace(sample_report, machine={"caches": {"l2": [1, 2]}, "gpu": None})
    assert report_from_json(report_to_json(report)).machine == {"caches": {"l2": [1, 2]}, "gpu": None}
