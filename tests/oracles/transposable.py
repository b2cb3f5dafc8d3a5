"""Transposable masks by plain truths: every mask of a small tile, a flow in whole numbers, and HiGHS."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, product

Rows = list[list[int]]


def every_mask(n: int, m: int) -> list[Rows]:
    """All 0/1 matrices with n in each line, the one that keeps the earliest entries first."""
    lines = [[int(j in chosen) for j in range(m)] for chosen in combinations(range(m), n)]
    masks = [
        list(rows) for rows in product(lines, repeat=m) if all(sum(column) == n for column in zip(*rows, strict=True))
    ]
    return sorted(masks, reverse=True)


def best_by_enumeration(scores: Sequence[Sequence[float]], n: int) -> Rows:
    """The best of all masks in exact fractions; of equal ones the first of `every_mask`."""
    exact = [[Fraction(value) for value in row] for row in scores]
    return max(every_mask(n, len(scores)), key=lambda mask: total(exact, mask))  # max keeps the first


def total(scores: Sequence[Sequence[Fraction]], mask: Rows) -> Fraction:
    """The score kept."""
    pairs = zip(scores, mask, strict=True)
    return sum((value for row, kept in pairs for value, bit in zip(row, kept, strict=True) if bit), Fraction(0))


def best_by_flow(scores: Sequence[Sequence[float]], n: int) -> Rows:
    """Successive cheapest paths by Bellman and Ford in whole numbers of any size.

    Scores become integers; entry e of m * m then weighs 2^-(e + 1) of a unit more, which settles ties as
    `best_by_enumeration` does.
    """
    m = len(scores)
    exact = [Fraction(value) for row in scores for value in row]
    scale = max((value.denominator for value in exact), default=1)  # powers of two: the largest serves all
    weights = [(int(value * scale) << m * m) + (1 << (m * m - 1 - e)) for e, value in enumerate(exact)]
    source, sink = 2 * m, 2 * m + 1
    # [from, to, capacity left, cost], each followed by its reverse
    edges = [[source, i, n, 0] for i in range(m)] + [[m + j, sink, n, 0] for j in range(m)]
    edges = [[i, m + j, 1, -weights[i * m + j]] for i in range(m) for j in range(m)] + edges
    edges = [arc for a, b, room, cost in edges for arc in ([a, b, room, cost], [b, a, 0, -cost])]
    for _ in range(n * m):
        cost: dict[int, int] = {source: 0}
        came: dict[int, int] = {}
        is_settled = False
        while not is_settled:
            is_settled = True
            for index, (a, b, room, price) in enumerate(edges):
                if room and a in cost and cost[a] + price < cost.get(b, cost[a] + price + 1):
                    cost[b], came[b], is_settled = cost[a] + price, index, False
        node = sink
        while node != source:
            index = came[node]
            edges[index][2] -= 1
            edges[index ^ 1][2] += 1
            node = edges[index][0]
    return [[1 - edges[2 * (i * m + j)][2] for j in range(m)] for i in range(m)]


def best_total_by_highs(scores: Sequence[Sequence[float]], n: int) -> float:
    """The optimum of the linear programme, whose vertices are integral."""
    import numpy as np
    from scipy.optimize import linprog

    m = len(scores)
    lines = np.zeros((2 * m, m * m))
    for i in range(m):
        for j in range(m):
            lines[i, i * m + j] = lines[m + j, i * m + j] = 1
    found = linprog(-np.asarray(scores, dtype=np.float64).ravel(), A_eq=lines, b_eq=np.full(2 * m, n), bounds=(0, 1))
    assert found.status == 0, found.message
    return -float(found.fun)
