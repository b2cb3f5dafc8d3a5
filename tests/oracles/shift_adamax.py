"""Shift-based AdaMax of one scalar weight, in Python floats."""

import math


def power_of_two(x: float) -> float:
    return 0.0 if x == 0.0 else math.copysign(2.0 ** round(math.log2(abs(x))), x)


def shift_adamax(
    weight: float, gradients: list[float], lr: float, beta1: float, beta2: float
) -> tuple[list[float], list[float]]:
    """The weight after each step, and the running maximum v, which is never rounded itself."""
    m = v = 0.0
    weights, maxima = [], []
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1.0 - beta1) * g
        v = max(beta2 * v, abs(g))
        weight -= power_of_two(lr / (1.0 - beta1**t)) * m * power_of_two(1.0 / max(v, 2.0**-27))
        weights.append(weight)
        maxima.append(v)
    return weights, maxima
