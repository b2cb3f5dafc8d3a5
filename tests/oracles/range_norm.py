"""Range batch norm in scalar Python: one channel's values, no torch and no closed form of the gradient."""

import math


def expected_range(n: int, steps: int = 40_000, end: float = 10.0) -> float:
    """E[max - min] of n standard normal numbers by Simpson's rule on the whole line."""

    def integrand(x: float) -> float:
        below = 0.5 * math.erfc(-x / math.sqrt(2))
        above = 0.5 * math.erfc(x / math.sqrt(2))
        return 1.0 - below**n - above**n

    width = 2 * end / steps
    total = integrand(-end) + integrand(end)
    for i in range(1, steps):
        total += (4 if i % 2 else 2) * integrand(-end + i * width)
    return total * width / 3


def normalize(values: list[float], chunks: int, constants: dict[int, float], eps: float) -> tuple[list[float], float]:
    """(x - mean) / sqrt(s^2 + eps) and s; `constants` by chunk size."""
    count = len(values)
    chunks = min(chunks, count // 2)
    mean = math.fsum(values) / count
    start, ranges = 0, []
    for index in range(chunks):
        size = count // chunks + (1 if index < count % chunks else 0)
        part = values[start : start + size]
        ranges.append(constants[size] * (max(part) - min(part)))
        start += size
    deviation = math.fsum(ranges) / chunks
    return [(value - mean) / math.sqrt(deviation**2 + eps) for value in values], deviation
