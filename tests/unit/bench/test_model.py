"""`benchmark` end to end on a small net: LoadGen's accuracy is direct evaluation's, records are plain, errors named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pennyweight as pw
from pennyweight.bench.model import benchmark
from pennyweight.bench.paired import compare, exact_interval, mcnemar
from pennyweight.data import load_dataset
from pennyweight.errors import BenchmarkError


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return pw.create_model("mlp", hidden=(32,)).eval()


def test_accuracy_equals_direct_evaluation(net: torch.nn.Module, tmp_path: Path) -> None:
    data = load_dataset("digits", "test")
    artifact = pw.export(net, tmp_path / "net.pw")
    threads = torch.get_num_threads()
    result = benchmark(artifact, data, reference=net, duration_s=0.1, folder=tmp_path / "logs")
    with torch.inference_mode():
        expected = net(data.normalize(data.images)).argmax(-1)
    assert list(result.predictions) == expected.tolist()
    assert result.accuracy == pytest.approx(float((expected == data.labels).float().mean()))
    assert result.size_bytes == artifact.path.stat().st_size
    assert result.paired is not None
    assert result.paired.ratio_percent == 100.0
    assert {one.scenario for one in result.scenarios} == {"SingleStream", "Offline"}
    assert result.scenario("SingleStream").query_count >= 64
    assert result.overhead_ns is not None
    assert torch.get_num_threads() == threads
    assert (tmp_path / "logs" / "Offline" / "mlperf_log_detail.txt").exists()
    json.dumps(result.to_dict(), allow_nan=False)
    # a result stands in for its model as the reference of the next
    again = benchmark(net, data, reference=result, scenarios=())
    assert again.reference == "net"
    assert again.scenarios == ()
    with pytest.raises(BenchmarkError, match="ran: none"):
        again.scenario("Offline")
    with pytest.raises(BenchmarkError, match="360 samples"):
        benchmark(net, data.subset(torch.arange(10)), reference=result, scenarios=())


def test_bad_threads(net: torch.nn.Module) -> None:
    with pytest.raises(BenchmarkError, match="threads=0"):
        benchmark(net, load_dataset("digits", "test"), threads=0)


def test_paired_counts_and_exact_p() -> None:
    candidate = np.array([1, 1, 1, 0, 0, 1], bool)
    reference = np.array([1, 0, 0, 1, 0, 1], bool)
    paired = compare(candidate, reference)
    assert (paired.both_right, paired.only_reference, paired.only_candidate) == (2, 1, 2)
    assert paired.p_value == 1.0
    assert paired.ratio_percent == 133.33
    # 2 * sum_{i<=1} C(10, i) / 2^10
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(0, 0) == 1.0
    nothing = compare(np.zeros(3, bool), np.zeros(3, bool))
    assert nothing.ratio_percent is None


def test_exact_interval_brackets_by_binomial_tails() -> None:
    low, high = exact_interval(7, 20)
    tail = sum(_choose(20, k) * low**k * (1 - low) ** (20 - k) for k in range(7, 21))
    assert tail == pytest.approx(0.025, abs=1e-6)
    tail = sum(_choose(20, k) * high**k * (1 - high) ** (20 - k) for k in range(8))
    assert tail == pytest.approx(0.025, abs=1e-6)


def _choose(n: int, k: int) -> int:
    result = 1
    for i in range(k):
        result = result * (n - i) // (i + 1)
    return result
