"""Shift-based batch norm of one channel in scalar arithmetic, forward and backward (arXiv 1602.02830, algorithm 3)."""

import math


def power(x: float) -> float:
    """sign(x) * 2^round(log2 |x|)."""
    if x == 0.0:
        return 0.0
    return math.copysign(2.0 ** round(math.log2(abs(x))), x)


def shift_norm(
    xs: list[float], gain: float, offset: float, eps: float, grads: list[float]
) -> tuple[list[float], list[float], float, float]:
    """Outputs, gradients of the inputs, gradient of the gain, gradient of the offset."""
    n = len(xs)
    mean = math.fsum(xs) / n
    centred = [x - mean for x in xs]
    var = math.fsum(c * power(c) for c in centred) / n
    inverse = power(1.0 / math.sqrt(var + eps))
    outputs = [power(gain) * c * inverse + offset for c in centred]
    mean_grad = math.fsum(grads) / n
    aligned = math.fsum(power(c) * g for c, g in zip(centred, grads, strict=True)) / n
    grad_x = [
        power(gain) * inverse * (g - mean_grad - power(c) * inverse**2 * aligned)
        for c, g in zip(centred, grads, strict=True)
    ]
    grad_gain = math.fsum(power(c * inverse) * g for c, g in zip(centred, grads, strict=True))
    return outputs, grad_x, grad_gain, math.fsum(grads)
