"""A whole packed network in one call: every backend against the numpy oracle, every input, and the refusals."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from oracles import signs as oracle
from pennyweight import ops
from pennyweight.errors import KernelError

BACKENDS = ops.available_backends()
WIDTHS = (100, 130, 64, 70, 10)


class Network:
    """Random weights and thresholds, as numpy and as layers."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weights = [rng.standard_normal((n, k)) for k, n in itertools.pairwise(widths)]
        hidden = widths[1:-1]
        self.thresholds = [rng.integers(-15, 15, n).astype(np.int32) for n in hidden]
        self.thresholds[0] *= 100
        for t in self.thresholds:
            t[:2] = np.iinfo(np.int32).max, np.iinfo(np.int32).min
        self.greater = [rng.random(n) < 0.5 for n in hidden]
        self.layers = [
            ops.ChainLayer(
                words=torch.from_numpy(oracle.pack(w)),
                k=w.shape[1],
                threshold=torch.from_numpy(self.thresholds[i]) if i < len(hidden) else None,
                greater=torch.from_numpy(self.greater[i]) if i < len(hidden) else None,
            )
            for i, w in enumerate(self.weights)
        ]

    def expected(self, x: np.ndarray) -> np.ndarray:
        return oracle.network(x, self.weights, self.thresholds, self.greater)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 33, 130])
def test_codes_and_floats_equal_the_oracle(backend: str, rows: int, network: Network) -> None:
    rng = np.random.default_rng(rows)
    x = (rng.standard_normal((rows, WIDTHS[0])) * 60).astype(np.float32)
    scale = 0.37
    codes = torch.round(torch.from_numpy(x) / scale).clamp(-128, 127).to(torch.int8)
    with ops.use_backend(backend):
        chain = ops.PackedChain(network.layers, first="int8", scale=scale)
    assert chain.backend == backend
    expected = network.expected(codes.numpy())
    assert np.array_equal(chain.run(codes).numpy(), expected)
    out = torch.full((rows, WIDTHS[-1]), 5, dtype=torch.int32)
    assert chain.run(torch.from_numpy(x), out=out) is out
    assert np.array_equal(out.numpy(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rounding_is_torchs(backend: str) -> None:
    identity = torch.from_numpy(oracle.pack(np.ones((1, 1))))
    scale = 1 / 3
    grid = torch.arange(-900, 900) * (scale / 2)
    x = torch.cat([grid, grid.nextafter(torch.tensor(9e9)), torch.tensor([1e30, -1e30, float("inf"), -0.0])])[:, None]
    with ops.use_backend(backend):
        chain = ops.PackedChain([ops.ChainLayer(words=identity, k=1)], scale=scale)
    expected = torch.round(x / scale).clamp(-128, 127).to(torch.int32)
    assert torch.equal(chain.run(x.contiguous()), expected)
    assert torch.equal(chain.run(x[:64].contiguous()), expected[:64])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [1, 40])
def test_binary_first_layer(backend: str, rows: int, network: Network) -> None:
    x = np.random.default_rng(5).standard_normal((rows, WIDTHS[0])).astype(np.float32)
    with ops.use_backend(backend):
        chain = ops.PackedChain(network.layers, first="binary")
    expected = network.expected(oracle.signs(x))
    assert np.array_equal(chain.run(torch.from_numpy(x)).numpy(), expected)
    assert np.array_equal(chain.run(torch.from_numpy(oracle.pack(x))).numpy(), expected)


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_threads_and_concurrent_calls_change_nothing(rows: int) -> None:
    network = Network((784, 2048, 2048, 10), seed=3)  # large enough that layers are shared out
    chain = ops.PackedChain(network.layers, scale=1.0)
    codes = torch.randint(-128, 128, (rows, 784), dtype=torch.int8)
    expected = torch.from_numpy(network.expected(codes.numpy())).to(torch.int32)
    try:
        for threads in (1, 2, 3):
            ops.set_num_threads(threads)
            assert torch.equal(chain.run(codes), expected)
        with ThreadPoolExecutor(4) as callers:
            assert all(torch.equal(z, expected) for z in callers.map(chain.run, [codes] * 8))
    finally:
        ops.set_num_threads(None)


def test_copies_and_pickles(network: Network) -> None:
    chain = ops.PackedChain(network.layers, scale=0.5)
    x = torch.randn(3, WIDTHS[0])
    for other in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        assert torch.equal(other(x), chain(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("first", ["int8", "binary"])
@pytest.mark.parametrize("rows", [3, 100])
def test_nan_is_refused_by_place(backend: str, first: str, rows: int, network: Network) -> None:
    x = torch.zeros(rows, WIDTHS[0])
    x[2, 17] = x[rows - 1, 99] = float("nan")
    with ops.use_backend(backend):
        chain = ops.PackedChain(network.layers, first=first, scale=1.0 if first == "int8" else None)
    with pytest.raises(KernelError, match=r"x\[2, 17\] is NaN"):
        chain.run(x)


def test_strided_input(network: Network) -> None:
    chain = ops.PackedChain(network.layers, scale=0.5)
    x = torch.randn(WIDTHS[0], 6).T
    assert torch.equal(chain.run(x), chain.run(x.contiguous()))


def test_refusals_name_the_value(network: Network) -> None:
    layers = network.layers
    chain = ops.PackedChain(layers)
    with pytest.raises(KernelError, match="has no scale"):
        chain.run(torch.ones(1, 100))
    with pytest.raises(KernelError, match=r"x is torch.float64"):
        chain.run(torch.ones(1, 100, dtype=torch.float64))
    with pytest.raises(KernelError, match=r"x has shape \(1, 99\)"):
        chain.run(torch.ones(1, 99, dtype=torch.int8))
    with pytest.raises(KernelError, match=r"out is torch.int32 of shape \(2, 10\)"):
        chain.run(torch.ones(1, 100, dtype=torch.int8), out=torch.empty(2, 10, dtype=torch.int32))
    with pytest.raises(KernelError, match="layers is empty"):
        ops.PackedChain([])
    with pytest.raises(KernelError, match=r"layers\[1\].k is 64, but layers\[0\] has 130 outputs"):
        ops.PackedChain([layers[0], layers[2], layers[3]])
    with pytest.raises(KernelError, match=r"layers\[3\] of 4 has thresholds|layers\[0\] of 1 has thresholds"):
        ops.PackedChain(layers[:1])
    with pytest.raises(KernelError, match=r"layers\[0\] of 2 lacks thresholds"):
        ops.PackedChain([layers[3], layers[3]], first="binary")
    with pytest.raises(KernelError, match=r"scale is 0.0"):
        ops.PackedChain(layers, scale=0.0)
    dirty = ops.ChainLayer(words=torch.full((2, 1), -1), k=3)
    with pytest.raises(KernelError, match=r"layers\[0\].words row 0 has bits set beyond k = 3"):
        ops.PackedChain([dirty], first="binary")
