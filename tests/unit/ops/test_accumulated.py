"""The compiled product in few bits: every path and thread count gives the bits of the truth."""

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pennyweight import ops
from pennyweight.errors import NumericsError
from pennyweight.numerics.accumulate import AccumulatorSpec, accumulate

PATHS = [name for name in ops.available_backends() if name != "reference"]
FORMATS = {
    "M7E4": AccumulatorSpec(),
    "M4E3": AccumulatorSpec(mantissa=4, exponent=3, product_bias=7, sum_bias=6, chunk=5),
    "M10E5": AccumulatorSpec(mantissa=10, exponent=5, product_bias=20, sum_bias=18),
    "M22E6": AccumulatorSpec(mantissa=22, exponent=6, product_bias=34, sum_bias=32, chunk=1000),
    "no underflow": AccumulatorSpec(underflow=False),
}


def draw(m: int, k: int, n: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_path_equals_the_truth(path: str, name: str) -> None:
    with ops.use_backend(path):
        for m, k, n in ((1, 1, 1), (3, 37, 5), (5, 64, 17), (2, 100, 40), (7, 33, 70)):
            for scale in (0.01, 1.0, 30.0):
                x, w = draw(m, k, n, scale)
                assert same_bits(ops.accumulated_matmul(x, w, FORMATS[name]), accumulate(x, w, FORMATS[name]))


@given(
    st.integers(0, 4), st.integers(0, 40), st.integers(0, 40), st.integers(1, 22), st.integers(1, 6), st.integers(1, 9)
)
@settings(max_examples=100, deadline=None)
def test_any_shape_and_format(m: int, k: int, n: int, mantissa: int, exponent: int, chunk: int) -> None:
    bias = (1 << exponent) // 2
    spec = AccumulatorSpec(mantissa=mantissa, exponent=exponent, product_bias=bias + 2, sum_bias=bias, chunk=chunk)
    x, w = draw(m, k, n, seed=m + 7 * k)
    assert same_bits(ops.accumulated_matmul(x, w, spec), accumulate(x, w, spec))


def test_threads_and_batches_never_change_a_bit() -> None:
    x, w = draw(130, 300, 75)
    found = []
    before = ops.num_threads()
    try:
        for threads in (1, 2, 3):
            ops.set_num_threads(threads)
            found.append(ops.accumulated_matmul(x, w, AccumulatorSpec()))
    finally:
        ops.set_num_threads(before)
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])
    parts = torch.cat([ops.accumulated_matmul(part, w, AccumulatorSpec()) for part in x.split(7)])
    assert same_bits(found[0], parts)


def test_rounding_of_float32_is_put_back() -> None:
    third = torch.tensor(1.0) / 3
    ops.accumulated_matmul(*draw(40, 40, 40), AccumulatorSpec())
    assert torch.equal(torch.tensor(1.0) / 3, third)
    assert 1.0 / 3.0 == 0.3333333333333333


def test_full_mantissas_meet_cut_operands_exactly() -> None:
    """Products of 24-bit mantissas have 48 bits: they are cut, not rounded and then cut."""
    x, w = torch.tensor([[1 + 2.0**-23]]), torch.tensor([[1 - 2.0**-24]])  # a product just below 1 + 2^-24
    spec = AccumulatorSpec(mantissa=22, exponent=6, product_bias=34, sum_bias=32)
    assert same_bits(ops.accumulated_matmul(x, w, spec), accumulate(x, w, spec))


def test_nearest_runs_in_torch() -> None:
    x, w = draw(3, 20, 4)
    spec = AccumulatorSpec(rounding="nearest_even")
    assert same_bits(ops.accumulated_matmul(x, w, spec), accumulate(x, w, spec))


def test_operands_are_checked() -> None:
    x, w = draw(2, 3, 2)
    bad: Any = x / 0
    with pytest.raises(NumericsError, match="x holds NaN or infinity"):
        ops.accumulated_matmul(bad, w, AccumulatorSpec())


_INTERPRETED = """
import torch
from pennyweight.kernels import triton_lba
from pennyweight.numerics.accumulate import AccumulatorSpec, accumulate
from pennyweight.ops.accumulated import format_bits
for spec in (
    AccumulatorSpec(),
    AccumulatorSpec(mantissa=4, exponent=3, product_bias=7, sum_bias=6, chunk=5),
    AccumulatorSpec(mantissa=22, exponent=6, product_bias=34, sum_bias=32, chunk=1000),
    AccumulatorSpec(underflow=False),
):
    for m, k, n, scale in ((1, 1, 1, 1.0), (3, 21, 5, 0.01), (33, 3, 65, 30.0), (2, 0, 3, 1.0)):
        g = torch.Generator().manual_seed(m)
        x, w = scale * torch.randn(m, k, generator=g), torch.randn(n, k, generator=g)
        found = triton_lba.accumulated_matmul(x, w, spec.chunk, format_bits(spec)).view(torch.int32)
        assert torch.equal(found, accumulate(x, w, spec).view(torch.int32)), (spec, m, k, n)
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_tritons_kernel_gives_the_same_bits_in_its_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-c", _INTERPRETED], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == "equal", found.stderr[-2000:]
