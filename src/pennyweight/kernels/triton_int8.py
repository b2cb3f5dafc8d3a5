"""Product of int8 matrices with int32 sums in Triton, which integer tensor cores execute.

Tested through Triton's interpreter on a CPU; unproven on a card as of this version.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False

import torch
from torch import Tensor

from pennyweight.kernels.optional_triton import jit, tl, triton

_BLOCK_M, _BLOCK_N, _BLOCK_K = 64, 64, 64


@jit
def _int8_matmul(
    a, b, out, m, n, k,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """One tile of out[m, n] = a[m, k] . b[n, k]; all row-major and contiguous."""
    rows = tl.program_id(0) * block_m + tl.arange(0, block_m)
    columns = tl.program_id(1) * block_n + tl.arange(0, block_n)
    steps = tl.arange(0, block_k)
    total = tl.zeros((block_m, block_n), dtype=tl.int32)
    for start in range(0, k, block_k):
        inside = start + steps < k
        left = tl.load(
            a + rows[:, None].to(tl.int64) * k + (start + steps)[None, :],
            mask=(rows[:, None] < m) & inside[None, :],
            other=0,
        )
        right = tl.load(
            b + columns[None, :].to(tl.int64) * k + (start + steps)[:, None],
            mask=(columns[None, :] < n) & inside[:, None],
            other=0,
        )
        total = tl.dot(left, right, acc=total, out_dtype=tl.int32)
    tl.store(
        out + rows[:, None].to(tl.int64) * n + columns[None, :],
        total,
        mask=(rows[:, None] < m) & (columns[None, :] < n),
    )


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """(M, K) int8 times (N, K) int8 transposed -> (M, N) int32, exact."""
    (m, k), n = a.shape, b.shape[0]
    out = torch.zeros((m, n), dtype=torch.int32, device=a.device)
    if out.numel() and k:
        grid = (triton.cdiv(m, _BLOCK_M), triton.cdiv(n, _BLOCK_N))
        _int8_matmul[grid](a.contiguous(), b.contiguous(), out, m, n, k, _BLOCK_M, _BLOCK_N, _BLOCK_K)
    return out
