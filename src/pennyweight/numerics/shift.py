"""AP2: the power of two nearest to a value, so that a multiplication becomes a shift."""

import math

import torch
from torch import Tensor

_SQRT2 = math.sqrt(2.0)


def ap2(x: Tensor) -> Tensor:
    """sign(x) * 2^round(log2 |x|), with AP2(0) = 0 and infinities kept.

    Exact on the bits: the exponent, plus one where the mantissa is above sqrt(2). sqrt(2) is no binary fraction, so
    there are no ties.

    Source: arXiv 1602.02830, section 1.4.
    """
    mantissa, exponent = torch.frexp(x)  # |mantissa| in [1/2, 1)
    exponent = exponent - (mantissa.abs() < _SQRT2 / 2).to(exponent.dtype)
    power = torch.ldexp(torch.copysign(torch.ones_like(x), x), exponent)
    return torch.where((x == 0) | ~torch.isfinite(x), x, power)
