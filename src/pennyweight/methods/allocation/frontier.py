"""Plans to compare the chosen one with: other budgets, uniform formats, and random plans of the same size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pennyweight.errors import InfeasibleBudgetError
from pennyweight.methods.allocation.integer_program import allocate
from pennyweight.methods.allocation.problem import DEGRADATION, Candidate, Plan, Problem
from pennyweight.numerics.random import Key, permutation, randint

Kind = Literal["plan", "uniform", "random"]


def budget_plans(
    problem: Problem, resource: str, budgets: Sequence[float]
) -> tuple[list[tuple[float, Plan]], list[float]]:
    """The best plan for each budget, and the budgets that nothing meets."""
    found, unmet = [], []
    for budget in sorted(budgets):
        try:
            found.append((budget, allocate(problem, {resource: budget})))
        except InfeasibleBudgetError:
            unmet.append(budget)
    return found, unmet


def uniform_plans(problem: Problem) -> list[Plan]:
    """One plan a candidate: every unit that may have it has it, the others keep their only option."""
    candidates = dict.fromkeys(o.candidate for options in problem.options.values() for o in options if len(options) > 1)
    plans = []
    for candidate in candidates:
        choice = {
            unit: candidate if any(o.candidate == candidate for o in options) else options[0].candidate
            for unit, options in problem.options.items()
        }
        plans.append(plan_of(problem, choice, "uniform"))
    return plans


def random_plan(problem: Problem, limits: Mapping[str, float], key: Key) -> Plan | None:
    """A plan drawn at random that fills the limits: from the cheapest options, units in random order trade up.

    Ties are not heeded. None where not even the cheapest options meet the limits.
    """
    units = list(problem.options)
    resources = list(limits) or ["size_bytes"]
    choice = {
        unit: min(options, key=lambda o: [o.values[name] for name in resources]).candidate
        for unit, options in problem.options.items()
    }
    if any(problem.total(choice, name) > limit for name, limit in limits.items()):
        return None
    for round_number in range(2):  # a second pass fills what the first left
        for index in permutation(len(units), key.fold("order", round_number)).tolist():
            unit = units[index]
            options = problem.options[unit]
            drawn = int(randint(0, len(options), (1,), key.fold("option", round_number, index)))
            trial = {**choice, unit: options[drawn].candidate}
            dearer = all(
                problem.option(unit, trial[unit]).values[name] >= problem.option(unit, choice[unit]).values[name]
                for name in resources
            )
            if dearer and all(problem.total(trial, name) <= limit for name, limit in limits.items()):
                choice = trial
    return plan_of(problem, choice, "random")


def plan_of(problem: Problem, choice: Mapping[str, Candidate], solver: str) -> Plan:
    """A given choice as a plan."""
    quantities = next(iter(problem.options.values()))[0].values
    return Plan(
        choice=choice,
        predicted=problem.total(choice, DEGRADATION),
        values={name: problem.total(choice, name) for name in quantities if name != DEGRADATION},
        solver=solver,
    )


def frontier_row(
    kind: Kind, plan: Plan, budget: float | None, measure: Callable[[Plan], float] | None
) -> dict[str, Any]:
    """A line of the report's table, the degradation measured where a way is given."""
    return {
        "kind": kind,
        "budget": budget,
        "size_bytes": plan.values["size_bytes"],
        "bops": plan.values["bops"],
        "predicted": plan.predicted,
        "measured": None if measure is None else measure(plan),
    }
