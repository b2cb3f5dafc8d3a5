"""Brute force over every plan of a multiple-choice knapsack."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any


def best_by_enumeration(
    options: Mapping[str, Sequence[tuple[Any, Any, Mapping[str, float]]]],
    limits: Mapping[str, float],
    minimise: str,
    ties: Sequence[frozenset[str]] = (),
) -> float | None:
    """The least total of `minimise` over all plans within the limits; None where there is none.

    Args:
        options: of each unit: (weights, activations, values).
    """
    units = list(options)
    best = None
    for chosen in product(*(options[unit] for unit in units)):
        activations = {unit: option[1] for unit, option in zip(units, chosen, strict=True)}
        if any(len({activations[unit] for unit in group}) > 1 for group in ties):
            continue
        totals = {name: sum(option[2][name] for option in chosen) for name in {*limits, minimise}}
        if all(totals[name] <= limit for name, limit in limits.items()):
            best = totals[minimise] if best is None else min(best, totals[minimise])
    return best
