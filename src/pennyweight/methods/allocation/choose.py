"""From solved layers to a plan in place: sensitivities, programme, measurement, refinement, and the report's tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.allocation.allocation import BitAllocation, without_large_inputs
from pennyweight.methods.allocation.costs import costs_of, latency_of
from pennyweight.methods.allocation.frontier import budget_plans, frontier_row, random_plan, uniform_plans
from pennyweight.methods.allocation.integer_program import allocate
from pennyweight.methods.allocation.problem import DEGRADATION, Candidate, Option, Plan, Problem
from pennyweight.methods.allocation.sensitivity import (
    METRICS,
    Meter,
    Sensitivity,
    measure_sensitivity,
    outputs_of,
)
from pennyweight.methods.allocation.states import LayerState, apply_state_
from pennyweight.methods.base import Context
from pennyweight.nn.calling import num_samples, take_samples
from pennyweight.nn.execution import Execution, Layer
from pennyweight.nn.gemm import GemmModule
from pennyweight.numerics.affine import parse_granularity
from pennyweight.numerics.random import Key

_BATCH = 64
States = Mapping[tuple[str, Candidate], LayerState]


@dataclass(frozen=True, kw_only=True)
class Allocated:
    """What came of an allocation.

    Args:
        plan: in place in the model, measured.
        sensitivity: of every layer and candidate.
        tables: for the report.
        metrics: for the manifest.
    """

    plan: Plan
    sensitivity: Sensitivity
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    metrics: Mapping[str, float | str]


def choose_(
    allocation: BitAllocation,
    model: nn.Module,
    teacher: nn.Module,
    layers: Mapping[str, GemmModule],
    states: States,
    inputs: Tensor | dict[str, Tensor],
    execution: Execution,
    granularity: str,
    context: Context,
) -> Allocated:
    """Measure, choose, and leave the chosen states in the model's layers.

    Args:
        model: changed in place.
        teacher: in float.
        layers: of the model, by name.
        states: of each layer in each of its candidates; a layer with one state keeps it.
        inputs: calibration samples.
        execution: sizes and ties of the layers.

    Raises:
        InfeasibleBudgetError: no plan meets the budgets.
    """
    count = min(allocation.max_samples, num_samples(inputs), 2 if context.rehearsal else 1 << 62)
    batches = [take_samples(inputs, slice(s, min(s + _BATCH, count))) for s in range(0, count, _BATCH)]
    meter = Meter(model, batches, outputs_of(teacher, batches), METRICS[allocation.metric])
    base = {unit: _base(allocation, unit, states) for unit in layers}
    sensitivity = measure_sensitivity(
        meter, layers, states, base, metric=allocation.metric, folder=context.folder, progress=context.progress
    )
    problem = _problem(allocation, layers, states, sensitivity, execution, granularity)
    limits = allocation.limits(_float_values(layers, execution))
    search = problem
    if allocation.activation_bytes is not None:
        search = without_large_inputs(problem, allocation.activation_bytes)

    def measured(plan: Plan) -> float:
        for unit, candidate in plan.choice.items():
            apply_state_(layers[unit], states[unit, candidate])
        return max(meter.measure() - sensitivity.base, 0.0)

    plan = _best(allocation, search, limits, measured)
    rows, unmet = _frontier_rows(allocation, search, limits, plan, _float_values(layers, execution), measured)
    for unit, candidate in plan.choice.items():
        apply_state_(layers[unit], states[unit, candidate])
    return Allocated(
        plan=plan,
        sensitivity=sensitivity,
        tables={"Plan": _plan_rows(plan, problem), "Frontier": rows},
        metrics={
            "allocation.predicted": plan.predicted,
            "allocation.measured": plan.measured if plan.measured is not None else float("nan"),
            "allocation.base": sensitivity.base,
            "allocation.size_bytes": plan.values["size_bytes"],
            "allocation.gap": plan.gap,
            **({"allocation.frontier_unmet": unmet} if unmet else {}),
            **{f"{unit}.formats": str(candidate) for unit, candidate in plan.choice.items()},
        },
    )


def _best(allocation: BitAllocation, problem: Problem, limits: dict[str, float], measured: Any) -> Plan:
    """The programme's plan; of several, the best by measurement."""
    minimise = DEGRADATION
    if allocation.max_degradation is not None:
        limits, minimise = {**limits, DEGRADATION: allocation.max_degradation}, allocation.minimise
    plans: list[Plan] = []
    for _ in range(max(1, allocation.refine)):
        try:
            plans.append(allocate(problem, limits, minimise=minimise, excluded=[plan.choice for plan in plans]))
        except MethodError:
            if not plans:
                raise
            break  # fewer plans than asked for
    plans = [replace(plan, measured=measured(plan)) for plan in plans]
    return min(plans, key=lambda plan: plan.measured if plan.measured is not None else float("inf"))


