"""Run LoadGen once: performance of a scenario, or accuracy. In this process; nothing here needs a config file."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pennyweight.errors import BenchmarkError
from pennyweight.mlperf.logs import read_answers, read_detail
from pennyweight.mlperf.protocol import Array, Backend, SampleLibrary
from pennyweight.mlperf.result import AccuracyResult, ScenarioResult
from pennyweight.mlperf.settings import Hints, RunSettings, loadgen, to_loadgen
from pennyweight.mlperf.statistics import effective_percentile
from pennyweight.mlperf.sut import StagedSamples, SystemUnderTest

_QUANTILES = 201
# LoadGen makes all queries of a run beforehand, by the hint: below these bounds, which are the adapter's own cost, a
# backend that answers at once would have it make millions.
_LEAST_LATENCY_NS = 3_000
_MOST_SAMPLES_PER_SECOND = 1_000_000.0


def run_performance(
    backend: Backend, library: SampleLibrary, settings: RunSettings, *, folder: Path | None = None
) -> ScenarioResult:
    """Time a backend in one scenario.

    LoadGen must be told beforehand how fast the backend is; a short probe finds that out, and a run in which the
    queries ran out all the same is repeated once with a better hint.

    Args:
        folder: where LoadGen's logs are kept; None for a temporary place.

    Returns:
        The result, with LoadGen's verdict; an invalid run is returned, not raised.

    Raises:
        BenchmarkError: the backend raised, or the folder cannot be written.
    """
    with _prepared(backend, library, settings.max_batch), _log_folder(folder) as logs:
        hints = _probe(backend, library, settings)
        result = _run_once(backend, library, settings, hints, logs)
        if not result.valid and result.mean_ns:
            faster = Hints(
                latency_ns=max(_LEAST_LATENCY_NS, round(0.5 * (result.p50_ns or result.mean_ns))),
                samples_per_second=1.5 * max(result.samples_per_second or 0.0, hints.samples_per_second),
            )
            result = _run_once(backend, library, settings, faster, logs)
        return result


def run_accuracy(
    backend: Backend, library: SampleLibrary, settings: RunSettings, *, folder: Path | None = None
) -> AccuracyResult:
    """Ask a backend for every sample once, through LoadGen, and compare with the labels.

    Raises:
        BenchmarkError: the backend raised, or a sample was not answered exactly once.
    """
    with _prepared(backend, library, settings.max_batch), _log_folder(folder) as logs:
        _start(backend, library, settings, Hints(1_000_000, 1000.0), logs, accuracy=True)
        answers = read_answers(logs, len(library))
    predictions = np.empty_like(answers)
    predictions[library.order] = answers
    return AccuracyResult(predictions=predictions, correct=predictions == library.labels)


@contextmanager
def _prepared(backend: Backend, library: SampleLibrary, max_batch: int) -> Iterator[None]:
    try:
        with _blaming(backend, "warming up"):
            backend.prepare(library.inputs[: min(max_batch, len(library))], max_batch)
        yield
    finally:
        backend.close()


@contextmanager
def _blaming(backend: Backend, when: str) -> Iterator[None]:
    """Turn what a backend raises into an error that names it."""
    try:
        yield
    except Exception as error:
        raise BenchmarkError(f"backend {backend.name!r} failed while {when}: {error!r}") from error


@contextmanager
def _log_folder(folder: Path | None) -> Iterator[Path]:
    """A folder LoadGen can write: it ignores one it cannot, and aborts the process at exit."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mlperf_log_detail.txt").write_text("")
    except OSError as error:
        raise BenchmarkError(f"LoadGen's log folder {folder} cannot be written ({error}): choose another") from error
    yield folder


