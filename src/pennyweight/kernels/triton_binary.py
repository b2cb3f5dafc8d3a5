"""Products of packed signs in Triton: popcounts on the integer units, or signs unpacked for int8 tensor cores.

Both give the integers of the CPU's kernels bit for bit. Tested through Triton's interpreter on a CPU; unproven on a
card as of this version. Tensor cores multiply single bits too (mma.m16n8k256 with xor and popc), but Triton has no such
product: that path is an experiment, `benchmarks/gpu/binary_tensor_cores.py`, and no operator's.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False

import os

import torch
from torch import Tensor

from pennyweight.kernels.optional_triton import jit, tl, triton

_BLOCK_M, _BLOCK_N, _BLOCK_WORDS = 64, 64, 2
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # the interpreter knows no instructions of the card


@jit
def _popcount(x, native: tl.constexpr):
    """Bits set in each int32: the card's instruction, or sums of neighbouring bits."""
    if native:
        return tl.inline_asm_elementwise("popc.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24) & 0xFF


@jit
def _binary_matmul(
    a, b, out, m, n, k, words,
    block_m: tl.constexpr, block_n: tl.constexpr, native: tl.constexpr,
):  # fmt: skip
    """One tile of out[m, n] = k - 2 popcount(a ^ b); operands are int32 words, (words, m) and (words, n)."""
    rows = tl.program_id(0) * block_m + tl.arange(0, block_m)
    columns = tl.program_id(1) * block_n + tl.arange(0, block_n)
    differing = tl.zeros((block_m, block_n), dtype=tl.int32)
    left, right = a + rows, b + columns
    for _ in range(words):
        x = tl.load(left, mask=rows < m, other=0)
        y = tl.load(right, mask=columns < n, other=0)
        differing += _popcount(x[:, None] ^ y[None, :], native)
        left += m
        right += n
    tl.store(
        out + rows[:, None].to(tl.int64) * n + columns[None, :],
        k - 2 * differing,
        mask=(rows[:, None] < m) & (columns[None, :] < n),
    )


def binary_matmul(a_words: Tensor, b_words: Tensor, k: int) -> Tensor:
    """Packed signs (M, words) times (N, words) transposed, k bits each -> (M, N) int32, exact."""
    m, n = len(a_words), len(b_words)
    out = torch.zeros((m, n), dtype=torch.int32, device=a_words.device)
    if out.numel() and k:
        # Words of one place side by side: a step of the sum then reads neighbours.
        left, right = (t.contiguous().view(torch.int32).t().contiguous() for t in (a_words, b_words))
        grid = (triton.cdiv(m, _BLOCK_M), triton.cdiv(n, _BLOCK_N))
        _binary_matmul[grid](left, right, out, m, n, k, len(left), _BLOCK_M, _BLOCK_N, not _INTERPRETED)
    return out


@jit
def _int8_binary_matmul(
    x, w, out, m, n, k, words,
    block_m: tl.constexpr, block_n: tl.constexpr, block_words: tl.constexpr,
):  # fmt: skip
    """One tile of out[m, n] = x[m, k] . sign(w[n, k]): words of signs become int8 on the way to the tensor cores."""
    rows = tl.program_id(0) * block_m + tl.arange(0, block_m)
    columns = tl.program_id(1) * block_n + tl.arange(0, block_n)
    steps = tl.arange(0, 32 * block_words)
    total = tl.zeros((block_m, block_n), dtype=tl.int32)
    for start in range(0, words, block_words):
        place = 32 * start + steps
        codes = tl.load(
            x + rows[:, None].to(tl.int64) * k + place[None, :],
            mask=(rows[:, None] < m) & (place[None, :] < k),
            other=0,
        )
        word = tl.load(
            w + columns[None, :].to(tl.int64) * words + (place // 32)[:, None],
            mask=(columns[None, :] < n) & (place[:, None] < k),
            other=0,
        )
        signs = (((word >> (place % 32)[:, None]) & 1) * 2 - 1).to(tl.int8)  # beyond k they meet codes of zero
        total = tl.dot(codes, signs, acc=total, out_dtype=tl.int32)
    tl.store(
        out + rows[:, None].to(tl.int64) * n + columns[None, :],
        total,
        mask=(rows[:, None] < m) & (columns[None, :] < n),
    )


def int8_binary_matmul(x: Tensor, w_words: Tensor, k: int) -> Tensor:
    """int8 codes (M, k) times packed signs (N, words) transposed -> (M, N) int32, exact."""
    m, n = len(x), len(w_words)
    out = torch.zeros((m, n), dtype=torch.int32, device=x.device)
    if out.numel() and k:
        words = w_words.contiguous().view(torch.int32)
        grid = (triton.cdiv(m, _BLOCK_M), triton.cdiv(n, _BLOCK_N))
        _int8_binary_matmul[grid](x.contiguous(), words, out, m, n, k, words.shape[1], _BLOCK_M, _BLOCK_N, _BLOCK_WORDS)
    return out
