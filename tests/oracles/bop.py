"""Bop of one binary weight, in Python floats (arXiv 1906.02107, algorithm 1)."""


def bop(sign: float, gradients: list[float], rate: float, threshold: float) -> list[float]:
    """The sign after each step."""
    mean, signs = 0.0, []
    for gradient in gradients:
        mean = (1.0 - rate) * mean + rate * gradient
        if abs(mean) > threshold and mean * sign > 0.0:
            sign = -sign
        signs.append(sign)
    return signs
