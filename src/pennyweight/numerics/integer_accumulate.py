"""Sums of integer codes in integer accumulators of few bits: wrap around, or saturate.

The floating-point accumulators are `accumulate`'s.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.checks import require_whole

Overflow = Literal["wrap", "saturate"]

_EXACT = 1 << 53  # float64 holds every integer below
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class IntAccumulatorSpec:
    """A two's-complement accumulator.

    Args:
        bits: sign included, 2 to 32.
        overflow: "wrap" keeps the low bits of the sum; "saturate" stops each partial sum at the end of the range.

    Raises:
        NumericsError: a number is out of its range.

    Example:
        >>> spec = IntAccumulatorSpec(bits=8)
        >>> spec.smallest, spec.largest
        (-128, 127)
    """

    bits: int = 16
    overflow: Overflow = "wrap"

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_whole("bits", self.bits)
        if not 2 <= self.bits <= 32:
            raise NumericsError(f"bits={self.bits}: an integer accumulator takes 2 to 32")
        if self.overflow not in ("wrap", "saturate"):
            raise NumericsError(f"overflow={self.overflow!r}: valid are 'wrap' and 'saturate'")

    def __str__(self) -> str:
        """Such as "int16, wrap"."""
        return f"int{self.bits}, {self.overflow}"

    @property
    def smallest(self) -> int:
        """-2^(bits - 1)."""
        return -(1 << (self.bits - 1))

    @property
    def largest(self) -> int:
        """2^(bits - 1) - 1."""
        return (1 << (self.bits - 1)) - 1


def integer_accumulate(x: Tensor, weight: Tensor, spec: IntAccumulatorSpec) -> Tensor:
    """x @ weight.T of integer codes, each sum starting from 0 and running over k in order.

    A sum that wraps depends on the order of its terms no more than an exact one; a sum that saturates does.

    Args:
        x: (M, K) integers, as float32.
        weight: (N, K) integers, as float32.

    Returns:
        (M, N) integers in [spec.smallest, spec.largest], in the dtype of `x`, to which the result is rounded once.

    Raises:
        NumericsError: shapes that do not fit, values that are no integers, or sums that could leave 2^53.

    Example:
        >>> x, w = torch.tensor([[100.0, 100.0, -100.0]]), torch.ones(1, 3)
        >>> [float(integer_accumulate(x, w, IntAccumulatorSpec(bits=8, overflow=how))) for how in ("wrap", "saturate")]
        [100.0, 27.0]
    """
    wide_x, wide_w = _integers("x", x), _integers("weight", weight)
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise NumericsError(f"cannot multiply {tuple(x.shape)} by the transpose of {tuple(weight.shape)}: K must agree")
    reach = float((wide_x.abs() @ wide_w.abs().t()).amax()) if x.numel() and weight.numel() else 0.0
    if reach >= _EXACT:
        raise NumericsError(f"partial sums reach {reach:.3g}: beyond 2^53 they are not simulated exactly")
    if spec.overflow == "wrap" or reach <= spec.largest:  # which no partial sum leaves
        exact = wide_x @ wide_w.t()
        found = torch.remainder(exact - spec.smallest, 1 << spec.bits) + spec.smallest
    else:
        found = _saturating(wide_x, wide_w, spec)
    return found.to(x.dtype)


def _saturating(x: Tensor, weight: Tensor, spec: IntAccumulatorSpec) -> Tensor:
    total = x.new_zeros(len(x), len(weight))
    rows = max(1, _BLOCK // max(1, len(weight)))
    columns = weight.t().contiguous()
    for start in range(0, len(x), rows):
        part, own = x[start : start + rows], total[start : start + rows]
        for k in range(x.shape[1]):
            own.addcmul_(part[:, k, None], columns[k]).clamp_(spec.smallest, spec.largest)
    return total


def _integers(name: str, values: Tensor) -> Tensor:
    wide = values.detach().to(torch.float64)
    if not bool((wide == wide.round()).all()):  # NaN too
        raise NumericsError(
            f"{name} holds values that are no integers: an integer accumulator sums codes, so quantize the layer's "
            f"weight and input first"
        )
    return wide
