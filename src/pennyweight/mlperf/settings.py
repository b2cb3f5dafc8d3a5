"""`RunSettings`: one LoadGen run as plain values, and their translation into LoadGen's own settings object.

The fields are set one by one. LoadGen's config files are not read here: its `FromConfig` works once a process and
silently ignores unknown keys.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pennyweight.errors import BenchmarkError, MissingDependencyError

Scenario = Literal["SingleStream", "Offline"]
SCENARIOS: tuple[Scenario, ...] = ("SingleStream", "Offline")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of one run.

    Args:
        scenario: "SingleStream", one sample after the other, or "Offline", all at once.
        min_duration_s: LoadGen issues queries for at least this long. Official runs take 600 s.
        min_query_count: and at least this many; 64 is the least from which a 90th percentile can be proven.
        performance_samples: samples of the library used in performance mode; None for all.
        max_batch: samples a backend call in Offline.
        seed: of the schedule, the sample order and the library's permutation.
    """

    scenario: Scenario
    min_duration_s: float = 2.0
    min_query_count: int = 64
    performance_samples: int | None = None
    max_batch: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.scenario not in SCENARIOS:
            raise BenchmarkError(f"scenario={self.scenario!r}: valid are {', '.join(SCENARIOS)}")
        for name in ("min_duration_s", "min_query_count", "max_batch"):
            if getattr(self, name) <= 0:
                raise BenchmarkError(f"{name}={getattr(self, name)}: must be above 0")
        if self.seed < 0:
            raise BenchmarkError(f"seed={self.seed}: LoadGen's seeds are unsigned")


@dataclass(frozen=True)
class Hints:
    """What LoadGen must expect of a backend to generate enough queries in advance.

    Args:
        latency_ns: of one sample, rather too small.
        samples_per_second: at the best batch, rather too large.
    """

    latency_ns: int
    samples_per_second: float


def loadgen() -> Any:
    """The official LoadGen.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingDependencyError("mlperf_loadgen", "mlperf", "benchmark through the official LoadGen") from error
    return mlperf_loadgen


def to_loadgen(settings: RunSettings, hints: Hints, *, accuracy: bool) -> Any:
    """LoadGen's settings object."""
    lg = loadgen()
    result = lg.TestSettings()
    result.scenario = getattr(lg.TestScenario, settings.scenario)
    result.mode = lg.TestMode.AccuracyOnly if accuracy else lg.TestMode.PerformanceOnly
    result.min_duration_ms = round(settings.min_duration_s * 1000)
    result.max_duration_ms = 0
    result.min_query_count = settings.min_query_count
    result.single_stream_expected_latency_ns = hints.latency_ns
    result.single_stream_target_latency_percentile = 0.9
    result.offline_expected_qps = hints.samples_per_second
    # three streams that must differ from each other and depend on nothing but the seed
    result.qsl_rng_seed, result.sample_index_rng_seed, result.schedule_rng_seed = (
        3 * settings.seed + 1,
        3 * settings.seed + 2,
        3 * settings.seed + 3,
    )
    return result
