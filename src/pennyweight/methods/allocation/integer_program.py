"""Choosing one option a unit so that one quantity is least while others stay within limits: by HiGHS, through scipy."""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pennyweight.errors import InfeasibleBudgetError, MethodError
from pennyweight.methods.allocation.problem import DEGRADATION, Candidate, Plan, Problem

_Column = tuple[str, int]


def allocate(
    problem: Problem,
    limits: Mapping[str, float],
    *,
    minimise: str = DEGRADATION,
    excluded: Sequence[Mapping[str, Candidate]] = (),
    time_limit_s: float = 60.0,
) -> Plan:
    """The best plan.

    Args:
        limits: by quantity, what its total may be at most; "degradation" may be one.
        minimise: the quantity to make least; a resource maximises what is saved of it.
        excluded: plans that must not come out again.
        time_limit_s: then the best plan found so far is given, with its gap.

    Raises:
        InfeasibleBudgetError: no plan meets the limits; names the limit and the least that is achievable.
        MethodError: the solver stopped with nothing found.

    Source: arXiv 2006.10518, section 4 (degradation bounded or minimised); one-hot variables, scipy's HiGHS.
    """
    started = time.perf_counter()
    columns = [(unit, index) for unit, options in problem.options.items() for index in range(len(options))]
    tightening = 0.0
    while True:
        tight = {name: limit * (1 - tightening) for name, limit in limits.items()}
        result = _solve(problem, columns, tight, minimise, excluded, time_limit_s)
        if result.x is None:
            if result.status == 2 or not excluded:
                _explain(problem, columns, limits, time_limit_s)
            raise MethodError(f"no further plan: {' '.join(str(result.message).split())}")
        choice = _choice(problem, columns, result.x)
        # The solver allows limits to be passed by its tolerance; we do not.
        if all(problem.total(choice, name) <= limit for name, limit in limits.items()):
            break
        tightening = max(10 * tightening, 1e-9)
        if tightening > 1e-3:
            _explain(problem, columns, limits, time_limit_s)
            raise MethodError("the integer programme is too badly scaled to be solved")
    quantities = next(iter(problem.options.values()))[0].values
    return Plan(
        choice=choice,
        predicted=problem.total(choice, DEGRADATION),
        values={name: problem.total(choice, name) for name in quantities if name != DEGRADATION},
        solver="HiGHS",
        gap=float(getattr(result, "mip_gap", 0.0) or 0.0),
        seconds=time.perf_counter() - started,
    )


def _solve(
    problem: Problem,
    columns: Sequence[_Column],
    limits: Mapping[str, float],
    minimise: str,
    excluded: Sequence[Mapping[str, Candidate]],
    time_limit_s: float,
) -> Any:
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows, low, high = _rows(problem, columns, limits, excluded)
    cost = _coefficients(problem, columns, minimise)
    return milp(
        cost / (cost.max() or 1.0),
        constraints=LinearConstraint(rows, low, high),
        integrality=np.ones(len(columns)),
        bounds=Bounds(0, 1),
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
    )


def _rows(
    problem: Problem,
    columns: Sequence[_Column],
    limits: Mapping[str, float],
    excluded: Sequence[Mapping[str, Candidate]],
) -> tuple[Any, Any, Any]:
    """The constraints as a sparse matrix with bounds a row."""
    from scipy.sparse import csr_array, vstack

    blocks: list[tuple[Any, float, float]] = [
        (np.array([float(name == unit) for name, _ in columns]), 1.0, 1.0) for unit in problem.options
    ]
    for name, limit in limits.items():
        # In units of the limit, so that one tolerance fits all.
        scale = limit if limit > 0 else 1.0
        blocks.append((_coefficients(problem, columns, name) / scale, -np.inf, limit / scale))
    for group in problem.ties:
        blocks += [(row, 0.0, 0.0) for row in _tie_rows(problem, columns, sorted(group))]
    for plan in excluded:
        row = np.array([float(problem.options[unit][i].candidate == plan[unit]) for unit, i in columns])
        blocks.append((row, -np.inf, len(problem.options) - 1.0))
    rows = vstack([csr_array(row[None]) for row, _, _ in blocks])
    return rows, np.array([low for _, low, _ in blocks]), np.array([high for _, _, high in blocks])


def _tie_rows(problem: Problem, columns: Sequence[_Column], group: Sequence[str]) -> list[Any]:
    """For each activation format: a unit of the group has it as often as the next one."""
    formats = {option.candidate.activations for unit in group for option in problem.options[unit]}
    rows = []
    for first, second in pairwise(group):
        for wanted in sorted(formats, key=str):
            sign = {first: 1.0, second: -1.0}
            rows.append(
                np.array(
                    [
                        sign.get(unit, 0.0) * (problem.options[unit][i].candidate.activations == wanted)
                        for unit, i in columns
                    ]
                )
            )
    return rows


def _coefficients(problem: Problem, columns: Sequence[_Column], quantity: str) -> Any:
    return np.array([problem.options[unit][index].values[quantity] for unit, index in columns], dtype=np.float64)


def _choice(problem: Problem, columns: Sequence[_Column], x: Any) -> dict[str, Candidate]:
    """The candidate whose variable is one, a unit."""
    best: dict[str, tuple[float, Candidate]] = {}
    for (unit, index), value in zip(columns, x, strict=True):
        if unit not in best or value > best[unit][0]:
            best[unit] = (float(value), problem.options[unit][index].candidate)
    return {unit: candidate for unit, (_, candidate) in best.items()}


def _explain(problem: Problem, columns: Sequence[_Column], limits: Mapping[str, float], time_limit_s: float) -> None:
    """Raise the error that names the limit no plan can meet, alone or together with the others before it."""
    kept: dict[str, float] = {}
    for name, limit in limits.items():
        result = _solve(problem, columns, kept, name, (), time_limit_s)
        if result.x is None:
            raise InfeasibleBudgetError("ties", 0.0, float("nan"))
        least = problem.total(_choice(problem, columns, result.x), name)
        if least > limit:
            raise InfeasibleBudgetError(name, limit, least)
        kept[name] = limit
