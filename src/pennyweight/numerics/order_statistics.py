"""Expected range of Gaussian samples, and the constants that turn a measured range into a standard deviation."""

import math
from functools import lru_cache
from typing import Literal

import torch

from pennyweight.errors import NumericsError

RangeScale = Literal["exact", "repo", "paper"]

_STEP = 1 / 128
_END = 14.0  # the mass beyond is below 1e-43, nothing even for 2^64 samples


@lru_cache(maxsize=4096)
def expected_range(n: int) -> float:
    """E[max - min] of n independent standard normal numbers, the d2(n) of quality control.

    Twice the integral over x > 0 of 1 - Phi(x)^n - (1 - Phi(x))^n. The integrand is smooth and even, so that the
    trapezoid rule converges faster than any power of its step.

    Args:
        n: samples, at least 1.

    Raises:
        NumericsError: n is below 1.

    Example:
        >>> round(expected_range(2), 6)  # 2 / sqrt(pi)
        1.128379
    """
    if n < 1:
        raise NumericsError(f"n={n}: a range is taken over at least 1 sample")
    x = torch.arange(0.0, _END, _STEP, dtype=torch.float64)
    values = -torch.expm1(n * torch.special.log_ndtr(x)) - torch.exp(n * torch.special.log_ndtr(-x))
    return float(2 * _STEP * (values.sum() - values[0] / 2))


def range_constant(n: int, scale: RangeScale = "exact") -> float:
    """C(n): C(n) * (max - min) of n values estimates their standard deviation.

    Args:
        n: values the range is taken over, at least 2.
        scale: "exact" is 1 / d2(n), unbiased for Gaussian values at every n; "paper" is 1 / sqrt(2 ln n), 1.5 to 1.8
            times too large; "repo" is the constant of the paper's published code, 2 to 19 % too small.

    Raises:
        NumericsError: n is below 2, or the name is unknown.

    Source: arXiv 1805.11046, section 3; its code for "repo".

    Example:
        >>> [round(range_constant(64, kind) * expected_range(64), 2) for kind in ("exact", "repo", "paper")]
        [1.0, 0.88, 1.63]
    """
    if n < 2:
        raise NumericsError(f"n={n}: the range of fewer than 2 values says nothing about their spread")
    if scale == "exact":
        return 1.0 / expected_range(n)
    paper = 1.0 / math.sqrt(2.0 * math.log(n))
    if scale == "paper":
        return paper
    if scale == "repo":
        return 0.175 * (1.0 + math.sqrt(math.pi * math.log(4.0))) * paper
    raise NumericsError(f"scale={scale!r}: valid are 'exact', 'repo' and 'paper'")
