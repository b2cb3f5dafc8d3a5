"""Products of packed signs: every backend against the numpy oracle, the edges of the number range, and the refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import signs as oracle
from pennyweight import ops
from pennyweight.errors import KernelError, PennyweightError

BACKENDS = ops.available_backends()
SHAPES = [
    (0, 3, 5), (3, 0, 5), (2, 3, 0), (1, 1, 1), (1, 130, 63), (2, 5, 64), (3, 65, 65), (9, 33, 500), (33, 70, 129),
    (65, 17, 1000), (4, 4, 70000),
]  # fmt: skip


def random_rows(m: int, k: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((m, k)).astype(np.float32)
    rows[np.random.default_rng(seed + 1).random((m, k)) < 0.1] = -0.0
    return rows


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_equals_oracle(backend: str, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    a, b = random_rows(m, k, 1), random_rows(n, k, 2)
    expected = torch.from_numpy(oracle.product(a, b)).to(torch.int32)
    with ops.use_backend(backend):
        a_words, b_words = ops.pack_signs(torch.from_numpy(a)), ops.pack_signs(torch.from_numpy(b))
        assert torch.equal(a_words, torch.from_numpy(oracle.pack(a)))
        assert torch.equal(ops.binary_matmul(a_words, b_words, k), expected)
        weight = ops.prepack(b_words, k)
        out = torch.full((m, n), 7, dtype=torch.int32)
        assert ops.binary_matmul(a_words, weight, k, out=out) is out
        assert torch.equal(out, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_equal_and_all_different(backend: str) -> None:
    k = 2049
    plus, minus = torch.ones(3, k), -torch.ones(40, k)
    with ops.use_backend(backend):
        same = ops.binary_matmul(ops.pack_signs(minus), ops.prepack(ops.pack_signs(minus), k), k)
        opposite = ops.binary_matmul(ops.pack_signs(plus), ops.prepack(ops.pack_signs(minus), k), k)
    assert bool((same == k).all())
    assert bool((opposite == -k).all())


@settings(max_examples=40, deadline=None)
@given(m=st.integers(0, 40), n=st.integers(0, 140), k=st.integers(0, 400), seed=st.integers(0, 1000), data=st.data())
def test_backends_agree(m: int, n: int, k: int, seed: int, data: st.DataObject) -> None:
    a, b = random_rows(m, k, seed), random_rows(n, k, seed + 7)
    codes = np.random.default_rng(seed).integers(-128, 128, (m, k), dtype=np.int8)
    with ops.use_backend(data.draw(st.sampled_from(BACKENDS))):
        words = ops.pack_signs(torch.from_numpy(b))
        z = ops.binary_matmul(ops.pack_signs(torch.from_numpy(a)), words, k)
        first = ops.int8_binary_matmul(torch.from_numpy(codes), words, k)
    assert np.array_equal(z.numpy(), oracle.product(a, b))
    assert np.array_equal(first.numpy(), codes.astype(np.int64) @ oracle.signs(b).T)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1, 130, 784), (7, 65, 1030), (3, 2, 1), (0, 4, 8), (2, 0, 8), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("fill", [None, -128, 127])
def test_int8_product_equals_oracle(backend: str, shape: tuple[int, int, int], fill: int | None) -> None:
    m, n, k = shape
    codes = np.random.default_rng(3).integers(-128, 128, (m, k), dtype=np.int8)
    w = random_rows(n, k, 4)
    if fill is not None:  # the largest sums there are
        codes[:] = fill
        w[:] = 1
    expected = codes.astype(np.int64) @ oracle.signs(w).T
    with ops.use_backend(backend):
        words = ops.pack_signs(torch.from_numpy(w))
        for weight in (words, ops.prepack(words, k, role="int8")):
            assert np.array_equal(ops.int8_binary_matmul(torch.from_numpy(codes), weight, k).numpy(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [1, 64, 65, 200])
def test_fused_layer_equals_its_steps(backend: str, n: int) -> None:
    m, k = 35, 150
    a, w = random_rows(m, k, 5), random_rows(n, k, 6)
    z = oracle.product(a, w)
    rng = np.random.default_rng(8)
    limits = np.iinfo(np.int32)
    threshold = rng.integers(-20, 20, n).astype(np.int32)
    threshold[rng.random(n) < 0.1] = limits.max
    threshold[rng.random(n) < 0.1] = limits.min
    greater = rng.random(n) < 0.5
    bits = np.where(greater, z >= threshold, z <= threshold)
    expected = oracle.pack(np.where(bits, 1, -1))
    with ops.use_backend(backend):
        words = ops.pack_signs(torch.from_numpy(w))
        arguments = (k, torch.from_numpy(threshold), torch.from_numpy(greater))
        from_floats = ops.binary_linear_threshold(torch.from_numpy(a), words, *arguments)
        from_words = ops.binary_linear_threshold(ops.pack_signs(torch.from_numpy(a)), ops.prepack(words, k), *arguments)
    assert np.array_equal(from_floats.numpy(), expected)
    assert np.array_equal(from_words.numpy(), expected)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_thread_count_changes_nothing(threads: int) -> None:
    k = 1000
    a, b = (
        ops.pack_signs(torch.from_numpy(random_rows(200, k, 1))),
        ops.pack_signs(torch.from_numpy(random_rows(300, k, 2))),
    )
    codes = torch.randint(-128, 128, (200, k), dtype=torch.int8)
    try:
        ops.set_num_threads(1)
        alone = ops.binary_matmul(a, b, k), ops.int8_binary_matmul(codes, b, k)
        ops.set_num_threads(threads)
        assert ops.num_threads() == threads
        together = ops.binary_matmul(a, b, k), ops.int8_binary_matmul(codes, b, k)
    finally:
        ops.set_num_threads(None)
    assert torch.equal(alone[0], together[0])
    assert torch.equal(alone[1], together[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool])
def test_pack_takes_every_real_type(backend: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, 0.0, 3.0]]).to(dtype)
    with ops.use_backend(backend):
        assert ops.pack_signs(x).tolist() == [[7]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_pack_edges(backend: str) -> None:
    with ops.use_backend(backend):
        # a float64 that float32 would round to zero keeps its sign
        assert ops.pack_signs(torch.tensor([[-1e-300, 1e-300]], dtype=torch.float64)).tolist() == [[2]]
        tiny = torch.tensor([[-1e-45, -0.0, 1e-45, float("inf"), -float("inf")]])
        assert ops.pack_signs(tiny).tolist() == [[0b01110]]
        assert ops.pack_signs(torch.tensor([-1.0, 1.0])).tolist() == [2]
        assert ops.pack_signs(torch.ones(2, 3, 70)).shape == (2, 3, 2)
        assert ops.pack_signs(torch.ones(2, 0)).shape == (2, 0)
        assert ops.pack_signs(torch.ones(0, 5)).shape == (0, 1)
        transposed = torch.randn(130, 7).T
        assert torch.equal(ops.pack_signs(transposed), ops.pack_signs(transposed.contiguous()))
        halved = torch.randn(5, 200)[:, ::2]
        assert torch.equal(ops.pack_signs(halved), ops.pack_signs(halved.clone()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", [(0, 0), (3, 17), (20, 199)])
def test_nan_is_refused_by_place(backend: str, place: tuple[int, int]) -> None:
    x = torch.zeros(21, 200)
    x[place] = float("nan")
    if place != (20, 199):
        x[20, 199] = float("nan")  # a later one is not the one named
    with ops.use_backend(backend), pytest.raises(KernelError, match=rf"x\[{place[0]}, {place[1]}\] is NaN"):
        ops.pack_signs(x)


def test_strided_words_are_read_correctly() -> None:
    a, b = torch.randn(6, 200), torch.randn(10, 200)
    a_words, b_words = ops.pack_signs(a), ops.pack_signs(b)
    expected = ops.binary_matmul(a_words[::2].contiguous(), b_words[::3].contiguous(), 200)
    assert torch.equal(ops.binary_matmul(a_words[::2], b_words[::3], 200), expected)


def test_refusals_name_the_value() -> None:
    words = ops.pack_signs(torch.ones(2, 100))
    t, g = torch.zeros(2, dtype=torch.int32), torch.ones(2, dtype=torch.bool)
    codes = torch.zeros(1, 100, dtype=torch.int8)
    with pytest.raises(KernelError, match=r"a_words has 2 words a row, but k = 30 bits need 1"):
        ops.binary_matmul(words, words, 30)
    with pytest.raises(KernelError, match=r"a_words is torch.int32"):
        ops.binary_matmul(words.int(), words, 100)
    with pytest.raises(KernelError, match=r"b_words is torch.int64 of shape \(2,\)"):
        ops.binary_matmul(words, words[:, 0], 100)
    with pytest.raises(KernelError, match=r"a_words row 1 has bits set beyond k = 99"):
        ops.binary_matmul(words.clone().index_fill_(0, torch.tensor([0]), 0), words * 0, 99)
    with pytest.raises(KernelError, match=r"k is -1"):
        ops.binary_matmul(words, words, -1)
    with pytest.raises(KernelError, match=r"out is torch.int64"):
        ops.binary_matmul(words, words, 100, out=torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(KernelError, match=r"role 'int8'"):
        ops.int8_binary_matmul(codes, ops.prepack(words, 100), 100)
    with pytest.raises(KernelError, match=r"x is torch.float32"):
        ops.int8_binary_matmul(codes.float(), words, 100)
    with pytest.raises(KernelError, match=r"k is 20000000"):
        ops.int8_binary_matmul(codes, words, 20_000_000)
    with pytest.raises(KernelError, match=r"threshold is torch.int32 of shape \(1,\)"):
        ops.binary_linear_threshold(words, words, 100, t[:1], g)
    with pytest.raises(KernelError, match=r"expected \(M, k = 100\)"):
        ops.binary_linear_threshold(torch.ones(2, 99), words, 100, t, g)
    with pytest.raises(KernelError, match=r"complex"):
        ops.pack_signs(torch.ones(2, 2, dtype=torch.complex64))
    assert issubclass(KernelError, PennyweightError)
