"""The `bench` stage: the artifact, or the model where none holds it as it is now, through the official LoadGen."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from torch import nn

from pennyweight.artifact import Artifact, load
from pennyweight.bench.backends import OnnxRuntimeBackend
from pennyweight.bench.model import Candidate, benchmark
from pennyweight.errors import ArtifactError, RecipeError
from pennyweight.mlperf.settings import SCENARIOS, Scenario, loadgen
from pennyweight.recipes.stages.accuracy import keep_correct, measure_accuracy
from pennyweight.recipes.stages.base import Stage
from pennyweight.recipes.stages.export import ONNX
from pennyweight.recipes.work import Record, Work


@dataclass(frozen=True, kw_only=True)
class BenchStage(Stage):
    """Measure accuracy and speed. Nothing depends on it, so its settings can be changed without training again.

    Args:
        scenarios: LoadGen's, in order.
        duration_s: least time of each, above 0, at most a day.
        max_batch: samples a call in Offline, 1 to 2^20.
        threads: the model computes with, 1 to 1024.
        runtime: what executes the model: "packed", the artifact with our kernels, or "onnx", the .onnx file that the
            nearest export before wrote.
        every_seed: measure each seed's net; by default only the first seed's, since speed does not depend on it.
    """

    kind: ClassVar[str] = "bench"
    feeds: ClassVar[bool] = False
    seconds_per_unit: ClassVar[float | None] = 1.3

    scenarios: tuple[Scenario, ...] = SCENARIOS
    duration_s: float = 2.0
    max_batch: int = 256
    threads: int = 1
    runtime: Literal["packed", "onnx"] = "packed"
    every_seed: bool = False

    def __post_init__(self) -> None:
        for name, most in (("duration_s", 86_400), ("max_batch", 1 << 20), ("threads", 1024)):
            if not 0 < getattr(self, name) <= most:
                raise RecipeError(f"{name} is {getattr(self, name)}, must be above 0 and at most {most}")

    def title(self) -> str:
        """The scenarios."""
        return f"bench {', '.join(self.scenarios) or 'accuracy'}, {self.duration_s:g} s each"

    def amount(self) -> float:
        """Seconds LoadGen will take at least; half a second for accuracy and probes."""
        return 0.5 + self.duration_s * len(self.scenarios)

    def wanted(self, first_seed: bool) -> bool:
        """The first seed, unless all are asked for."""
        return first_seed or self.every_seed

    def run(self, work: Work) -> Record:
        """Measure."""
        if work.data.is_text:
            candidate = self._candidate(work)
            model = candidate.model() if isinstance(candidate, Artifact) else candidate
            assert isinstance(model, nn.Module)
            return {"runtime": self.runtime, "accuracy": measure_accuracy(model, work)}
        result = benchmark(
            self._candidate(work),
            work.data.test,
            scenarios=self.scenarios,
            duration_s=self.duration_s,
            max_batch=self.max_batch,
            threads=self.threads,
            seed=work.seed,
            folder=work.folder / "loadgen",
            progress=_tell if work.progress else None,
        )
        keep_correct(np.array(result.predictions) == work.data.test.labels.cpu().numpy(), work)
        measured = result.to_dict()
        del measured["predictions"]  # kept beside, as bytes
        return {
            "benchmark": measured,
            "runtime": self.runtime,
            "accuracy": {
                "value": result.accuracy,
                "low": result.accuracy_low,
                "high": result.accuracy_high,
                "n": result.n,
            },
        }

    def _candidate(self, work: Work) -> Candidate:
        if self.runtime == "onnx":
            assert work.artifact is not None
            return _onnx(work.artifact.with_name(ONNX), self.threads)
        return work.model if work.artifact is None else _loaded(work.artifact)

    def rehearse(self, work: Work) -> None:
        """LoadGen must be installed, and an .onnx file be there where it is asked for; texts need neither."""
        if work.data.is_text:
            if self.scenarios or self.runtime != "packed":
                raise RecipeError(
                    f"LoadGen and ONNX Runtime are driven with images, and {work.data.name!r} is a text: write "
                    f"bench: {{scenarios: []}} to measure perplexity alone"
                )
            return
        loadgen()
        if self.runtime == "onnx" and not work.onnx:
            raise RecipeError(
                "runtime is onnx, but no export before it writes an .onnx file of this model: write "
                "`export: {onnx: speed}`, or leave runtime out"
            )


def _loaded(path: Path) -> Artifact:
    try:
        return load(path)
    except ArtifactError as error:
        raise RecipeError(f"{error}; remove the folder {path.parent} and run again") from error


def _onnx(path: Path, threads: int) -> OnnxRuntimeBackend:
    try:
        return OnnxRuntimeBackend(path, threads=threads)
    except ArtifactError as error:
        raise RecipeError(f"{error}; remove the folder {path.parent} and run again") from error


def _tell(text: str) -> None:
    print(f"      {text.partition(': ')[2]}", file=sys.stderr, flush=True)
