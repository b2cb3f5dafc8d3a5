"""Products summed in accumulators of few bits in Triton, equal to the bit to the C++ kernel and to the truth.

On an NVIDIA GPU float32 products and sums are cut towards zero by PTX's own rounding, `mul.rz` and `add.rz`; cutting
the result further, by a mask on the mantissa, equals cutting the exact value. Where there is no PTX, as in Triton's
interpreter, a sum rounded to nearest is moved back by what Knuth's error-free sum says of its error, and a product is
compared with the exact one in float64. Order of k: chunk by chunk, as everywhere.

Tested through the interpreter and compiled for a GPU on a CPU; unproven on a card as of this version.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False

import os

import torch
from torch import Tensor

from pennyweight.kernels.optional_triton import jit, tl, triton

_BLOCK_M, _BLOCK_N = 32, 64


@jit
def _one_less(value, moves):
    """The neighbour of smaller magnitude where asked."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(moves, bits - 1, bits).to(tl.float32, bitcast=True)


@jit
def _add(a, b, ptx: tl.constexpr):
    """a + b cut to float32 towards zero."""
    if ptx:
        total = tl.inline_asm_elementwise(
            "add.rz.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        nearest = a + b
        virtual = nearest - a
        error = (a - (nearest - virtual)) + (b - virtual)
        total = _one_less(nearest, (error != 0) & ((error < 0) == (nearest > 0)))
    return total


@jit
def _multiply(a, b, ptx: tl.constexpr):
    """a * b cut to float32 towards zero."""
    if ptx:
        product = tl.inline_asm_elementwise(
            "mul.rz.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        nearest = a * b
        exact = a.to(tl.float64) * b.to(tl.float64)
        product = _one_less(nearest, tl.abs(nearest.to(tl.float64)) > tl.abs(exact))
    return product


@jit
def _cut(value, mask, smallest, largest):
    """To the format: mantissa by a mask, the ends by comparing bits, which order like magnitudes."""
    bits = value.to(tl.int32, bitcast=True)
    magnitude = tl.minimum(bits & mask, largest)
    magnitude = tl.where(magnitude >= smallest, magnitude, 0)
    return tl.where(bits < 0, magnitude | -2147483648, magnitude).to(tl.float32, bitcast=True)


@jit
def _accumulated_matmul(
    x, columns, z, m, n, k, chunk,
    mask, product_smallest, product_largest, sum_smallest, sum_largest,
    block_m: tl.constexpr, block_n: tl.constexpr, ptx: tl.constexpr,
):  # fmt: skip
    """One tile of z[m, n] = x[m, k] . columns[k, n]; all row-major and contiguous."""
    rows = tl.program_id(0) * block_m + tl.arange(0, block_m)
    places = tl.program_id(1) * block_n + tl.arange(0, block_n)
    lefts = x + rows.to(tl.int64) * k
    rights = columns + places
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for start in range(0, k, chunk):
        sums = tl.zeros((block_m, block_n), dtype=tl.float32)
        for offset in range(chunk):
            inside = start + offset < k  # zeros beyond change nothing
            left = tl.load(lefts, mask=(rows < m) & inside, other=0.0)
            right = tl.load(rights, mask=(places < n) & inside, other=0.0)
            a = tl.broadcast_to(left[:, None], (block_m, block_n))
            b = tl.broadcast_to(right[None, :], (block_m, block_n))
            product = _cut(_multiply(a, b, ptx), mask, product_smallest, product_largest)
            sums = _cut(_add(sums, product, ptx), mask, sum_smallest, sum_largest)
            lefts += 1
            rights += n
        total = _cut(_add(total, sums, ptx), mask, sum_smallest, sum_largest)
    total = tl.where(total == 0.0, 0.0, total)  # -0.0 becomes 0.0
    tl.store(
        z + rows[:, None].to(tl.int64) * n + places[None, :], total, mask=(rows[:, None] < m) & (places[None, :] < n)
    )


def accumulated_matmul(x: Tensor, weight: Tensor, chunk: int, bits: tuple[int, int, int, int, int]) -> Tensor:
    """(M, K) float32 times (N, K) float32 transposed -> (M, N) float32.

    Args:
        chunk: products summed from 0.
        bits: as int32, the mask on magnitudes, and the smallest and largest product and sum.
    """
    (m, k), n = x.shape, len(weight)
    z = torch.zeros((m, n), device=x.device)
    if z.numel() and k:
        grid = (triton.cdiv(m, _BLOCK_M), triton.cdiv(n, _BLOCK_N))
        _accumulated_matmul[grid](
            x.contiguous(), weight.t().contiguous(), z, m, n, k, min(chunk, k), *bits, _BLOCK_M, _BLOCK_N,
            os.environ.get("TRITON_INTERPRET") != "1" and torch.version.hip is None,
        )  # fmt: skip
    return z
