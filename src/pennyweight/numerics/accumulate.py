"""Sums in accumulators of few bits: the format, and what it computes.

A product of K pairs is cut into chunks. Within a chunk s runs from 0: s = Q_sum(Q_product(x w) + s); then the chunks'
results are added one after the other, Q_sum again. Both products and sums are exact before they are rounded. The order
of k is part of the definition.

The format and the chunked sum are those of arXiv 2401.14110, section 3; its rounding is towards zero.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.checks import require_whole

AccumulatorRounding = Literal["toward_zero", "nearest_even"]

_NO_UNDERFLOW = 100
"""Without underflow, exponents reach down to -100; below, values are 0 all the same. float32 holds them exactly."""
_BLOCK = 1 << 22  # partial sums held at once


@dataclass(frozen=True, kw_only=True)
class AccumulatorSpec:
    """A floating-point accumulator: sign, exponent and mantissa bits, no subnormals, no infinity, saturating.

    Exponents run from -bias to 2^exponent - 1 - bias. A value below 2^-bias in magnitude becomes 0, one beyond the
    largest becomes the largest.

    Args:
        mantissa: bits behind the leading one, 1 to 22.
        exponent: bits, 1 to 6.
        product_bias: of products; any integer that keeps exponents within [-100, 100].
        sum_bias: of partial sums.
        chunk: products summed from 0 before sums of chunks are added.
        underflow: False extends exponents down to -100, the first stage of fine-tuning.
        rounding: of the exact value: "toward_zero" cuts the magnitude, as the paper has it; or "nearest_even".

    Raises:
        NumericsError: a number is out of its range.

    Example:
        >>> spec = AccumulatorSpec()
        >>> spec.bits, spec.largest_sum
        (12, 63.75)
    """

    mantissa: int = 7
    exponent: int = 4
    product_bias: int = 12
    sum_bias: int = 10
    chunk: int = 16
    underflow: bool = True
    rounding: AccumulatorRounding = "toward_zero"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("mantissa", "exponent", "product_bias", "sum_bias", "chunk"):
            require_whole(name, getattr(self, name))
        if not isinstance(self.underflow, bool):
            raise NumericsError(f"underflow={self.underflow!r}: takes True or False")
        for name, low, high in (("mantissa", 1, 22), ("exponent", 1, 6), ("chunk", 1, 1 << 20)):
            if not low <= getattr(self, name) <= high:
                raise NumericsError(f"{name}={getattr(self, name)}: an accumulator takes {low} to {high}")
        for name in ("product_bias", "sum_bias"):
            bias = getattr(self, name)
            if not -_NO_UNDERFLOW <= -bias <= (1 << self.exponent) - 1 - bias <= _NO_UNDERFLOW:
                raise NumericsError(f"{name}={bias}: exponents would leave [-100, 100], where float32 computes them")
        if self.rounding not in ("toward_zero", "nearest_even"):
            raise NumericsError(f"rounding={self.rounding!r}: valid are 'toward_zero' and 'nearest_even'")

    def __str__(self) -> str:
        """Mantissa and exponent bits, as papers write them."""
        return f"M{self.mantissa}E{self.exponent}"

    @property
    def bits(self) -> int:
        """Of a stored partial sum, sign included."""
        return 1 + self.exponent + self.mantissa

    @property
    def largest_product(self) -> float:
        """Where products saturate."""
        return self._largest(self.product_bias)

    @property
    def largest_sum(self) -> float:
        """Where sums saturate, R_OF."""
        return self._largest(self.sum_bias)

    @property
    def smallest_product(self) -> float:
        """Below which products are 0."""
        return 2.0 ** -(self.product_bias if self.underflow else _NO_UNDERFLOW)

    @property
    def smallest_sum(self) -> float:
        """Below which sums are 0, R_UF."""
        return 2.0 ** -(self.sum_bias if self.underflow else _NO_UNDERFLOW)

    @property
    def adds_exactly(self) -> bool:
        """Whether float64 holds every sum of two of its values: 52 bits below the leading one."""
        highest = (1 << self.exponent) - min(self.product_bias, self.sum_bias)
        lowest = -max(self.product_bias, self.sum_bias) if self.underflow else -_NO_UNDERFLOW
        return highest - lowest + self.mantissa <= 52

    def _largest(self, bias: int) -> float:
        return 2.0 ** ((1 << self.exponent) - 1 - bias) * (2 - 2.0**-self.mantissa)


def quantize(x: Tensor, spec: AccumulatorSpec, smallest: float, largest: float) -> Tensor:
    """float64 -> the nearest value of the format below `largest`, or 0, as float64."""
    bits = x.view(torch.int64)
    magnitude = bits & 0x7FFFFFFFFFFFFFFF
    dropped = 52 - spec.mantissa
    if spec.rounding == "nearest_even":
        is_tiny = magnitude < _bits_of(smallest)
        magnitude = magnitude + (1 << (dropped - 1)) - 1 + ((magnitude >> dropped) & 1)
    else:
        is_tiny = magnitude < _bits_of(smallest)
    magnitude = (magnitude >> dropped << dropped).clamp(max=_bits_of(largest))
    rounded = torch.where(is_tiny, 0, magnitude | (bits & -0x8000000000000000))
    return rounded.view(torch.float64)


def _bits_of(value: float) -> int:
    return int(torch.tensor(value, dtype=torch.float64).view(torch.int64))


def add_to_odd(a: Tensor, b: Tensor) -> Tensor:
    """a + b in float64, cut towards zero, with the last bit set where something was cut: rounding it once more to far
    fewer bits gives what rounding the exact sum gives."""
    total = a + b
    virtual = total - a
    error = (a - (total - virtual)) + (b - virtual)  # exact (Knuth)
    is_inexact = error != 0
    too_far = is_inexact & ((error < 0) == (total > 0))
    bits = total.view(torch.int64) - too_far.long()  # the neighbour of smaller magnitude
    return torch.where(is_inexact, bits | 1, bits).view(torch.float64)


@dataclass(frozen=True)
class Addition:
    """One step of all sums: what was there, what came, the exact sum (odd where cut), what is there now."""

    before: Tensor
    addend: Tensor
    exact: Tensor
    after: Tensor


def additions(products: Tensor, spec: AccumulatorSpec) -> Iterator[Addition]:
    """Additions along dimension 1, from 0."""
    total = torch.zeros_like(products[:, 0])
    for index in range(products.shape[1]):
        addend = products[:, index]
        exact = addend + total if spec.adds_exactly else add_to_odd(addend, total)
        after = quantize(exact, spec, spec.smallest_sum, spec.largest_sum)
        yield Addition(total, addend, exact, after)
        total = after


def rounded_products(x: Tensor, weight: Tensor, spec: AccumulatorSpec) -> tuple[Tensor, Tensor]:
    """Exact and rounded products, (M, chunk, chunks, N) float64; zeros fill the last chunk, which changes nothing."""
    chunk = min(spec.chunk, max(1, x.shape[1]))
    short = -x.shape[1] % chunk
    wide_x = torch.nn.functional.pad(x.double(), (0, short)).reshape(len(x), -1, chunk).transpose(1, 2)
    wide_w = torch.nn.functional.pad(weight.double(), (0, short)).reshape(len(weight), -1, chunk).permute(2, 1, 0)
    exact = wide_x[..., None] * wide_w
    return exact, quantize(exact, spec, spec.smallest_product, spec.largest_product)


def check_operands(x: Tensor, weight: Tensor) -> None:
    """Refuse what is no product of two finite float32 matrices.

    Raises:
        NumericsError: another dtype or shape, NaN or infinity.
    """
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise NumericsError(f"cannot multiply {tuple(x.shape)} by the transpose of {tuple(weight.shape)}: K must agree")
    for name, value in (("x", x), ("weight", weight)):
        if value.dtype != torch.float32:
            raise NumericsError(f"{name} is {value.dtype}: accumulators sum products of float32 values")
        if value.numel() and not all(map(math.isfinite, map(float, torch.aminmax(value.detach())))):
            raise NumericsError(f"{name} holds NaN or infinity, which the accumulator has no code for")


def row_blocks(x: Tensor, weight: Tensor) -> list[slice]:
    rows = max(1, _BLOCK // max(1, x.shape[1] * len(weight)))
    return [slice(start, start + rows) for start in range(0, len(x), rows)]


@torch.no_grad()
def accumulate(x: Tensor, weight: Tensor, spec: AccumulatorSpec) -> Tensor:
    """x @ weight.T with every product and every sum rounded; the readable truth of `ops.accumulated_matmul`.

    Args:
        x: (M, K) float32.
        weight: (N, K) float32.

    Returns:
        (M, N) float32; zeros are positive.

    Raises:
        NumericsError: another dtype or shape, NaN or infinity.

    Source: arXiv 2401.14110, section 3.

    Example:
        >>> x, w = torch.full((1, 64), 1.0), torch.full((1, 64), 1.5)
        >>> float(accumulate(x, w, AccumulatorSpec()))  # 96 is beyond the largest
        63.75
    """
    check_operands(x, weight)
    out = torch.zeros(len(x), len(weight), device=x.device)
    if x.shape[1] and len(weight):
        for rows in row_blocks(x, weight):
            chunks = torch.zeros(0)
            for step in additions(rounded_products(x[rows], weight, spec)[1], spec):
                chunks = step.after
            for step in additions(chunks, spec):
                chunks = step.after
            out[rows] = chunks.float()
    return out + 0.0  # -0.0 becomes 0.0
