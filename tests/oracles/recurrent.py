"""Recurrent cells number by number in Python's floats, their operands rounded to a grid; no torch anywhere."""

import math
from collections.abc import Callable, Sequence

Matrix = Sequence[Sequence[float]]
Round = Callable[[float], float]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def grid(low: int, high: int, scale: float) -> Round:
    """The nearest multiple of scale between low * scale and high * scale, ties to even."""
    return lambda value: max(low, min(high, round(value / scale))) * scale


def rows_on_grid(matrix: Matrix, high: int) -> list[list[float]]:
    """Each row rounded to multiples of its largest magnitude over high."""
    found = []
    for row in matrix:
        scale = max(abs(value) for value in row) / high
        found.append([round(value / scale) * scale for value in row])
    return found


def affine(matrix: Matrix, bias: Sequence[float], x: Sequence[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(matrix, bias, strict=True)]


def unrolled(
    kind: str,
    weights: tuple[Matrix, Matrix, Sequence[float], Sequence[float]],
    xs: Sequence[Sequence[float]],
    hidden: int,
    round_x: Round,
    round_h: Round,
) -> list[list[float]]:
    """The outputs of one sequence from a zero state; weights are W, U and their biases, already on their grids."""
    w, u, w_bias, u_bias = weights
    h, c = [0.0] * hidden, [0.0] * hidden
    outputs = []
    for x in xs:
        a = affine(w, w_bias, [round_x(value) for value in x])
        b = affine(u, u_bias, [round_h(value) for value in h])
        for j in range(hidden):
            at = [j + hidden * gate for gate in range(len(a) // hidden)]
            if kind == "LSTM":
                opened, kept, proposed, shown = (a[i] + b[i] for i in at)
                c[j] = sigmoid(kept) * c[j] + sigmoid(opened) * math.tanh(proposed)
                h[j] = sigmoid(shown) * math.tanh(c[j])
            elif kind == "GRU":
                reset, update = (sigmoid(a[i] + b[i]) for i in at[:2])
                new = math.tanh(a[at[2]] + reset * b[at[2]])
                h[j] = (1 - update) * new + update * h[j]
            else:
                h[j] = math.tanh(a[j] + b[j]) if kind == "RNN_TANH" else max(0.0, a[j] + b[j])
        outputs.append(list(h))
    return outputs
