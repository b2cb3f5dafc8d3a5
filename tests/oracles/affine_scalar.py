"""Affine quantization of one number at a time; float32 only where the definition divides in float32."""

from fractions import Fraction

import numpy as np


def code(x: float, scale: float, zero_point: int, low: int, high: int) -> int:
    """round_half_even(x / scale) + zero_point, clamped; the quotient is one float32 division."""
    with np.errstate(over="ignore"):
        quotient = float(np.float32(x) / np.float32(scale))
    if abs(quotient) > 2.0**40:
        return high if quotient > 0 else low
    return min(high, max(low, round(Fraction(quotient)) + zero_point))


def zero_point_and_scale(low: float, high: float, code_low: int, code_high: int) -> tuple[Fraction, Fraction]:
    """The exact scale and the unrounded zero point of a range widened to hold zero."""
    a, b = min(Fraction(low), Fraction(0)), max(Fraction(high), Fraction(0))
    scale = (b - a) / (code_high - code_low)
    return code_low - a / scale, scale


def least_square_error(values: list[float], codes: range, steps: list[float]) -> float:
    """The smallest mean square error over the given symmetric scales, each value taking its best code."""
    return min(sum(min((v - c * s) ** 2 for c in codes) for v in values) / len(values) for s in steps)
