"""The summary table as words: one row an arm, for the page and the terminal alike. No colours, no layout."""

from dataclasses import dataclass

from pennyweight.report.record import ArmReport, LayerExecution, RunReport, ScenarioReport
from pennyweight.report.units import (
    NOT_MEASURED,
    bytes_text,
    interval_text,
    percent_text,
    points_text,
    value_text,
)
from pennyweight.report.verdict import (
    Kind,
    accuracy_finding,
    size_finding,
    speed_ratio,
    speed_words,
)

_WAYS: dict[LayerExecution, str] = {"executed": "executed", "simulated": "simulated", "float": "in plain float"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell.

    Args:
        heading: of its column.
        text: the figure.
        against: how it stands against the baseline; empty for the baseline itself.
        kind: colour of `against`.
        notes: small print under the figure, line by line.
    """

    heading: str
    text: str
    against: str = ""
    kind: Kind = "unknown"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One arm."""

    name: str
    is_baseline: bool
    cells: tuple[Cell, ...]


def summary_rows(report: RunReport) -> tuple[SummaryRow, ...]:
    """One row an arm: accuracy, size, every scenario any arm ran, and how it was executed."""
    baseline = report.baseline_arm()
    rows = []
    for arm in report.arms:
        cells = (
            _accuracy_cell(arm, baseline),
            _size_cell(arm, baseline),
            *(_scenario_cell(arm, baseline, name, _metric_name(report, name)) for name in report.scenario_names()),
            Cell(heading="Arithmetic", text=execution_text(arm)),
        )
        rows.append(SummaryRow(name=arm.name, is_baseline=arm is baseline, cells=cells))
    return tuple(rows)


def execution_text(arm: ArmReport) -> str:
    """Executed or simulated, in few words."""
    if isinstance(arm.executed, str) and arm.executed:
        return arm.executed
    if arm.layers:
        ways = [layer.executed for layer in arm.layers]
        counts = {way: ways.count(way) for way in _WAYS if way in ways}
        if len(counts) == 1:
            return f"{'all layers ' if len(ways) > 1 else 'its one layer '}{_WAYS[ways[0]]}"
        return "layers: " + ", ".join(f"{count} {_WAYS[way]}" for way, count in counts.items())
    if arm.executed is True:
        return "executed"
    if arm.executed is False:
        return "simulated in float"
    return "not stated"


def accuracy_notes(arm: ArmReport) -> tuple[str, ...]:
    """Interval, then samples and seeds behind an accuracy."""
    if arm.accuracy is None:
        return ()
    interval = interval_text(arm.accuracy.low, arm.accuracy.high, arm.accuracy.n) or "no interval"
    seeds = f", {len(arm.accuracy.seeds)} seeds" if len(arm.accuracy.seeds) > 1 else ""
    return interval, f"n = {arm.accuracy.n:,}{seeds}"


def _accuracy_cell(arm: ArmReport, baseline: ArmReport | None) -> Cell:
    heading = "Accuracy"
    if arm.accuracy is None:
        return Cell(heading=heading, text=NOT_MEASURED)
    text = percent_text(arm.accuracy.value, arm.accuracy.n)
    if baseline is None or arm is baseline:
        return Cell(heading=heading, text=text, notes=accuracy_notes(arm))
    finding = accuracy_finding(arm, baseline)
    against = finding.headline.replace("accuracy ", "")
    return Cell(heading=heading, text=text, against=against, kind=finding.kind, notes=accuracy_notes(arm))


def _size_cell(arm: ArmReport, baseline: ArmReport | None) -> Cell:
    heading = "Size on disk"
    if arm.size_bytes is None:
        return Cell(heading=heading, text="no artifact")
    text = bytes_text(arm.size_bytes)
    if baseline is None or arm is baseline or not baseline.size_bytes:
        return Cell(heading=heading, text=text)
    finding = size_finding(arm, baseline)
    return Cell(heading=heading, text=text, against=finding.headline, kind=finding.kind)


def _scenario_cell(arm: ArmReport, baseline: ArmReport | None, name: str, metric: str) -> Cell:
    heading = f"{name} {metric}".strip()
    result = arm.scenario(name)
    if result is None:
        return Cell(heading=heading, text="not run")
    notes = () if result.valid else ("INVALID",)
    text = value_text(result.value, result.unit)
    if baseline is None or arm is baseline:
        return Cell(heading=heading, text=text, notes=notes)
    ratio = speed_ratio(result, baseline.scenario(name))
    if ratio is None:
        return Cell(heading=heading, text=text, against="not compared", notes=notes)
    kind, words = speed_words(ratio)
    return Cell(heading=heading, text=text, against=words, kind=kind, notes=notes)


def _metric_name(report: RunReport, scenario: str) -> str:
    results: list[ScenarioReport] = [r for arm in report.arms for r in arm.scenarios if r.scenario == scenario]
    return results[0].metric_name if results else ""


def accuracy_change_text(arm: ArmReport) -> str:
    """The paired counts behind an accuracy change."""
    comparison = arm.comparison
    if comparison is None:
        return "no paired comparison was made"
    change, _, _ = comparison.change()
    p_value = "" if comparison.p_value is None else f", McNemar p {_p_text(comparison.p_value)}"
    return (
        f"on the same {comparison.n:,} samples, only {comparison.reference} right: {comparison.only_reference:,};"
        f" only {arm.name} right: {comparison.only_candidate:,}"
        f" ({points_text(change, comparison.n)} points{p_value})"
    )


def _p_text(p_value: float) -> str:
    if p_value != p_value:
        return "is not a number"
    return "< 0.0001" if p_value < 1e-4 else f"= {p_value:.2g}"