def _base(allocation: BitAllocation, unit: str, states: States) -> Candidate:
    first = allocation.parsed()[0]
    return first if (unit, first) in states else next(c for name, c in states if name == unit)


def _problem(
    allocation: BitAllocation,
    layers: Mapping[str, GemmModule],
    states: States,
    sensitivity: Sensitivity,
    execution: Execution,
    granularity: str,
) -> Problem:
    table = _latency_table(allocation.latency_table)
    sizes = {layer.fqn: layer for layer in execution.layers}
    options: dict[str, list[Option]] = {unit: [] for unit in layers}
    for unit, candidate in states:
        layer = layers[unit]
        costs = costs_of(
            sizes[unit],
            candidate,
            parse_granularity(granularity),
            tuple(layer.weight.shape),
            has_bias=layer.bias is not None,
            latency_ms=None if table is None else latency_of(table, unit, candidate),
        )
        costs["weight_bits"] = float(candidate.bits[0] * sizes[unit].weight_numel)
        costs[DEGRADATION] = sensitivity.degradation(unit, candidate)
        options[unit].append(Option(candidate=candidate, values=costs))
    return Problem(options=options, ties=_ties(sizes, options) if allocation.tie else ())


def _ties(sizes: Mapping[str, Layer], options: Mapping[str, Sequence[Option]]) -> list[frozenset[str]]:
    """Layers that read the same tensor; those without a choice are not tied to anything."""
    groups: dict[int, set[str]] = {}
    for unit, choices in options.items():
        if len(choices) > 1:
            groups.setdefault(sizes[unit].input_group, set()).add(unit)
    return [frozenset(group) for group in groups.values() if len(group) > 1]


def _float_values(layers: Mapping[str, GemmModule], execution: Execution) -> dict[str, float]:
    """Totals of the layers in float32."""
    macs = {layer.fqn: layer.macs for layer in execution.layers}
    weights = sum(layer.weight.numel() for layer in layers.values())
    biases = sum(layer.bias.numel() for layer in layers.values() if layer.bias is not None)
    return {
        "size_bytes": 4.0 * (weights + biases),
        "weights": float(weights),
        "bops": float(sum(macs[unit] for unit in layers) * 32 * 32),
    }


def _latency_table(path: str | None) -> Mapping[str, Mapping[str, float]] | None:
    if path is None:
        return None
    try:
        table = json.loads(Path(path).read_text())
        assert isinstance(table, dict)
        assert all(isinstance(row, dict) for row in table.values())
    except (OSError, ValueError, AssertionError) as error:
        raise MethodError(
            f"latency_table={path!r} cannot be read as unit to candidate to milliseconds: {error}"
        ) from error
    return table


def _plan_rows(plan: Plan, problem: Problem) -> list[dict[str, Any]]:
    """A line a layer, the most hurt first."""
    rows = []
    for unit, candidate in plan.choice.items():
        values = problem.option(unit, candidate).values
        rows.append(
            {"unit": unit, "formats": str(candidate), "degradation": values[DEGRADATION], "bytes": values["size_bytes"]}
        )
    return sorted(rows, key=lambda row: -row["degradation"])


def _frontier_rows(
    allocation: BitAllocation,
    problem: Problem,
    limits: Mapping[str, float],
    plan: Plan,
    float_values: Mapping[str, float],
    measured: Any,
) -> tuple[list[dict[str, Any]], str]:
    """The chosen plan, and what it is compared with where that was asked for; size ratios that no plan meets."""
    rows = [{**frontier_row("plan", plan, limits.get("size_bytes"), None), "measured": plan.measured}]
    unmet: list[float] = []
    if allocation.frontier:
        whole = float_values["size_bytes"]
        found, unmet = budget_plans(problem, "size_bytes", [ratio * whole for ratio in allocation.frontier])
        rows += [frontier_row("plan", p, budget, measured) for budget, p in found]
        unmet = [budget / whole for budget in unmet]
    if allocation.frontier or allocation.random_plans:
        rows += [frontier_row("uniform", p, None, measured) for p in uniform_plans(problem)]
    for index in range(allocation.random_plans):
        drawn = random_plan(problem, limits or {"size_bytes": plan.values["size_bytes"]}, Key(0).fold("plan", index))
        if drawn is not None:
            rows.append(frontier_row("random", drawn, limits.get("size_bytes"), measured))
    return rows, ", ".join(f"{ratio:.3g}" for ratio in unmet)
