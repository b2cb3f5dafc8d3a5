"""Which backend runs: choice, explanation, a path that fails its self-test, a missing library, and fork."""

import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from pennyweight import ops
from pennyweight.errors import KernelError
from pennyweight.kernels import library
from pennyweight.ops import dispatch


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_process", dispatch._Process())


def test_explain_names_every_path_and_what_is_unproven() -> None:
    explanation = ops.explain()
    assert explanation.backend == ops.current_backend() == ops.available_backends()[0]
    assert [path.name for path in explanation.paths] == list(dispatch.ALL_PATHS)
    assert explanation.threads == ops.num_threads()
    text = str(explanation)
    for path in explanation.paths:
        assert path.name in text
        assert path.proven == (path.state == "usable")
    assert "unproven on this machine" in text


def test_explain_says_what_ran() -> None:
    with ops.use_backend("reference"):
        ops.pack_signs(torch.ones(1, 3))
    assert ops.explain().ran["pack_signs"] == "reference"
    ops.pack_signs(torch.ones(1, 3))
    assert ops.explain().ran["pack_signs"] == ops.current_backend()


def test_use_backend_holds_at_once_and_ends_with_the_block() -> None:
    before = ops.current_backend()
    with ops.use_backend("portable"):
        assert ops.current_backend() == "portable"
        with ops.use_backend(None):
            assert ops.current_backend() == before
    assert ops.current_backend() == before


def test_unusable_backends_are_refused_with_the_reason() -> None:
    with pytest.raises(KernelError, match="did you mean 'portable'"):
        ops.use_backend("portabel")
    absent = next(name for name in dispatch.ALL_PATHS if name not in ops.available_backends())
    with pytest.raises(KernelError, match=r"not compiled|unsupported"):
        ops.use_backend(absent)


@pytest.mark.parametrize("count", [0, -2])
def test_thread_counts_below_one_are_refused(count: int) -> None:
    with pytest.raises(KernelError, match=f"num_threads is {count}"):
        ops.set_num_threads(count)


@pytest.mark.usefixtures("fresh_process")
def test_a_path_that_differs_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    best = ops.available_backends()[0]
    monkeypatch.setattr(library, "self_test", lambda path: "the binary product differs" if path.name == best else None)
    assert ops.current_backend() != best
    state = next(path for path in ops.explain().paths if path.name == best)
    assert (state.state, state.reason, state.proven) == ("switched off", "the binary product differs", False)
    with pytest.raises(KernelError, match="switched off: the binary product differs"):
        ops.use_backend(best)
    assert ops.binary_matmul(ops.pack_signs(torch.ones(1, 3)), ops.pack_signs(torch.ones(1, 3)), 3).item() == 3


@pytest.mark.usefixtures("fresh_process")
def test_without_the_library_the_reference_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library.library.cache_clear()
    library.paths.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(library, "LIBRARY_FILE", tmp_path / "libpennyweight_cpu.so")
        assert ops.available_backends() == ("reference",)
        explanation = ops.explain()
        assert explanation.backend == "reference"
        assert "not built" in explanation.reason
        x = ops.pack_signs(torch.ones(2, 70))
        assert ops.binary_matmul(x, x, 70).tolist() == [[70, 70], [70, 70]]
        layer = ops.ChainLayer(words=x, k=70)
        assert ops.PackedChain([layer], scale=1.0).run(torch.ones(1, 70)).tolist() == [[70, 70]]
        with pytest.raises(KernelError, match="not built"):
            ops.philox_bits(4, (0, 0))
    library.library.cache_clear()
    library.paths.cache_clear()


def test_a_child_of_fork_computes_with_threads() -> None:
    k = 1000
    a, b = ops.pack_signs(torch.randn(256, k)), ops.pack_signs(torch.randn(256, k))
    try:
        torch.set_num_threads(2)
        torch.randn(512, 512) @ torch.randn(512, 512)  # the parent has OpenMP workers now, which fork leaves behind
        ops.set_num_threads(2)
        expected = ops.binary_matmul(a, b, k)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # newer Pythons warn of threads at fork; that is the test
            child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs is a failure, not a hung test
            # numpy compares: torch's own operators may hang in a child of fork, ours must not
            os._exit(0 if np.array_equal(ops.binary_matmul(a, b, k).numpy(), expected.numpy()) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert torch.equal(ops.binary_matmul(a, b, k), expected)
    finally:
        ops.set_num_threads(None)
        torch.set_num_threads(1)
