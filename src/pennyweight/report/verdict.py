"""What one arm won and lost against the baseline, in words: size, accuracy, speed. Nothing is compared that may not be.

A change whose interval includes zero is not called a change; an INVALID benchmark is not compared; slower is called
slower. The page, the terminal table and the sentence all draw on the same findings.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pennyweight.report.record import ArmReport, Number, ScenarioReport
from pennyweight.report.units import (
    bytes_text,
    percent_text,
    points_interval_text,
    points_text,
    ratio_text,
    value_text,
)

Kind = Literal["better", "worse", "same", "unknown"]
# Ratios this close to one are called equal: less than what two runs on one machine differ by.
TOLERANCE = 0.03


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One comparison.

    Args:
        kind: how it turned out for this arm.
        headline: a few words, such as "24.6× smaller".
        detail: the figures behind it.
        clause: its part of the verdict sentence, complete in itself.
    """

    kind: Kind
    headline: str
    detail: str
    clause: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The three findings of an arm, and one sentence that holds them all."""

    size: Finding
    accuracy: Finding
    speed: Finding
    sentence: str

    @property
    def findings(self) -> tuple[Finding, Finding, Finding]:
        """In reading order."""
        return self.size, self.accuracy, self.speed


def verdict(arm: ArmReport, baseline: ArmReport) -> Verdict:
    """What `arm` won and lost against `baseline`."""
    findings = size_finding(arm, baseline), accuracy_finding(arm, baseline), speed_finding(arm, baseline)
    size, accuracy, speed = findings
    sentence = f"Against {baseline.name}, {arm.name} is {_joined([finding.clause for finding in findings])}."
    simulated = sum(layer.executed == "simulated" for layer in arm.layers)
    if simulated or arm.executed is False:
        which = f"{simulated} of its {len(arm.layers)} layers are" if simulated else "Its formats are"
        sentence += f" {which} simulated in float arithmetic, so its speed is not the speed of its formats."
    return Verdict(size=size, accuracy=accuracy, speed=speed, sentence=sentence)


def baseline_sentence(arm: ArmReport) -> str:
    """What the others are held against."""
    parts = [
        "accuracy not measured" if arm.accuracy is None else percent_text(arm.accuracy.value, arm.accuracy.n),
        "no artifact" if arm.size_bytes is None else bytes_text(arm.size_bytes),
    ]
    result = _headline_scenario(arm)
    if result is None:
        parts.append("not benchmarked")
    else:
        verdict_word = "" if result.valid else " (INVALID)"
        parts.append(f"{result.scenario} {result.metric_name} {value_text(result.value, result.unit)}{verdict_word}")
    return f"{arm.name} is the baseline: {', '.join(parts)}."


def size_finding(arm: ArmReport, baseline: ArmReport) -> Finding:
    """Bytes on disk, everything counted."""
    if not arm.size_bytes or not baseline.size_bytes:
        which = arm.name if not arm.size_bytes else baseline.name
        return _unknown(
            "size not compared", f"no artifact of {which}", f"not compared in size (no artifact of {which})"
        )
    ratio = baseline.size_bytes / arm.size_bytes
    detail = f"{bytes_text(arm.size_bytes)} against {bytes_text(baseline.size_bytes)}"
    return _ratio_finding(ratio, "smaller", "larger", "as large", detail)


def accuracy_finding(arm: ArmReport, baseline: ArmReport) -> Finding:
    """Paired where a comparison with this baseline was made; a bare difference is labelled as one."""
    comparison = arm.comparison
    if comparison is not None and comparison.reference == baseline.name:
        (change, low, high), n = comparison.change(), comparison.n
    elif arm.accuracy is None or baseline.accuracy is None:
        which = arm.name if arm.accuracy is None else baseline.name
        reason = f"accuracy of {which} not measured"
        return _unknown("accuracy not compared", reason, f"not compared in accuracy ({reason})")
    else:
        change, low, high = arm.accuracy.value - baseline.accuracy.value, None, None
        n = min(arm.accuracy.n, baseline.accuracy.n)
    if not math.isfinite(change):
        return _unknown(
            "accuracy not compared",
            "the difference is not a number",
            "not compared in accuracy (the difference is not a number)",
        )
    points = f"{points_text(change, n)} points"
    interval = points_interval_text(low, high, n)
    if not interval or low is None or high is None:
        kind: Kind = "same" if change == 0 else "better" if change > 0 else "worse"
        return Finding(
            kind=kind,
            headline=points,
            detail="accuracy; no interval: not a paired test",
            clause=f"{_accuracy_word(change)} ({points}, no interval)",
        )
    if low <= 0 <= high:
        return Finding(
            kind="same",
            headline=points,
            detail=f"accuracy, 95 % interval {interval} includes zero, {_count(n)}",
            clause=f"not measurably different in accuracy ({points} {interval})",
        )
    return Finding(
        kind="better" if change > 0 else "worse",
        headline=points,
        detail=f"accuracy, 95 % interval {interval}, {_count(n)}",
        clause=f"{_accuracy_word(change)} ({points} {interval})",
    )


def speed_finding(arm: ArmReport, baseline: ArmReport) -> Finding:
    """The first scenario both ran, SingleStream before others; INVALID runs are not compared."""
    shared = [result for result in arm.scenarios if baseline.scenario(result.scenario) is not None]
    if not shared:
        which = arm.name if not arm.scenarios else baseline.name if not baseline.scenarios else ""
        reason = f"{which} was not benchmarked" if which else "no scenario in common"
        return _unknown("speed not compared", reason, f"not compared in speed ({reason})")
    shared.sort(key=lambda result: result.scenario != "SingleStream")
    usable = [result for result in shared if speed_ratio(result, baseline.scenario(result.scenario)) is not None]
    if not usable:
        result = shared[0]
        reference = baseline.scenario(result.scenario)
        assert reference is not None
        invalid = arm.name if not result.valid else baseline.name if not reference.valid else ""
        reason = f"{result.scenario} of {invalid} is INVALID" if invalid else f"{result.scenario} gave no figure"
        return _unknown("speed not compared", reason, f"not compared in speed ({reason})")
    result = usable[0]
    reference = baseline.scenario(result.scenario)
    ratio = speed_ratio(result, reference)
    assert ratio is not None
    assert reference is not None
    detail = (
        f"{result.scenario} {result.metric_name}: {value_text(result.value, result.unit)}"
        f" against {value_text(reference.value, reference.unit)}"
    )
    return _ratio_finding(ratio, "faster", "slower", "as fast", detail, f" in {result.scenario}")


def speed_ratio(result: ScenarioReport, reference: ScenarioReport | None) -> Number | None:
    """How many times faster than the reference; None where the two may not be compared."""
    if reference is None or not (result.valid and reference.valid) or result.unit != reference.unit:
        return None
    if result.value is None or reference.value is None:
        return None
    if not (math.isfinite(result.value) and math.isfinite(reference.value) and result.value > 0 < reference.value):
        return None
    return reference.value / result.value if result.less_is_better else result.value / reference.value


def speed_words(ratio: Number) -> tuple[Kind, str]:
    """How a speed ratio is called."""
    finding = _ratio_finding(ratio, "faster", "slower", "as fast", "")
    return finding.kind, finding.headline


def _headline_scenario(arm: ArmReport) -> ScenarioReport | None:
    return arm.scenario("SingleStream") or (arm.scenarios[0] if arm.scenarios else None)


def _ratio_finding(ratio: Number, more: str, less: str, equal: str, detail: str, where: str = "") -> Finding:
    kind: Kind
    if abs(math.log(ratio)) <= math.log1p(TOLERANCE):
        kind, headline = "same", f"{equal} ({ratio_text(ratio)})"
    elif ratio > 1:
        kind, headline = "better", f"{ratio_text(ratio)} {more}"
    else:
        kind, headline = "worse", f"{ratio_text(1 / ratio)} {less}"
    return Finding(kind=kind, headline=headline, detail=detail, clause=headline + where)


def _accuracy_word(change: Number) -> str:
    return "equally accurate" if change == 0 else "more accurate" if change > 0 else "less accurate"


def _joined(clauses: list[str]) -> str:
    return ", ".join(clauses[:-1]) + " and " + clauses[-1]


def _count(n: int) -> str:
    gap = "\N{NO-BREAK SPACE}"
    return f"n{gap}={gap}{n:,}"


def _unknown(headline: str, detail: str, clause: str) -> Finding:
    return Finding(kind="unknown", headline=headline, detail=detail, clause=clause)
