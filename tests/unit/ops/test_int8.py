"""int8 products against int64; Triton through its interpreter where it is installed."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.errors import NumericsError
from pennyweight.ops.int8 import centred_matmul, int8_matmul


def integers(low: int, high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (3, 5, 70), (17, 9, 3000), (0, 4, 5), (2, 0, 5), (2, 3, 0)])
def test_it_is_the_integer_product(m: int, n: int, k: int) -> None:
    a, b = integers(-128, 128, m, k).to(torch.int8), integers(-128, 128, n, k, seed=1).to(torch.int8)
    assert torch.equal(int8_matmul(a, b), (a.to(torch.int64) @ b.to(torch.int64).t()).to(torch.int32))


def test_the_extreme_sum_is_exact() -> None:
    a = torch.full((1, 130_000), -128, dtype=torch.int8)
    assert int(int8_matmul(a, a)) == 130_000 * 128 * 128


@given(st.integers(-255, 0), st.lists(st.integers(-255, 0), min_size=1, max_size=5), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_any_zero_points_are_multiplied_out(x_low: int, w_lows: list[int], k: int) -> None:
    x = integers(x_low, x_low + 256, 4, k).float()
    weight = torch.stack([integers(low, low + 256, k, seed=i) for i, low in enumerate(w_lows)]).float()
    assert torch.equal(centred_matmul(x, weight), x.double() @ weight.double().t())


def test_wrong_operands_are_refused() -> None:
    a = torch.zeros(2, 3, dtype=torch.int8)
    with pytest.raises(NumericsError, match=r"not torch\.int8 and torch\.float32"):
        int8_matmul(a, a.float())
    with pytest.raises(NumericsError, match="K must agree"):
        int8_matmul(a, a[:, :2])
    wide = torch.zeros(1, 1 << 17, dtype=torch.int8)
    with pytest.raises(NumericsError, match="K=131072"):
        int8_matmul(wide, wide)


_INTERPRETED = """
import torch
from pennyweight.kernels.triton_int8 import int8_matmul
for m, n, k in ((1, 1, 1), (65, 70, 129), (64, 64, 64), (3, 2, 700), (2, 3, 0)):
    g = torch.Generator().manual_seed(m)
    a = torch.randint(-128, 128, (m, k), generator=g).to(torch.int8)
    b = torch.randint(-128, 128, (n, k), generator=g).to(torch.int8)
    expected = (a.to(torch.int64) @ b.to(torch.int64).t()).to(torch.int32)
    assert torch.equal(int8_matmul(a, b), expected), (m, n, k)
assert int(int8_matmul(torch.full((1, 700), -128, dtype=torch.int8), torch.full((1, 700), -128, dtype=torch.int8))) \\
    == 700 * 128 * 128
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_tritons_kernel_gives_the_same_integers_in_its_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-c", _INTERPRETED], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == "equal", found.stderr[-2000:]


def test_neither_threads_nor_the_split_of_a_batch_change_an_integer() -> None:
    x, weight = integers(-20, 236, 64, 1500).float(), integers(-128, 128, 24, 1500, seed=1).float()
    expected = centred_matmul(x, weight)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(centred_matmul(x, weight), expected)
    finally:
        torch.set_num_threads(threads)
    parts = torch.cat([centred_matmul(part, weight) for part in x.split([1, 30, 33])])
    assert torch.equal(parts, expected)
