"""The same choice by dynamic programming over one limit: exact, slow, and sharing nothing with the solver it checks."""

import time
from collections.abc import Mapping, Sequence

from pennyweight.errors import InfeasibleBudgetError
from pennyweight.methods.allocation.problem import DEGRADATION, Candidate, Option, Plan, Problem

_State = tuple[float, float, tuple[tuple[str, Candidate], ...]]
"""Cost so far, objective so far, choices so far."""


def allocate_by_dynamic_program(problem: Problem, resource: str, limit: float, *, minimise: str = DEGRADATION) -> Plan:
    """The best plan within one limit, by keeping only states that no other state beats in both quantities.

    Raises:
        InfeasibleBudgetError: no plan meets the limit.

    Cost: the number of undominated states, exponential at worst, small in practice.
    """
    started = time.perf_counter()
    states: list[_State] = [(0.0, 0.0, ())]
    for group in _groups(problem):
        states = _undominated(
            (cost + more_cost, value + more_value, chosen + more_chosen)
            for cost, value, chosen in states
            for more_cost, more_value, more_chosen in _group_states(problem, group, resource, minimise)
        )
    within = [state for state in states if state[0] <= limit]
    if not within:
        raise InfeasibleBudgetError(resource, limit, min(cost for cost, _, _ in states))
    _, _, chosen = min(within, key=lambda state: state[1])
    choice = dict(chosen)
    quantities = next(iter(problem.options.values()))[0].values
    return Plan(
        choice={unit: choice[unit] for unit in problem.options},
        predicted=problem.total(choice, DEGRADATION),
        values={name: problem.total(choice, name) for name in quantities if name != DEGRADATION},
        solver="dynamic programme",
        seconds=time.perf_counter() - started,
    )


def _groups(problem: Problem) -> list[tuple[str, ...]]:
    """Units that are tied together, and all others alone."""
    tied = [tuple(sorted(group)) for group in problem.ties]
    inside = {unit for group in tied for unit in group}
    return [*tied, *((unit,) for unit in problem.options if unit not in inside)]


def _group_states(problem: Problem, group: Sequence[str], resource: str, minimise: str) -> list[_State]:
    """Undominated choices for a group: for each activation format, those of its units combined."""
    formats: Mapping[str | None, None] = dict.fromkeys(
        option.candidate.activations for unit in group for option in problem.options[unit]
    )
    found: list[_State] = []
    for wanted in formats if len(group) > 1 else [None]:
        states: list[_State] = [(0.0, 0.0, ())]
        for unit in group:
            options = [o for o in problem.options[unit] if len(group) == 1 or o.candidate.activations == wanted]
            states = _undominated(_extended(state, unit, o, resource, minimise) for state in states for o in options)
        found += states
    return _undominated(found)


def _extended(state: _State, unit: str, option: Option, resource: str, minimise: str) -> _State:
    cost, value, chosen = state
    return cost + option.values[resource], value + option.values[minimise], (*chosen, (unit, option.candidate))


def _undominated(states: object) -> list[_State]:
    """States of rising cost and falling objective."""
    kept: list[_State] = []
    for state in sorted(states, key=lambda s: s[:2]):  # type: ignore[call-overload]
        if not kept or state[1] < kept[-1][1]:
            kept.append(state)
    return kept
