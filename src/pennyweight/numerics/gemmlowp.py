"""Integer arithmetic of quantized products: zero points multiplied out, and rescaling without a float.

q1, q2 are codes, Z their zero points; a sum of (q1 - Z1)(q2 - Z2) needs no more than the product of the codes and the
sums of their rows. All here is in integers and exact, or rounded as ARM's saturating instructions round.

Source: arXiv 1712.05877, sections 2.2 to 2.4, which arXiv 1805.11046 builds on; the rounding is gemmlowp's.
"""

import math

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.blocked import blocked_matmul

_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1


def affine_matmul(q1: Tensor, zero1: int, q2: Tensor, zero2: int | Tensor) -> Tensor:
    """(q1 - zero1) @ (q2 - zero2).T as int32, from the product of the codes and their row sums.

    Args:
        q1: (M, K) integer codes.
        zero1: their zero point.
        q2: (N, K) integer codes.
        zero2: their zero point, or one a row, (N,) integers, as weights quantized by output channel have.

    Raises:
        NumericsError: the shapes do not fit, or a sum can leave int32.

    Example:
        >>> affine_matmul(torch.tensor([[3, 5]]), 3, torch.tensor([[1, 2]]), 1).tolist()
        [[2]]
    """
    k = q1.shape[-1]
    if isinstance(zero2, Tensor):
        if zero2.shape != q2.shape[:1]:
            raise NumericsError(f"zero points of shape {tuple(zero2.shape)} for {len(q2)} rows: give one a row")
        zero2 = zero2.to(torch.int64)
    total = blocked_matmul(q1, q2).to(torch.int64)
    total = total - zero1 * q2.to(torch.int64).sum(1) - zero2 * q1.to(torch.int64).sum(1, keepdim=True)
    total = total + k * zero1 * zero2
    if total.numel() and (int(total.min()) < _INT32_MIN or int(total.max()) > _INT32_MAX):
        raise NumericsError(f"a sum of {k} products left int32: split K")
    return total.to(torch.int32)


def fixed_point_multiplier(real: float) -> tuple[int, int]:
    """A positive real number as M0 * 2^-31 * 2^-shift, M0 an int32 in [2^30, 2^31).

    Args:
        real: a finite number above 0, such as scale1 * scale2 / scale_out.

    Returns:
        M0 and the right shift; a negative shift goes to the left.

    Raises:
        NumericsError: the number is not positive and finite.

    Example:
        >>> fixed_point_multiplier(0.25)
        (1073741824, 1)
    """
    if not (math.isfinite(real) and real > 0):
        raise NumericsError(f"a fixed-point multiplier stands for a positive finite number, not {real}")
    mantissa, exponent = math.frexp(real)
    integer = round(mantissa * (1 << 31))
    if integer == 1 << 31:  # the mantissa rounded up to one
        integer, exponent = 1 << 30, exponent + 1
    return integer, -exponent


def saturating_doubling_high_mul(a: Tensor, b: int) -> Tensor:
    """The high 32 bits of 2ab, rounded to nearest, halves up; int32 min squared saturates.

    Args:
        a: int32.
        b: an int32.
    """
    product = a.to(torch.int64) * b
    nudge = torch.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = torch.div(product + nudge, 1 << 31, rounding_mode="trunc")
    return high.clamp(_INT32_MIN, _INT32_MAX).to(torch.int32)


def rounding_right_shift(x: Tensor, shift: int) -> Tensor:
    """x / 2^shift rounded to nearest, halves away from zero.

    Args:
        x: int32.
        shift: 0 to 31.
    """
    assert 0 <= shift <= 31, shift
    mask = (1 << shift) - 1
    wide = x.to(torch.int64)
    threshold = (mask >> 1) + (wide < 0).to(torch.int64)
    return ((wide >> shift) + ((wide & mask) > threshold).to(torch.int64)).to(torch.int32)


def requantize(sums: Tensor, multiplier: tuple[int, int], zero_point: int, low: int, high: int) -> Tensor:
    """int32 sums as codes of the output: multiplied, shifted, moved by the zero point and clamped, all in integers.

    Args:
        sums: int32 sums of products.
        multiplier: of `fixed_point_multiplier`.
        zero_point: of the output.
        low: smallest code.
        high: largest code.

    Returns:
        int32 codes in [low, high].
    """
    integer, shift = multiplier
    left = sums.to(torch.int64) << max(0, -shift) if shift > -32 else sums.to(torch.int64).sign() << 40
    wide = left.clamp(_INT32_MIN, _INT32_MAX).to(torch.int32)
    scaled = saturating_doubling_high_mul(wide, integer)
    if shift > 0:
        scaled = rounding_right_shift(scaled, min(shift, 31)) if shift <= 31 else torch.zeros_like(scaled)
    return (scaled.to(torch.int64) + zero_point).clamp(low, high).to(torch.int32)
