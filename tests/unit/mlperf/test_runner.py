"""The referee's runs: honest backends measured right, LoadGen's traps met, misbehaving backends caught."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pennyweight.errors import BenchmarkError
from pennyweight.mlperf import NullBackend, RunSettings, SampleLibrary, run_accuracy, run_performance
from pennyweight.mlperf.logs import read_answers, read_detail
from pennyweight.mlperf.settings import SCENARIOS, Hints, to_loadgen

spec = importlib.util.spec_from_file_location("players", Path(__file__).with_name("players.py"))
assert spec is not None
assert spec.loader is not None
players = importlib.util.module_from_spec(spec)
spec.loader.exec_module(players)


def settings(scenario: str, **changes: object) -> RunSettings:
    return RunSettings(scenario=scenario, **{"min_duration_s": 0.3, "max_batch": 64, **changes})


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(("count", "loaded"), [(1000, None), (1024, 256), (130, 64), (1, None)])
def test_accuracy_answers_every_sample_once(scenario: str, count: int, loaded: int | None) -> None:
    """Also when LoadGen loads the library in several sets, and for sizes that no batch divides."""
    backend = players.Honest()
    result = run_accuracy(backend, players.library(count), settings(scenario, performance_samples=loaded))
    assert np.array_equal(result.predictions, np.arange(count) % 7)
    assert result.accuracy == 1.0
    assert not backend.open


def test_accuracy_mode_sees_wrong_answers() -> None:
    library = SampleLibrary(np.zeros((50, 1), np.float32), np.arange(50) % 5)
    assert run_accuracy(NullBackend(), library, settings("Offline")).accuracy == pytest.approx(0.2)


def test_single_stream_measures_the_known_latency() -> None:
    result = run_performance(players.Sleeper(0.003), players.library(), settings("SingleStream", min_query_count=64))
    assert result.valid, result.reasons
    assert 3.0e6 <= result.p50_ns <= 3.6e6
    assert result.value >= 3.0e6
    assert result.query_count >= 64
    assert result.effective_percentile > 90
    quantiles = dict(result.quantiles)
    assert 3.0e6 <= quantiles[0.5] <= result.p50_ns  # the adapter's clock lies inside LoadGen's


def test_offline_measures_the_known_throughput() -> None:
    result = run_performance(players.Sleeper(0.004), players.library(), settings("Offline", max_batch=50))
    assert result.valid, result.reasons
    assert 0.7 * 12_500 <= result.samples_per_second <= 12_500
    assert result.unit == "samples/s"


def test_performance_set_is_no_sorted_prefix() -> None:
    """LoadGen always loads samples 0 .. count-1; the library's permutation makes that a random draw."""
    backend = players.Honest()
    run_performance(backend, players.library(seed=3), settings("SingleStream", performance_samples=100))
    asked = set(np.concatenate(backend.batches).astype(int).tolist())
    beyond_the_probe = asked - set(range(64))  # warm-up and probe take the library's first samples
    assert len(beyond_the_probe) <= 100
    assert max(beyond_the_probe) > 500


def test_same_seed_same_queries() -> None:
    def first_queries(seed: int) -> list[float]:
        backend = players.Honest()
        run_performance(backend, players.library(), settings("SingleStream", seed=seed, min_duration_s=0.05))
        probes = next(i for i, batch in enumerate(backend.batches) if len(batch) > 1)
        after = next(i for i in range(probes, len(backend.batches)) if len(backend.batches[i]) == 1)
        return [float(batch[0]) for batch in backend.batches[after : after + 50]]

    assert first_queries(1) == first_queries(1) != first_queries(2)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("at", [0, 1, 5000])
def test_a_raising_backend_is_named_and_loadgen_survives(scenario: str, at: int) -> None:
    backend = players.Failing(at, ZeroDivisionError("boom"))
    with pytest.raises(BenchmarkError, match=r"'honest' failed while (being probed|being measured).*boom"):
        run_performance(backend, players.library(), settings(scenario, max_batch=2, min_duration_s=2))
    assert not backend.open
    again = run_performance(players.Honest(), players.library(), settings("SingleStream", min_duration_s=0.05))
    assert again.query_count >= 64


def test_ctrl_c_inside_a_backend_comes_out_as_itself() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_accuracy(players.Failing(3, KeyboardInterrupt()), players.library(), settings("SingleStream"))


def test_a_missing_answer_is_caught() -> None:
    with pytest.raises(BenchmarkError, match="must answer each one"):
        run_accuracy(players.Short(), players.library(), settings("Offline"))


def test_stray_audit_config_is_not_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit.config").write_text("*.*.performance_issue_same = 1\n*.*.performance_issue_same_index = 3\n")
    monkeypatch.chdir(tmp_path)
    backend = players.Honest()
    run_performance(backend, players.library(), settings("SingleStream", min_duration_s=0.05), folder=tmp_path / "logs")
    assert len(set(np.concatenate(backend.batches).tolist())) > 10
    values, errors = read_detail(tmp_path / "logs")
    assert values["effective_performance_issue_same"] is False
    assert errors == []


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="cannot be written"):
        run_performance(NullBackend(), players.library(), settings("Offline"), folder=tmp_path / "file" / "logs")


def test_adapter_overhead_is_microseconds() -> None:
    """No benchmark, but a guard against a slip of an order of magnitude."""
    result = run_performance(NullBackend(), players.library(), settings("SingleStream"))
    assert result.p50_ns < 50_000


@pytest.mark.usefixtures("unchecked")
def test_settings_refuse_nonsense() -> None:
    with pytest.raises(BenchmarkError, match="SingleStream, Offline"):
        RunSettings(scenario="Server")
    with pytest.raises(BenchmarkError, match="min_duration_s=0"):
        settings("Offline", min_duration_s=0)
    with pytest.raises(BenchmarkError, match="0 inputs"):
        SampleLibrary(np.zeros((0, 2)), np.zeros(0))
    translated = to_loadgen(settings("Offline", seed=5), Hints(1000, 50.0), accuracy=False)
    assert translated.offline_expected_qps == 50.0
    assert (translated.qsl_rng_seed, translated.sample_index_rng_seed) == (16, 17)


def test_damaged_logs(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="left no log"):
        read_detail(tmp_path)
    (tmp_path / "mlperf_log_detail.txt").write_text(
        'noise\n:::MLLOG {"key": "a", "value": 1, "metadata": {"is_error": true}}\n:::MLLOG {"key": "b", "val'
    )
    values, errors = read_detail(tmp_path)
    assert values == {"a": 1}
    assert errors == ["a: 1"]
    log = tmp_path / "mlperf_log_accuracy.json"
    for text, message in [
        ("[", "cannot be read"),
        ('[{"qsl_idx": 0, "data": "00000000"}]', "1 of 2 samples were never answered"),
        ('[{"qsl_idx": 0, "data": ""}]', "0 bytes"),
        ('[{"qsl_idx": 0, "data": "00000000"}, {"qsl_idx": 0, "data": "00000000"}]', "answered twice"),
        ('[{"qsl_idx": 9, "data": "00000000"}]', "does not exist"),
    ]:
        log.write_text(text)
        with pytest.raises(BenchmarkError, match=message):
            read_answers(tmp_path, 2)


def test_the_referee_needs_no_torch() -> None:
    code = "import sys, pennyweight.mlperf; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
