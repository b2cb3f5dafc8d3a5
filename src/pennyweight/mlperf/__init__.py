"""The official MLPerf LoadGen behind our system under test. A referee: it knows no models, no torch, no methods.

What comes out is a LoadGen measurement, not an MLCommons result.
"""

from pennyweight.mlperf.protocol import Backend, NullBackend, SampleLibrary
from pennyweight.mlperf.result import AccuracyResult, ScenarioResult
from pennyweight.mlperf.runner import run_accuracy, run_performance
from pennyweight.mlperf.settings import RunSettings, Scenario

__all__ = [
    "AccuracyResult",
    "Backend",
    "NullBackend",
    "RunSettings",
    "SampleLibrary",
    "Scenario",
    "ScenarioResult",
    "run_accuracy",
    "run_performance",
]
