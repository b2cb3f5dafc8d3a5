"""AP2: the power of two nearest to a value, so that a multiplication becomes a shift; and exact powers of two."""

import math

import torch
from torch import Tensor

# float64: 52 bits of mantissa below 11 of exponent
_MANTISSA_BITS = 52
_EXPONENT_BIAS = 1023
_ABOVE_SQRT2 = math.isqrt(2 << (2 * _MANTISSA_BITS)) + 1 - (1 << _MANTISSA_BITS)  # least mantissa above sqrt(2)
_CARRY = (1 << _MANTISSA_BITS) - _ABOVE_SQRT2
_SIGN_AND_EXPONENT = -(1 << _MANTISSA_BITS)


def ap2(x: Tensor) -> Tensor:
    """sign(x) * 2^round(log2 |x|), with AP2(0) = 0; infinities and NaN are kept. No gradient.

    Exact, because it works on the bits: the exponent, plus one where the mantissa is above sqrt(2). sqrt(2) is no
    binary fraction, so there are no ties. Where the power of two would overflow the dtype, the largest one stands.

    Source: arXiv 1602.02830, section 1.4.

    Deviations: subnormal float64 (below 2^-1022) become 0 or 2^-1022; subnormals of shorter dtypes are exact.

    Example:
        >>> ap2(torch.tensor([3.0, -0.7, 0.0])).tolist()
        [4.0, -0.5, 0.0]
    """
    wide = x.detach().double()
    # Adding makes mantissas above sqrt(2) carry into the exponent; then the mantissa is cut off.
    power = (wide.view(torch.int64) + _CARRY).bitwise_and_(_SIGN_AND_EXPONENT).view(torch.float64)
    largest = 2.0 ** (math.frexp(torch.finfo(x.dtype).max)[1] - 1)
    return torch.where(torch.isfinite(wide), power.clamp_(-largest, largest).to(x.dtype), x.detach())


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent as float64, exactly, on every device.

    Args:
        exponent: integers in [-1022, 1023].
    """
    return ((exponent.to(torch.int64) + _EXPONENT_BIAS) << _MANTISSA_BITS).view(torch.float64)
