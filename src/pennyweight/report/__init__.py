"""What a run found, as plain records, and its three forms: one HTML page, a terminal table, JSON.

Nothing here measures or computes a model: whoever runs a recipe fills a `RunReport` and hands it over.
"""

from pennyweight.report.json_report import read_report, report_from_json, report_to_json
from pennyweight.report.judgement import claim_box, judge
from pennyweight.report.record import (
    Accuracy,
    ArmReport,
    ClaimBox,
    Comparison,
    CurvePoint,
    LayerRow,
    MethodReport,
    RunReport,
    ScenarioReport,
    SizeBreakdown,
)
from pennyweight.report.table import print_report, render_table
from pennyweight.report.write import write_report

__all__ = [
    "Accuracy",
    "ArmReport",
    "ClaimBox",
    "Comparison",
    "CurvePoint",
    "LayerRow",
    "MethodReport",
    "RunReport",
    "ScenarioReport",
    "SizeBreakdown",
    "claim_box",
    "judge",
    "print_report",
    "read_report",
    "render_table",
    "report_from_json",
    "report_to_json",
    "write_report",
]
