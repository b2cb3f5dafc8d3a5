"""Rounding by brute force and by the loop that the papers describe, scalar by scalar in Python floats."""

from collections.abc import Sequence
from itertools import product

Rows = Sequence[Sequence[float]]


def output_error(x: Rows, target: Sequence[float], weight: Sequence[float]) -> float:
    """Mean squared error of one output: x w against its target."""
    total = 0.0
    for row, wanted in zip(x, target, strict=True):
        total += (sum(a * b for a, b in zip(row, weight, strict=True)) - wanted) ** 2
    return total / len(x)


def best_rounding(
    x: Rows, target: Sequence[float], weight: Sequence[float], scale: float, low: int, high: int
) -> tuple[float, tuple[int, ...]]:
    """The least error over all 2^k ways of rounding each of k weights down or up, and the codes that give it.

    Down is the floor, kept from low to high - 1, so that a weight beyond the range chooses between its two last codes.
    """
    floors = [min(max(int(w / scale // 1), low), high - 1) for w in weight]
    best: tuple[float, tuple[int, ...]] | None = None
    for ups in product((0, 1), repeat=len(weight)):
        codes = tuple(floor + up for floor, up in zip(floors, ups, strict=True))
        error = output_error(x, target, [scale * code for code in codes])
        if best is None or error < best[0]:
            best = error, codes
    assert best is not None
    return best


def inverse(matrix: Rows) -> list[list[float]]:
    """By Gauss and Jordan, with pivots from the diagonal: for positive definite matrices."""
    n = len(matrix)
    work = [[*map(float, row), *(float(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        work[i] = [value / work[i][i] for value in work[i]]
        for j in range(n):
            if j != i:
                work[j] = [a - work[j][i] * b for a, b in zip(work[j], work[i], strict=True)]
    return [row[n:] for row in work]


def brain_surgeon_codes(
    weight: Sequence[float],
    hessian: Rows,
    scales: Sequence[float],
    low: int,
    high: int,
    damping: float,
    order: Sequence[int] | None = None,
) -> list[int]:
    """Optimal Brain Quantization of one row in a given order: round, spread the error, remove the row and column.

    The inverse Hessian of what is left is computed anew after each weight, from the Hessian itself.
    """
    n = len(weight)
    alive = [hessian[i][i] for i in range(n) if hessian[i][i] != 0]
    mean = sum(alive) / len(alive) if alive else 1.0
    damped = [
        [hessian[i][j] + ((mean if hessian[i][i] == 0 else damping * mean) if i == j else 0.0) for j in range(n)]
        for i in range(n)
    ]
    values = list(map(float, weight))
    codes = [0] * n
    left = list(range(n)) if order is None else list(order)
    while left:
        inverted = inverse([[damped[i][j] for j in left] for i in left])
        first = left[0]
        codes[first] = min(max(round(values[first] / scales[first]), low), high)
        error = (values[first] - codes[first] * scales[first]) / inverted[0][0]
        for place, column in enumerate(left):
            values[column] -= error * inverted[0][place]
        left = left[1:]
    return codes
