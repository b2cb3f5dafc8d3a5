"""Gates and energy of one accumulator, modelled by counting cells. Multipliers are not counted: they are the same.

Assumptions, all of them:

- Cells, in two-input gates: full adder 5, half adder 2, multiplexer 3, comparator 2 a bit, flip-flop 6, plain gate 1.
- An addition of floats of a sign, e exponent and m mantissa bits works on magnitudes of p = m + 1 bits and 3 guard bits
  (cutting and rounding both need the bits below). It subtracts exponents (e full adders), orders the operands (2 p
  multiplexers), shifts one to the right (p + 3 bits, ceil(log2(p + 3)) rows of multiplexers), adds or subtracts (p + 3
  full adders and gates), counts leading zeros (p + 3 multiplexers), shifts to the left (as before), corrects the
  exponent (e full adders).
- Rounding to nearest takes p half adders, cutting nothing. Saturation compares the exponent (e comparators) and picks
  the largest value (m + e multiplexers); underflow compares again and clears (m + e gates). All three follow the
  addition, and the multiplier too, whose exponents have a bias of their own.
- An integer accumulator of P bits is P full adders; "saturate" adds P multiplexers and 3 gates for the overflow.
- The register holds every bit. Chunks need a second register, and one addition more every chunk.
- Energy is the gates that work in one step, each switching once, times `gate_fj` femtojoules. 1 fJ is a round number,
  of no technology; ratios of two formats do not depend on it. Wires, clocks, pipelining and idle gates are left out.

So the figures say which of two formats is cheaper and roughly by how much, not what a chip needs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

GATES_OF: Mapping[str, int] = {
    "full_adders": 5, "half_adders": 2, "multiplexers": 3, "comparators": 2, "flip_flops": 6, "plain_gates": 1,
}  # fmt: skip
_GUARD = 3


@dataclass(frozen=True, kw_only=True)
class AccumulatorCost:
    """Cells of one accumulator, and what follows from them; modelled, see the file's docstring.

    Args:
        full_adders: cells of that kind; the others alike.
        additions: of a step, 1 and the share of adding chunks.
    """

    full_adders: int = 0
    half_adders: int = 0
    multiplexers: int = 0
    comparators: int = 0
    flip_flops: int = 0
    plain_gates: int = 0
    additions: float = 1.0

    @property
    def gates(self) -> int:
        """Two-input gates: the area."""
        return sum(GATES_OF[name] * getattr(self, name) for name in GATES_OF)

    def energy_fj(self, gate_fj: float = 1.0) -> float:
        """Femtojoules of summing one product, adding up chunks included."""
        return gate_fj * self.gates * self.additions


def float_accumulator_cost(
    mantissa: int, exponent: int, *, chunk: int | None = None, nearest: bool = False
) -> AccumulatorCost:
    """Of a floating-point accumulator.

    Args:
        mantissa: bits behind the leading one.
        exponent: bits.
        chunk: products between additions of chunks; None sums without.
        nearest: rounds to nearest instead of cutting.

    Example:
        >>> wide, narrow = float_accumulator_cost(23, 8, nearest=True), float_accumulator_cost(7, 4, chunk=16)
        >>> wide.gates, narrow.gates
        (1877, 715)
    """
    significand = mantissa + 1
    wide = significand + _GUARD
    rows = math.ceil(math.log2(wide))
    stored = 1 + exponent + mantissa
    ends = 2  # the product and the sum, each rounded and clamped
    return AccumulatorCost(
        full_adders=2 * exponent + wide,
        half_adders=(significand if nearest else 0) * ends,
        multiplexers=2 * significand + 2 * wide * rows + wide + ends * (mantissa + exponent),
        comparators=2 * exponent * ends,
        plain_gates=wide + ends * (mantissa + exponent),
        flip_flops=stored * (1 if chunk is None else 2),
        additions=1.0 if chunk is None else 1 + 1 / chunk,
    )


def integer_accumulator_cost(bits: int, *, saturates: bool = False) -> AccumulatorCost:
    """Of an integer accumulator."""
    return AccumulatorCost(
        full_adders=bits,
        multiplexers=bits if saturates else 0,
        plain_gates=3 if saturates else 0,
        flip_flops=bits,
    )
