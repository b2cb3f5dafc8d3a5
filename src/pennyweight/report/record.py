"""The records a report is made of: plain frozen values, torch-free. How they look is decided elsewhere in this folder.

Everything a run may lack is None or empty, and is shown in words; a value is never invented to fill a column.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

LayerExecution = Literal["executed", "simulated", "float"]
ClaimVerdict = Literal["holds", "partly", "not", "not run"]

# LoadGen counts in whole nanoseconds, statistics do not; both are welcome wherever a report holds a number.
Number = int | float

TIME_UNITS = frozenset({"ns", "us", "ms", "s"})
Z_95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Share of right answers, with its interval.

    Args:
        value: a fraction in [0, 1]; the mean where there are several seeds.
        low: lower end of the interval, or None when none was computed.
        high: upper end of the interval.
        n: test samples behind each seed's figure.
        seeds: the seeds of the trained nets.
        per_seed: one fraction a seed, in the order of `seeds`.
        interval: what kind of interval it is.
    """

    value: Number
    low: Number | None = None
    high: Number | None = None
    n: int
    seeds: tuple[int, ...] = ()
    per_seed: tuple[Number, ...] = ()
    interval: str = "95 %"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Paired comparison of an arm with a reference on the same samples.

    Args:
        reference: name of the arm compared with.
        only_reference: samples only the reference got right.
        only_candidate: samples only this arm got right.
        n: samples compared, all seeds together.
        p_value: of McNemar's test, or None.
        difference: candidate minus reference as a fraction; computed from the counts when None.
        low: lower end of the interval of the difference; computed with `difference` when None.
        high: upper end of it.
    """

    reference: str
    only_reference: int
    only_candidate: int
    n: int
    p_value: Number | None = None
    difference: Number | None = None
    low: Number | None = None
    high: Number | None = None

    def change(self) -> tuple[Number, Number | None, Number | None]:
        """Accuracy difference and its 95 % interval, as fractions.

        Without a given difference it is the Agresti-Min interval for paired proportions: half a count is added to
        each of the four cells, so that no discordant pair at all still leaves an honest width.
        """
        if self.difference is not None:
            return self.difference, self.low, self.high
        if self.n <= 0:
            return math.nan, None, None
        gain = self.only_candidate - self.only_reference
        total = self.n + 2
        centre = gain / total
        variance = (self.only_candidate + self.only_reference + 1 - gain * gain / total) / total**2
        half = Z_95 * math.sqrt(variance)
        return gain / self.n, max(-1.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, kw_only=True)
class SizeBreakdown:
    """Where an artifact's bytes go.

    Args:
        codes: packed weights.
        scales: scales, zero points, thresholds and other numbers needed to decode or apply them.
        parameters: weights, biases and whatever else stays in float.
        other: manifest and metadata.
    """

    codes: int
    scales: int
    parameters: int
    other: int


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer of an artifact.

    Args:
        fqn: module path.
        type: module type, such as "GemmLinear".
        format: weight format, with the activation format where it has one.
        bits: bits of one weight; a mean may be fractional.
        shape: of the weight.
        bytes: on disk, scales included.
        executed: arithmetic of the format itself, float arithmetic on rounded values, or plain float.
        note: anything the reader must know.
    """

    fqn: str
    type: str
    format: str
    bits: Number | None = None
    shape: tuple[int, ...] = ()
    bytes: int | None = None
    executed: LayerExecution = "float"
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ScenarioReport:
    """One LoadGen scenario of one arm.

    Args:
        scenario: "SingleStream", "Offline", ...
        metric_name: what `value` is, such as "p90 latency (early stopping)".
        value: the headline figure, or None when LoadGen gave none.
        unit: of `value`; a unit of time means that less is better.
        valid: LoadGen's verdict.
        reasons: why it is invalid, in LoadGen's words.
        p50_ns: median latency; p90_ns and p99_ns likewise.
        mean_ns: mean latency.
        effective_percentile: percentile the headline really is, in percent, after early stopping.
        query_count: queries behind the figures.
        quantiles: (quantile in [0, 1], latency in ns), ascending; drawn as the latency distribution.
        overhead_ns: what LoadGen and its adapter cost a query, from a run with an empty backend.
        runs: repeated runs behind `value`.
        spread: interquartile range over median of those runs, or None.
        backend: what ran: backend, threads.
    """

    scenario: str
    metric_name: str
    value: Number | None
    unit: str
    valid: bool
    reasons: tuple[str, ...] = ()
    p50_ns: Number | None = None
    p90_ns: Number | None = None
    p99_ns: Number | None = None
    mean_ns: Number | None = None
    effective_percentile: Number | None = None
    query_count: int | None = None
    quantiles: tuple[tuple[Number, Number], ...] = ()
    overhead_ns: Number | None = None
    runs: int = 1
    spread: Number | None = None
    backend: str = ""

    @property
    def less_is_better(self) -> bool:
        """Whether the headline is a time (less is better) or a rate."""
        return self.unit in TIME_UNITS