def _probe(backend: Backend, library: SampleLibrary, settings: RunSettings) -> Hints:
    """Latency of one sample and throughput at the largest batch, over some tenths of a second."""
    one, many = library.inputs[:1], library.inputs[: settings.max_batch]
    with _blaming(backend, "being probed"):
        latencies = np.sort(_times(backend, one))
        batches = _times(backend, many)
    return Hints(
        latency_ns=max(_LEAST_LATENCY_NS, round(0.8 * latencies[len(latencies) // 10])),
        samples_per_second=min(_MOST_SAMPLES_PER_SECOND, 1.1 * len(many) * 1e9 / float(np.median(batches))),
    )


def _times(backend: Backend, batch: Array, seconds: float = 0.2) -> Array:
    times: list[int] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < deadline and len(times) < 1000):
        started = time.perf_counter_ns()
        backend.infer(batch)
        times.append(time.perf_counter_ns() - started)
    return np.array(times)


def _start(
    backend: Backend,
    library: SampleLibrary,
    settings: RunSettings,
    hints: Hints,
    logs: Path,
    *,
    accuracy: bool = False,
) -> SystemUnderTest:
    """Run the test to its end; afterwards raise what the backend raised within it."""
    lg = loadgen()
    samples = StagedSamples(library)
    batch = 1 if settings.scenario == "SingleStream" else settings.max_batch
    sut = SystemUnderTest(backend, samples, batch)
    log = lg.LogSettings()
    log.enable_trace = False
    log.log_output.outdir = str(logs)
    log.log_output.copy_summary_to_stdout = False
    used = min(len(library), settings.performance_samples or len(library))
    sut_id = lg.ConstructFastSUT(sut.issue, sut.flush)
    qsl_id = lg.ConstructQSL(len(library), used, samples.load, samples.unload)
    try:
        # Named, because LoadGen would otherwise obey an audit.config that happens to lie in the working directory.
        audit = str(logs / "no-audit.config")
        lg.StartTestWithLogSettings(sut_id, qsl_id, to_loadgen(settings, hints, accuracy=accuracy), log, audit)
    finally:
        lg.DestroyQSL(qsl_id)
        lg.DestroyFastSUT(sut_id)
    if isinstance(sut.failure, Exception):
        raise BenchmarkError(f"backend {backend.name!r} failed while being measured: {sut.failure!r}") from sut.failure
    if sut.failure is not None:
        raise sut.failure  # Ctrl-C and its kind are not the backend's fault
    return sut


def _run_once(
    backend: Backend, library: SampleLibrary, settings: RunSettings, hints: Hints, logs: Path
) -> ScenarioResult:
    started = time.perf_counter()
    sut = _start(backend, library, settings, hints, logs)
    seconds = time.perf_counter() - started
    values, errors = read_detail(logs)
    single = settings.scenario == "SingleStream"
    queries = int(values.get("result_query_count", values.get("generated_query_count", 0)))
    rate = values.get("result_samples_per_second", values.get("result_qps_without_loadgen_overhead"))
    calls = np.array(sut.call_ns)
    levels = np.linspace(0, 1, _QUANTILES)
    proven = values.get("early_stopping_latency_ss") if single else None
    return ScenarioResult(
        scenario=settings.scenario,
        valid=values.get("result_validity") == "VALID" and not errors,
        reasons=(*_reasons(values), *errors),
        metric_name="90th percentile latency (early stopping)" if single else "throughput",
        value=_positive(proven) if single else _positive(rate),
        unit="ns" if single else "samples/s",
        p50_ns=_positive(values.get("result_50.00_percentile_latency_ns")),
        p90_ns=_positive(values.get("result_90.00_percentile_latency_ns")),
        p99_ns=_positive(values.get("result_99.00_percentile_latency_ns")),
        mean_ns=_positive(values.get("result_mean_latency_ns")),
        samples_per_second=_positive(rate),
        query_count=queries,
        sample_count=sum(1 for _ in sut.call_ns) if single else int(values.get("effective_samples_per_query", 0)),
        effective_percentile=effective_percentile(queries, 0.9) if single else None,
        quantiles=tuple(zip(levels.tolist(), np.quantile(calls, levels).tolist(), strict=True)) if len(calls) else (),
        settings=asdict(settings),
        seeds={"loadgen": 3 * settings.seed + 1, "permutation": library.seed},
        loadgen_version=str(values.get("loadgen_version", "")),
        seconds=seconds,
    )


def _reasons(values: dict[str, Any]) -> tuple[str, ...]:
    reason = values.get("result_invalid_reason")
    if not reason:
        return ()
    return tuple(part.strip() for part in str(reason).splitlines() if part.strip())


def _positive(value: Any) -> float | None:
    """A logged figure, or None: LoadGen writes 0 or nothing where it could not tell."""
    return float(value) if isinstance(value, int | float) and value > 0 else None
