"""Bit-plane products against Python's integers, on every backend and thread count."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oracles.bit_planes import integer_product, product_by_bits
from pennyweight import ops
from pennyweight.errors import KernelError
from pennyweight.numerics.formats import BinaryFormat, IntFormat, parse_format
from pennyweight.ops.bitplanes import PlaneFormat, codes_range

FORMATS: list[PlaneFormat] = [
    BinaryFormat(),
    IntFormat(1, signed=False),
    *(IntFormat(bits, signed=signed) for bits in range(2, 9) for signed in (False, True)),
]
SHAPES = [(1, 1, 1), (3, 5, 63), (17, 65, 65), (2, 7, 200), (33, 300, 129)]


def integers(format: PlaneFormat, rows: int, k: int, seed: int, zero_point: int = 0) -> Tensor:
    low, high = codes_range(format, zero_point)
    drawn = torch.randint(low, high + 1, (rows, k), generator=torch.Generator().manual_seed(seed))
    return torch.where(drawn >= 0, 1, -1) if isinstance(format, BinaryFormat) else drawn


def truth(a: Tensor, b: Tensor) -> Tensor:
    return torch.from_numpy((a.numpy().astype(np.int64) @ b.numpy().astype(np.int64).T).astype(np.int32))


@pytest.mark.parametrize("backend", ops.available_backends())
@pytest.mark.parametrize("left", FORMATS, ids=str)
def test_every_pair_of_formats_is_the_integer_product(left: PlaneFormat, backend: str) -> None:
    with ops.use_backend(backend):
        for number, right in enumerate(FORMATS):
            m, n, k = SHAPES[number % len(SHAPES)]
            a, b = integers(left, m, k, number), integers(right, n, k, number + 1)
            planes = ops.pack_bitplanes(b, right)
            found = ops.bitplane_matmul(ops.pack_bitplanes(a, left), ops.prepack_bitplanes(planes))
            assert torch.equal(found, truth(a, b)), right
            assert torch.equal(planes.values(), b)


@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_products_are_those_of_single_bits(
    left: int, right: int, left_signed: bool, right_signed: bool, k: int, data: Any
) -> None:
    formats = [
        IntFormat(max(bits, 2) if signed else bits, signed)
        for bits, signed in ((left, left_signed), (right, right_signed))
    ]
    rows = [data.draw(st.lists(st.integers(f.min, f.max), min_size=k, max_size=k)) for f in formats]
    planes = [
        ops.pack_bitplanes(torch.tensor([row], dtype=torch.int32).reshape(1, k), f)
        for row, f in zip(rows, formats, strict=True)
    ]
    found = ops.bitplane_matmul(planes[0], planes[1])
    assert found.tolist() == integer_product([rows[0]], [rows[1]])
    assert int(found) == product_by_bits(rows[0], rows[1], formats[0].bits, formats[1].bits)


@pytest.mark.parametrize("backend", ops.available_backends())
def test_images_of_eight_bits_times_signs_at_the_extremes(backend: str) -> None:
    """The first layer of a binary net: all pixels 255, all weights +1 or -1; and the largest K of 8 x 8 bits."""
    with ops.use_backend(backend):
        pixels, format = torch.full((2, 1000), 255), IntFormat(8, signed=False)
        signs = torch.ones(3, 1000, dtype=torch.int64)
        signs[1] = -1
        found = ops.bitplane_matmul(ops.pack_bitplanes(pixels, format), ops.pack_bitplanes(signs, BinaryFormat()))
        assert found.tolist() == [[255000, -255000, 255000]] * 2
        k = (2**31 - 1) // (255 * 255)
        wide = ops.pack_bitplanes(torch.full((1, k), 255), format)
        assert ops.bitplane_matmul(wide, wide).tolist() == [[k * 255 * 255]]
        low = ops.pack_bitplanes(torch.full((1, k), -128), IntFormat(8))
        assert ops.bitplane_matmul(low, wide).tolist() == [[-128 * 255 * k]]


@pytest.mark.parametrize("backend", ops.available_backends())
def test_threads_change_nothing(backend: str) -> None:
    a, b = integers(IntFormat(4), 70, 1100, 0), integers(IntFormat(3, signed=False), 600, 1100, 1)
    with ops.use_backend(backend):
        found = []
        for threads in (1, 2, 3):
            ops.set_num_threads(threads)
            left, right = ops.pack_bitplanes(a, IntFormat(4)), ops.pack_bitplanes(b, IntFormat(3, signed=False))
            found.append(ops.bitplane_matmul(left, right))
        ops.set_num_threads(None)
    assert torch.equal(found[0], truth(a, b))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("backend", ops.available_backends())
def test_empty_and_zero_length(backend: str) -> None:
    with ops.use_backend(backend):
        for m, n, k in ((0, 3, 5), (3, 0, 5), (2, 3, 0)):
            a = ops.pack_bitplanes(torch.zeros(m, k), IntFormat(3))
            b = ops.pack_bitplanes(torch.zeros(n, k), IntFormat(2))
            assert torch.equal(ops.bitplane_matmul(a, b), torch.zeros(m, n, dtype=torch.int32))
            assert a.values().shape == (m, k)


@pytest.mark.parametrize("backend", ops.available_backends())
@pytest.mark.parametrize(("spec", "zero_point"), [("uint2", 0), ("uint4", 7), ("int3", -2), ("int4n", 0), ("uint7", 0)])
def test_floats_are_quantized_and_packed_in_one_pass(spec: str, zero_point: int, backend: str) -> None:
    format = parse_format(spec)
    assert isinstance(format, IntFormat)
    x = torch.randn(9, 131, generator=torch.Generator().manual_seed(0)) * 3
    x[0, :7] = torch.tensor([0.0, -0.0, 0.5, -0.5, 1.5, torch.inf, -torch.inf]) / 3  # ties at scale 1/3
    scale = float(torch.tensor(1 / 3))
    codes = (x / torch.tensor(scale)).round().clamp(format.min - zero_point, format.max - zero_point)
    with ops.use_backend(backend):
        planes = ops.quantize_bitplanes(x, scale, format, zero_point)
        assert torch.equal(planes.values(), codes.to(torch.int64))
        expected = ops.pack_bitplanes(codes, format, zero_point)
    for name in ("words", "sums"):
        assert torch.equal(getattr(planes, name), getattr(expected, name))
    assert (planes.gain, planes.offset) == (expected.gain, expected.offset)


@pytest.mark.parametrize("backend", ops.available_backends())
def test_both_backward_products_are_exact(backend: str) -> None:
    formats = (IntFormat(6, narrow=True), IntFormat(2, signed=False), BinaryFormat())
    g, x, weight = (
        integers(f, *shape, seed=i)
        for i, (f, shape) in enumerate(zip(formats, ((33, 70), (33, 129), (70, 129)), strict=True))
    )
    with ops.use_backend(backend):
        by_input, by_weight = ops.bitplane_gradients(g, x, weight, formats)
    assert torch.equal(by_input, truth(g, weight.T))
    assert torch.equal(by_weight, truth(g.T, x.T))


def test_a_view_with_strides_and_an_output_are_taken() -> None:
    a, b = integers(IntFormat(3), 40, 20, 0), integers(IntFormat(3), 40, 30, 1)
    out = torch.full((20, 30), -7, dtype=torch.int32)
    found = ops.bitplane_matmul(ops.pack_bitplanes(a.T, IntFormat(3)), ops.pack_bitplanes(b.T, IntFormat(3)), out=out)
    assert found is out
    assert torch.equal(out, truth(a.T, b.T))


def test_wrong_arguments_are_named() -> None:
    ok = ops.pack_bitplanes(torch.ones(2, 3), IntFormat(2))
    cases: list[tuple[Any, str]] = [
        (
            lambda: ops.pack_bitplanes(torch.tensor([[4]]), IntFormat(3)),
            r"values lie in \[4, 4\]; int3 takes .* -4 to 3",
        ),
        (lambda: ops.pack_bitplanes(torch.tensor([[0.5]]), IntFormat(3)), "not all whole"),
        (lambda: ops.pack_bitplanes(torch.tensor([[torch.nan]]), IntFormat(3)), "nan"),
        (lambda: ops.pack_bitplanes(torch.tensor([[0, 1]]), BinaryFormat()), "0, which is no sign"),
        (lambda: ops.pack_bitplanes(torch.ones(3), IntFormat(3)), "real matrix"),
        (lambda: ops.pack_bitplanes(torch.ones(3, 3), IntFormat(9)), "1 to 8 bits"),
        (
            lambda: ops.bitplane_matmul(ok, ops.pack_bitplanes(torch.ones(2, 4), IntFormat(2))),
            "rows of 3 values and b of 4",
        ),
        (lambda: ops.bitplane_matmul(ok, ok, out=torch.zeros(2, 2)), "out is torch.float32"),
        (lambda: ops.quantize_bitplanes(torch.ones(2, 2), 1.0, IntFormat(8, signed=False)), "within int8"),
        (lambda: ops.quantize_bitplanes(torch.tensor([[1.0, torch.nan]]), 1.0, IntFormat(2)), r"x\[0, 1\] is NaN"),
    ]
    for call, message in cases:
        with pytest.raises(KernelError, match=message):
            call()
    long = ops.pack_bitplanes(torch.zeros(1, 33026), IntFormat(8))
    with pytest.raises(KernelError, match=r"K=33026 .* split K"):
        ops.bitplane_matmul(long, long)
