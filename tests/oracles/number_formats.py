"""Small float formats as explicit tables of fractions: every code's value, and rounding to neighbours."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class FloatTable:
    """A format as its codes say it.

    Args:
        e: exponent bits.
        m: mantissa bits.
        bias: of the exponent.
        subnormals: exponent field 0 holds subnormals, else zero only.
        specials: "none", "fn" or "ieee".
    """

    e: int
    m: int
    bias: int
    subnormals: bool
    specials: str

    def value(self, code: int) -> Fraction | float:
        """What a non-negative code stands for; infinity and NaN as floats."""
        field, mantissa = divmod(code, 2**self.m)
        last = 2**self.e - 1
        if self.specials == "ieee" and field == last:
            return math.nan if mantissa else math.inf
        if self.specials == "fn" and field == last and mantissa == 2**self.m - 1:
            return math.nan
        if field == 0:
            return Fraction(2) ** (1 - self.bias) * Fraction(mantissa, 2**self.m) if self.subnormals else Fraction(0)
        return Fraction(2) ** (field - self.bias) * (1 + Fraction(mantissa, 2**self.m))

    def table(self) -> list[tuple[Fraction, int]]:
        """Finite non-negative values in order, each with its code; without subnormals zero has code 0 alone."""
        rows: dict[Fraction, int] = {}
        for code in range(2 ** (self.e + self.m)):
            value = self.value(code)
            if isinstance(value, Fraction):
                rows.setdefault(value, code)
        return sorted(rows.items())


def round_nearest(x: Fraction, table: list[tuple[Fraction, int]]) -> Fraction:
    """The nearest value with x's sign, the last beyond the end; a tie goes to the even code, else toward zero."""
    magnitude = abs(x)
    above = bisect_right(table, (magnitude, math.inf))
    low, low_code = table[above - 1]
    result = low
    if above < len(table):
        high, high_code = table[above]
        down, up = magnitude - low, high - magnitude
        if up < down or (up == down and low_code % 2 == 1 and high_code % 2 == 0):
            result = high
    return result if x >= 0 else -result


def round_down(x: Fraction, table: list[tuple[Fraction, int]]) -> Fraction:
    """The next value toward zero."""
    result = table[bisect_right(table, (abs(x), math.inf)) - 1][0]
    return result if x >= 0 else -result


def powers_with_zero(width: int, max_exponent: int) -> list[Fraction]:
    """Every non-negative value of a logarithmic format of `width` bits, in order."""
    count = 2 ** (width - 1) - 1
    return [Fraction(0), *(Fraction(2) ** (max_exponent - i) for i in reversed(range(count)))]


def nearest_power(x: Fraction) -> Fraction:
    """sign(x) 2^round(log2 |x|) for x != 0, by squaring: 2^k is nearest while 2^(2k-1) < x^2 < 2^(2k+1)."""
    square = x * x
    k = (square.numerator.bit_length() - square.denominator.bit_length()) // 2 - 1  # at or below the answer
    while Fraction(4) ** k * 2 < square:
        k += 1
    assert Fraction(4) ** k / 2 < square
    return Fraction(2) ** k if x > 0 else -(Fraction(2) ** k)