@dataclass(frozen=True, kw_only=True)
class MethodReport:
    """What one application of a method did.

    Args:
        name: the method with its settings, as a reader should see it.
        changed: number of modules it changed.
        skipped: matching modules it left alone, with the reason.
        failed: matching modules where it failed, with the reason; they stay as they were, or at a safe format.
        metrics: what it measured on the way.
        tables: rows by title, such as a line a unit or a line a plan; all rows of a table have the same keys.
    """

    name: str
    changed: int
    skipped: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Number | str] = field(default_factory=dict)
    tables: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    def table(self, title: str) -> tuple[Mapping[str, Any], ...]:
        """The rows of a table, none where there is no such table."""
        return self.tables.get(title, ())


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One point of a training curve.

    Args:
        step: optimiser steps done.
        loss: training loss.
        accuracy: a fraction, where it was measured at this step.
        seed: of the run it belongs to; each seed is a line of its own.
    """

    step: int
    loss: Number | None = None
    accuracy: Number | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ArmReport:
    """Everything a report shows of one arm.

    Args:
        name: the arm's name in the recipe.
        stages: one line of text a stage.
        accuracy: on the test set.
        comparison: with the baseline arm, on the same samples.
        size_bytes: of the artifact on disk, everything counted.
        size: where these bytes go.
        numerics: formats in words, such as "1-bit weights and activations, int8 input".
        executed: True when the numerics above are what ran, False when they were simulated in float, or a text.
        layers: the artifact, layer by layer.
        scenarios: the benchmark.
        methods: the methods applied.
        curve: the training curve.
        seconds: wall-clock time of the arm.
        notes: what is missing and why, or anything else worth a line.
    """

    name: str
    stages: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    comparison: Comparison | None = None
    size_bytes: int | None = None
    size: SizeBreakdown | None = None
    numerics: str = ""
    executed: bool | str | None = None
    layers: tuple[LayerRow, ...] = ()
    scenarios: tuple[ScenarioReport, ...] = ()
    methods: tuple[MethodReport, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    seconds: Number | None = None
    notes: tuple[str, ...] = ()

    def scenario(self, name: str) -> ScenarioReport | None:
        """The result of one scenario, or None when this arm did not run it."""
        return next((result for result in self.scenarios if result.scenario == name), None)


@dataclass(frozen=True, kw_only=True)
class ClaimBox:
    """A paper's claim, held against what was measured here.

    Args:
        claim: in our words.
        paper: title and arXiv id.
        setting: our scaled setting; a proxy net is named here.
        measured: with interval.
        verdict: "holds", "partly", "not" or "not run".
        command: that repeats it.
        n: samples, seeds or repetitions behind it, in words or as a number.
    """

    claim: str
    paper: str
    setting: str
    measured: str
    verdict: ClaimVerdict
    command: str = ""
    n: int | str = ""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One run of a recipe.

    Args:
        name: of the recipe.
        arms: in the recipe's order.
        baseline: name of the arm all others are held against; the first when empty.
        recipe_yaml: the resolved recipe, every default written out.
        seeds: of the whole run.
        machine: processor, memory, threads, ... as JSON values, shown as given.
        versions: of python, torch, pennyweight, ...
        command: that repeats the run.
        claims: claim boxes.
        excluded: what the figures leave out (loading, warm-up, ...), one line each.
        started: when, ISO 8601.
        seconds: wall-clock time.
    """

    name: str
    arms: tuple[ArmReport, ...]
    baseline: str = ""
    recipe_yaml: str = ""
    seeds: tuple[int, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    claims: tuple[ClaimBox, ...] = ()
    excluded: tuple[str, ...] = ()
    started: str = ""
    seconds: Number | None = None

    def baseline_arm(self) -> ArmReport | None:
        """The arm the others are held against; None when no arm has that name (or there is none)."""
        if not self.baseline:
            return self.arms[0] if self.arms else None
        return next((arm for arm in self.arms if arm.name == self.baseline), None)

    def scenario_names(self) -> tuple[str, ...]:
        """The scenarios any arm ran, in order of first appearance."""
        return tuple(dict.fromkeys(result.scenario for arm in self.arms for result in arm.scenarios))
