"""N:M sparsity the slow way: subsets tried one by one, probabilities as fractions, matrices counted by writing them."""

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog, minimize


def best_subset(scores: Sequence[float], n: int) -> tuple[int, ...]:
    """The n places with the largest sum of magnitudes; of equal sums the first in lexicographic order."""
    best, found = Fraction(-1), ()
    for subset in itertools.combinations(range(len(scores)), min(n, len(scores))):
        total = sum((Fraction(abs(scores[i])) for i in subset), Fraction(0))
        if total > best:
            best, found = total, subset
    return found


def exact_probabilities(group: Sequence[float], n: int) -> list[Fraction]:
    """Optimal marginals: the c largest are certain, the rest proportional to size; c is the first that fits."""
    sizes = [abs(Fraction(x)) for x in group]
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    if sum(size > 0 for size in sizes) <= n:
        return [Fraction(int(size > 0)) for size in sizes]
    for certain in range(n):
        rest = order[certain:]
        level = sum((sizes[i] for i in rest), Fraction(0)) / (n - certain)
        if sizes[rest[0]] <= level:
            return [Fraction(1) if i in order[:certain] else sizes[i] / level for i in range(len(sizes))]
    raise AssertionError(group)


def exact_variance(group: Sequence[float], n: int) -> Fraction:
    """Of the optimal marginals, summed over the group."""
    marginals = exact_probabilities(group, n)
    return sum((Fraction(x) ** 2 * (1 / p - 1) for x, p in zip(group, marginals, strict=True) if p), Fraction(0))


def expectation(group: Sequence[float], n: int, sample: Callable[[float], Sequence[float]]) -> tuple[list[float], ...]:
    """Mean and second moment of a systematic sampler over its one uniform number, by its steps.

    The outcome changes only where a border of the line of probabilities passes an integer plus u.
    """
    borders, reached = {Fraction(0), Fraction(1)}, Fraction(0)
    for p in exact_probabilities(group, n):
        if p < 1:
            reached += p
            borders.add(reached % 1)
    cuts = sorted(borders)
    mean, square = np.zeros(len(group)), np.zeros(len(group))
    for low, high in itertools.pairwise(cuts):
        if high - low < Fraction(1, 10**12):
            continue
        outcome = np.array(sample(float((low + high) / 2)))
        mean += float(high - low) * outcome
        square += float(high - low) * outcome**2
    return list(mean), list(square)


def least_variance_by_solver(group: Sequence[float], n: int) -> float:
    """min sum x^2 / p - x^2 over the hypersimplex, by SLSQP."""
    squares = np.array(group) ** 2
    m = len(group)
    at_most_n = {"type": "ineq", "fun": lambda p: n - p.sum(), "jac": lambda p: -np.ones(m)}
    found = minimize(
        lambda p: float((squares / p).sum()), np.full(m, n / m), jac=lambda p: -squares / p**2,
        bounds=[(1e-9, 1.0)] * m, constraints=[at_most_n],
        method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    return float(found.fun - squares.sum())


def least_square_by_linear_program(group: Sequence[float], n: int, grid: Sequence[Sequence[float]]) -> float:
    """min E |B|^2 over all distributions of (subset, values of a grid an element) that are unbiased: a true LP."""
    outcomes = []
    for size in range(n + 1):
        for subset in itertools.combinations(range(len(group)), size):
            for values in itertools.product(*(grid[i] for i in subset)):
                outcome = np.zeros(len(group))
                outcome[list(subset)] = values
                outcomes.append(outcome)
    table = np.array(outcomes)
    solved = linprog(
        (table**2).sum(1), A_eq=np.vstack([table.T, np.ones(len(table))]), b_eq=[*group, 1.0], method="highs"
    )
    assert solved.status == 0, solved.message
    return float(solved.fun)


def count_transposable(n: int, m: int) -> int:
    """0/1 matrices with n ones in each row and column, written one after another."""
    rows = [row for row in itertools.product((0, 1), repeat=m) if sum(row) == n]
    return sum(
        all(sum(column) == n for column in zip(*matrix, strict=True)) for matrix in itertools.product(rows, repeat=m)
    )
