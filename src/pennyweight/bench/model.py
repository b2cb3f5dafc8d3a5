"""`benchmark`: one model, float or packed, through the official LoadGen: accuracy against a reference, then speed."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pennyweight.artifact import Artifact
from pennyweight.artifact.onnx import OnnxExport
from pennyweight.bench.backends import OnnxRuntimeBackend, TorchBackend
from pennyweight.bench.paired import Paired, compare, exact_interval
from pennyweight.data import ImageDataset
from pennyweight.errors import BenchmarkError
from pennyweight.mlperf import (
    AccuracyResult,
    Backend,
    NullBackend,
    RunSettings,
    SampleLibrary,
    Scenario,
    ScenarioResult,
    run_accuracy,
    run_performance,
)
from pennyweight.mlperf.settings import SCENARIOS
from pennyweight.numerics.measure import machine, versions

Candidate = nn.Module | Artifact | OnnxExport | Backend
EXCLUDED = ("model loading and warm-up", "preprocessing of the samples (resizing, normalisation)")
# A load this far above the benchmark's own threads means that something else was using the machine.
_STRANGE_LOAD = 1.0


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """A LoadGen measurement of one model. It is not an MLCommons result.

    Args:
        name: of the backend.
        numerics: formats, and what is executed and what simulated.
        threads: it computed with.
        size_bytes: of the file on disk; None for a model that has none.
        accuracy: share of right answers.
        accuracy_low: Clopper and Pearson's exact 95 % interval; `accuracy_high` likewise.
        n: samples.
        predictions: class index for each sample, in the data set's order.
        reference: name of what it was compared with.
        paired: the comparison, sample by sample.
        scenarios: one performance run each.
        overhead_ns: mean latency of an empty backend in SingleStream: LoadGen and our adapter.
        machine: what it ran on.
        versions: of the software.
        excluded: what the timings leave out.
        load_before: load average before; `load_after` likewise.
        warnings: what a reader must know before trusting the figures.
    """

    name: str
    numerics: str
    threads: int
    size_bytes: int | None
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n: int
    predictions: tuple[int, ...] = field(repr=False)
    reference: str | None
    paired: Paired | None
    scenarios: tuple[ScenarioResult, ...]
    overhead_ns: float | None
    machine: dict[str, Any]
    versions: dict[str, str]
    excluded: tuple[str, ...]
    load_before: float | None
    load_after: float | None
    warnings: tuple[str, ...]

    def scenario(self, name: str) -> ScenarioResult:
        """The result of one scenario.

        Raises:
            BenchmarkError: it was not run.
        """
        for result in self.scenarios:
            if result.scenario == name:
                return result
        ran = [result.scenario for result in self.scenarios]
        raise BenchmarkError(f"scenario {name!r} was not run; ran: {', '.join(ran) or 'none'}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def benchmark(
    candidate: Candidate,
    data: ImageDataset,
    *,
    reference: Candidate | BenchmarkResult | None = None,
    scenario: Scenario | None = None,
    scenarios: Sequence[Scenario] = SCENARIOS,
    duration_s: float = 2.0,
    max_batch: int = 256,
    threads: int = 1,
    seed: int = 0,
    name: str | None = None,
    folder: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> BenchmarkResult:
    """Measure a model's accuracy and speed through LoadGen.

    Accuracy comes from LoadGen's accuracy mode over every sample of `data`, and equals direct evaluation. Samples are
    normalised beforehand, untimed.

    Args:
        candidate: a module, an artifact, an exported .onnx file, or a backend of one's own.
        data: test set.
        reference: what to compare with on the same samples, usually the float model; a result of an earlier call on
            the same data saves measuring it again.
        scenario: one scenario, in place of `scenarios`.
        scenarios: those to run, in order; empty for accuracy alone.
        duration_s: least time of each performance run. Official runs take 600 s.
        max_batch: samples a call in Offline.
        threads: of the backend.
        seed: of LoadGen's streams and the order of samples.
        name: in reports; None for the artifact's or the class's.
        folder: where LoadGen's logs are kept, one folder a run.
        progress: told in a few words what begins.

    Raises:
        BenchmarkError: a backend failed, answers what are no logits or fewer classes than the data has, or the
            reference was measured on other samples.
        MissingDependencyError: LoadGen is not installed.

    Example:
        >>> import pennyweight as pw
        >>> result = pw.benchmark(pw.create_model("mlp"), pw.load_dataset("digits", "test"), scenarios=())
        >>> 0.0 <= result.accuracy_low <= result.accuracy <= 1.0
        True
    """
    tell = progress or (lambda _text: None)
    chosen: Sequence[Scenario] = scenarios if scenario is None else (scenario,)
    logs = None if folder is None else Path(folder)
    backend = as_backend(candidate, threads=threads, name=name)
    library = SampleLibrary(_inputs(data), data.labels.cpu().numpy(), seed=seed)
    load_before = _load()
    tell(f"{backend.name}: accuracy on {len(library)} samples")
    answered = _accuracy(backend, library, max_batch, seed, _sub(logs, "accuracy"))
    outputs = getattr(backend, "num_classes", data.num_classes)
    differing = f"{backend.name} answers {outputs} classes, and {data.name} has {data.num_classes}"
    if outputs < data.num_classes:
        raise BenchmarkError(differing)
    surplus = [f"{differing}: is the first the same?"] if outputs > data.num_classes else []
    paired, reference_name = None, None
    if reference is not None:
        reference_name, right = _reference(reference, library, max_batch, threads, seed, tell)
        paired = compare(answered.correct, right)
    results = []
    for one in chosen:
        tell(f"{backend.name}: {one}, {duration_s:g} s")
        settings = RunSettings(scenario=one, min_duration_s=duration_s, max_batch=max_batch, seed=seed)
        results.append(run_performance(backend, library, settings, folder=_sub(logs, one)))
    overhead = _overhead(library, seed) if "SingleStream" in chosen else None
    load_after = _load()
    sized = backend if isinstance(backend, OnnxRuntimeBackend) else candidate
    low, high = exact_interval(int(answered.correct.sum()), len(library))
    return BenchmarkResult(
        name=backend.name,
        numerics=backend.numerics,
        threads=backend.threads,
        size_bytes=sized.size_bytes if isinstance(sized, Artifact | OnnxRuntimeBackend) else None,
        accuracy=answered.accuracy,
        accuracy_low=low,
        accuracy_high=high,
        n=len(library),
        predictions=tuple(answered.predictions.tolist()),
        reference=reference_name,
        paired=paired,
        scenarios=tuple(results),
        overhead_ns=overhead,
        machine=machine(),
        versions=versions(),
        excluded=EXCLUDED,
        load_before=load_before,
        load_after=load_after,
        warnings=(*_warnings(results, backend.threads, load_before, load_after), *surplus),
    )


def as_backend(candidate: Candidate, *, threads: int, name: str | None = None) -> Backend:
    """A candidate as what the referee takes."""
    if isinstance(candidate, Artifact):
        return TorchBackend(
            candidate.model(), name=name or candidate.name, numerics=candidate.numerics, threads=threads
        )
    if isinstance(candidate, OnnxExport):
        return OnnxRuntimeBackend(candidate.path, name=name, threads=threads)
    if isinstance(candidate, nn.Module):
        label = name or type(candidate).__name__
        return TorchBackend(candidate, name=label, numerics="eager module, as built", threads=threads)
    return candidate


def _inputs(data: ImageDataset) -> Any:
    return data.normalize(data.images).cpu().numpy()


def _accuracy(
    backend: Backend, library: SampleLibrary, max_batch: int, seed: int, folder: Path | None
) -> AccuracyResult:
    settings = RunSettings(scenario="Offline", max_batch=max_batch, seed=seed)
    return run_accuracy(backend, library, settings, folder=folder)


def _reference(
    reference: Candidate | BenchmarkResult,
    library: SampleLibrary,
    max_batch: int,
    threads: int,
    seed: int,
    tell: Callable[[str], None],
) -> tuple[str, Any]:
    if isinstance(reference, BenchmarkResult):
        if reference.n != len(library):
            raise BenchmarkError(
                f"reference {reference.name!r} was measured on {reference.n} samples, the data has {len(library)}"
            )
        return reference.name, np.array(reference.predictions) == library.labels
    backend = as_backend(reference, threads=threads)
    tell(f"{backend.name}: reference accuracy")
    return backend.name, _accuracy(backend, library, max_batch, seed, None).correct


def _overhead(library: SampleLibrary, seed: int) -> float | None:
    settings = RunSettings(scenario="SingleStream", min_duration_s=0.2, seed=seed)
    return run_performance(NullBackend(), library, settings).mean_ns


def _sub(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _warnings(
    results: Sequence[ScenarioResult], threads: int, before: float | None, after: float | None
) -> tuple[str, ...]:
    found = [f"{result.scenario} is INVALID: {'; '.join(result.reasons)}" for result in results if not result.valid]
    if before is not None and after is not None and max(before, after) > threads + _STRANGE_LOAD:
        found.append(
            f"the machine was busy (load {before} before, {after} after, with {threads} threads of our own): "
            f"measure again when it is quiet"
        )
    return tuple(found)
