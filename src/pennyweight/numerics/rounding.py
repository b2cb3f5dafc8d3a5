"""Rounding to integers: nearest-even, toward zero, and stochastic by key."""

from typing import Literal

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.random import Key, uniform

Rounding = Literal["nearest_even", "toward_zero", "stochastic"]


def round_nearest_even(x: Tensor) -> Tensor:
    """To the nearest integer, ties to the even one."""
    return torch.round(x)


def round_toward_zero(x: Tensor) -> Tensor:
    """To the next integer toward zero."""
    return torch.trunc(x)


def round_stochastic(x: Tensor, key: Key) -> Tensor:
    """floor(x + U) with U uniform in [0, 1): up with the probability of the fractional part, hence without bias.

    U has 24 bits and is compared with the fractional part in float64, so that x + U itself is never rounded: up where
    U < x - floor(x). The probability is exact where the fractional part has 24 bits, and within 2^-24 elsewhere.
    """
    wide = x.double()  # in short dtypes 1 - tiny would round to 1
    floor = torch.floor(wide)
    return (floor + (uniform(x.shape, key, x.device) < wide - floor)).to(x.dtype)


def apply_rounding(x: Tensor, rounding: Rounding = "nearest_even", key: Key | None = None) -> Tensor:
    """Round by name.

    Raises:
        NumericsError: the name is unknown, or stochastic rounding has no key.
    """
    if rounding == "nearest_even":
        return round_nearest_even(x)
    if rounding == "toward_zero":
        return round_toward_zero(x)
    if rounding != "stochastic":
        raise NumericsError(f"rounding={rounding!r}: valid are 'nearest_even', 'toward_zero' and 'stochastic'")
    if key is None:
        raise NumericsError("stochastic rounding needs key=Key(seed): nothing here draws from the global generator")
    return round_stochastic(x, key)
