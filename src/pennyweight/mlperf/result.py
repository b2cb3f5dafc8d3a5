"""The records a run leaves: plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pennyweight.mlperf.protocol import Array


@dataclass(frozen=True, kw_only=True)
class ScenarioResult:
    """One performance run.

    Args:
        scenario: which.
        valid: LoadGen's verdict.
        reasons: why not, in LoadGen's words.
        metric_name: what `value` is.
        value: the headline figure; None when LoadGen gave none.
        unit: of `value`.
        p50_ns: LoadGen's latency percentiles in nanoseconds; p90_ns and p99_ns likewise.
        mean_ns: LoadGen's mean latency.
        samples_per_second: completed.
        query_count: queries LoadGen issued.
        sample_count: samples answered.
        effective_percentile: what percentile the early-stopping latency really is, in percent.
        quantiles: (quantile, ns) of a backend call a query, timed by the adapter; Offline has one a batch.
        settings: the run's settings as plain values.
        seeds: LoadGen's seeds and the library's permutation seed.
        loadgen_version: as LoadGen logs it.
        seconds: wall-clock time of the run.
    """

    scenario: str
    valid: bool
    reasons: tuple[str, ...]
    metric_name: str
    value: float | None
    unit: str
    p50_ns: float | None
    p90_ns: float | None
    p99_ns: float | None
    mean_ns: float | None
    samples_per_second: float | None
    query_count: int
    sample_count: int
    effective_percentile: float | None
    quantiles: tuple[tuple[float, float], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    loadgen_version: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class AccuracyResult:
    """One accuracy run.

    Args:
        predictions: class index for each sample, in the library's own order.
        correct: bool for each sample.
    """

    predictions: Array
    correct: Array

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(np.mean(self.correct))
