"""Packing for the backward pass: everything comes back to the bit, and what cannot is left alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pennyweight.numerics.compact import SMALLEST, Compact, compact, restore

N = SMALLEST
BITS_AS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(x: Tensor) -> list[int]:
    x = x.contiguous().view(-1)
    values: list[int] = x.view(BITS_AS[x.element_size()]).tolist()
    return values


def assert_comes_back(x: Tensor) -> Compact:
    stored = compact(x)
    assert isinstance(stored, Compact)
    again = restore(stored)
    assert (again.dtype, again.shape, again.stride()) == (x.dtype, x.shape, x.stride())
    assert bits(again) == bits(x)
    return stored


@pytest.mark.parametrize(("low", "high", "step", "width"), [
    (5, 5, 1, 0), (-1, 1, 2, 1), (0, 1, 1, 1), (-1, 1, 1, 2), (-7, 8, 1, 4), (-128, 127, 1, 8), (-300, 210, 2, 8),
    (-300, 210, 1, 16), (-32768, 32767, 1, 16), (-65536, 65534, 2, 16), (2**24 - 9, 2**24, 1, 4),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int32])
def test_width_is_the_fewest_bits_that_hold_the_values(
    low: int, high: int, step: int, width: int, dtype: torch.dtype
) -> None:
    values = torch.arange(low, high + 1, step)
    x = values[torch.randint(len(values), (N + 3,), generator=torch.Generator().manual_seed(1))]
    x[0], x[1], x[2] = low, high, min(low + step, high)
    stored = assert_comes_back(x.to(dtype))
    assert (stored.bits, stored.low) == (width, low)
    assert stored.num_bytes == math.ceil(width * (N + 3) / 8)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.bfloat16])
def test_signs_and_masks_of_other_types_take_one_bit(dtype: torch.dtype) -> None:
    x = torch.arange(N * 2) % 3 == 0
    assert assert_comes_back(x if dtype == torch.bool else x.to(dtype) * 2 - 1).num_bytes == N // 4
    assert assert_comes_back(torch.ones(N, dtype=dtype)).num_bytes == 0


def test_sums_of_pixels() -> None:
    x = (torch.arange(N) * 37 % 5000 - 2000) / 128
    assert assert_comes_back(x).bits == 16
    assert compact(x / 3) is not None
    assert torch.is_tensor(compact(x / 3))


@pytest.mark.parametrize("bad", [0.5, -0.0, math.nan, math.inf, -math.inf, 70_000.0 * 2, 2.0**25, 2.0**40, 1e-30])
@pytest.mark.parametrize("where", [0, -1])
def test_one_value_that_would_be_lost_leaves_the_tensor_alone(bad: float, where: int) -> None:
    x = torch.arange(N * 2).float() % 4096 + (0.001 if bad == 0.5 else 0)  # half a pixel sum is one
    x[where] = bad
    assert compact(x) is x


def test_what_cannot_shrink_is_left_alone() -> None:
    for x in (
        torch.ones(N - 1),
        torch.zeros(0),
        torch.ones(N, dtype=torch.complex64),
        torch.ones(N, dtype=torch.uint8),
        torch.ones(N, 2)[:, 0],
        torch.ones(1).expand(N),
        torch.arange(N).to(torch.int32) * 30_001,
    ):
        assert compact(x) is x


def test_strides_come_back() -> None:
    x = (torch.arange(2 * 3 * 8 * 8) % 7).float().reshape(2, 3, 8, 8)
    for view in (x, x.to(memory_format=torch.channels_last), x.permute(3, 1, 0, 2), x[:, :1], x.reshape(-1, 1, 2).mT):
        if view.permute(sorted(range(view.dim()), key=view.stride, reverse=True)).is_contiguous():
            assert_comes_back(view)
        else:
            assert compact(view) is view


@given(st.integers(-(2**24), 2**24), st.integers(0, 70_000), st.integers(0, 2**31))
def test_any_integers(low: int, spread: int, seed: int) -> None:
    x = (low + torch.randint(0, spread + 1, (N,), generator=torch.Generator().manual_seed(seed))).float()
    stored = compact(x)
    assert bits(restore(stored)) == bits(x)


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_any_floats(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32).repeat(N)
    assert bits(restore(compact(x))) == bits(x)
