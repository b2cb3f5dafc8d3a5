"""Exact integer matrix products on a CPU by float32 products of blocks, each short enough to be exact.

Integer products of torch run 20 times slower than float32 ones where the CPU has no VNNI; sums of integers below 2^24
are exact in float32 in whatever order a library adds them.
"""

import torch
from torch import Tensor

from pennyweight.errors import NumericsError

EXACT = 1 << 24
"""Integers up to this magnitude, and all sums of them that stay within, are exact in float32."""
_INT32 = 1 << 31


def block_length(left_max: int, right_max: int) -> int:
    """The longest sum of products |a| <= left_max, |b| <= right_max that float32 holds exactly at every step.

    Raises:
        NumericsError: a single product is already too large.

    Example:
        >>> block_length(127, 127), block_length(255, 127), block_length(255, 255)
        (1040, 518, 258)
    """
    length = EXACT // max(1, left_max * right_max)
    if length < 1:
        raise NumericsError(
            f"products of integers up to {left_max} and {right_max} exceed 2^24: float32 cannot hold even one"
        )
    return length


def blocked_matmul(a: Tensor, b: Tensor, a_max: int | None = None, b_max: int | None = None) -> Tensor:
    """The integer product a @ b.T as int32, exact: blocks of K in float32, their sums in int32.

    Args:
        a: (M, K), integers of any dtype.
        b: (N, K), the same.
        a_max: bound of |a|; None looks.
        b_max: bound of |b|; None looks.

    Returns:
        (M, N) int32.

    Raises:
        NumericsError: shapes do not fit, a value is beyond its bound, or a sum could leave int32.

    Example:
        >>> blocked_matmul(torch.tensor([[1, -2]]), torch.tensor([[3, 4], [5, 6]])).tolist()
        [[-5, -7]]
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise NumericsError(f"cannot multiply {tuple(a.shape)} by the transpose of {tuple(b.shape)}: K must agree")
    bounds = []
    for name, x, bound in (("a", a, a_max), ("b", b, b_max)):
        found = int(x.abs().max()) if x.numel() and x.dtype != torch.int8 else _int8_bound(x)
        if bound is not None and found > bound:
            raise NumericsError(f"{name} holds {found}, beyond its bound {bound}")
        bounds.append(found if bound is None else bound)
    k = a.shape[1]
    if k * bounds[0] * bounds[1] >= _INT32:
        raise NumericsError(
            f"a sum of {k} products of integers up to {bounds[0]} and {bounds[1]} can leave int32: split K"
        )
    length = block_length(*bounds)
    total = torch.zeros((a.shape[0], b.shape[0]), dtype=torch.int32, device=a.device)
    for start in range(0, k, length):
        block = slice(start, start + length)
        total += (a[:, block].float() @ b[:, block].float().t()).to(torch.int32)
    return total


def _int8_bound(x: Tensor) -> int:
    """|-128| wraps in int8."""
    return max(-int(x.min()), int(x.max())) if x.numel() else 0
