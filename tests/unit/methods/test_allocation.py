"""The integer programme against brute force and dynamic programming; costs against a real artifact's size."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pennyweight as pw
from oracles.knapsack import best_by_enumeration
from pennyweight.errors import InfeasibleBudgetError, MethodError
from pennyweight.methods.allocation.costs import latency_of
from pennyweight.methods.allocation.dynamic_program import allocate_by_dynamic_program
from pennyweight.methods.allocation.frontier import budget_plans, plan_of, random_plan, uniform_plans
from pennyweight.methods.allocation.integer_program import allocate
from pennyweight.methods.allocation.problem import DEGRADATION, Candidate, Option, Problem
from pennyweight.methods.allocation.replay import Replay
from pennyweight.methods.allocation.sensitivity import Sensitivity, kl_divergence
from pennyweight.numerics.random import Key

CANDIDATES = tuple(Candidate.parse(text) for text in ("w8a8", "w4a8", "w4a4", "w2a4"))


def problem_of(table: list[list[tuple[float, float]]], ties: tuple[frozenset[str], ...] = ()) -> Problem:
    """A problem from (degradation, size) by unit and candidate."""
    return Problem(
        options={
            f"u{index}": [
                Option(candidate=c, values={DEGRADATION: d, "size_bytes": s, "bops": s * s})
                for c, (d, s) in zip(CANDIDATES, row, strict=False)
            ]
            for index, row in enumerate(table)
        },
        ties=ties,
    )


def plain(problem: Problem) -> dict[str, list[tuple[str | None, str | None, dict[str, float]]]]:
    return {
        unit: [(o.candidate.weights, o.candidate.activations, dict(o.values)) for o in options]
        for unit, options in problem.options.items()
    }


values = st.floats(0.0, 10.0, allow_nan=False).map(lambda v: round(v, 3))
sizes = st.integers(1, 50).map(float)
tables = st.lists(st.lists(st.tuples(values, sizes), min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(tables, st.floats(0.0, 1.0), st.booleans())
def test_three_ways_agree(table: list[list[tuple[float, float]]], share: float, tied: bool) -> None:
    full = [row for row in table if len(row) == 4]
    problem = problem_of(full or table, (frozenset({"u0", "u1"}),) if tied and len(full) > 1 else ())
    least = sum(min(o.values["size_bytes"] for o in options) for options in problem.options.values())
    most = sum(max(o.values["size_bytes"] for o in options) for options in problem.options.values())
    limit = least * 0.9 + share * (most - least * 0.9)
    expected = best_by_enumeration(plain(problem), {"size_bytes": limit}, DEGRADATION, problem.ties)
    if expected is None:
        lowest = best_by_enumeration(plain(problem), {}, "size_bytes", problem.ties)
        for solve in (
            lambda: allocate(problem, {"size_bytes": limit}),
            lambda: allocate_by_dynamic_program(problem, "size_bytes", limit),
        ):
            with pytest.raises(InfeasibleBudgetError) as caught:
                solve()
            assert lowest is not None
            assert math.isclose(caught.value.least, lowest, rel_tol=1e-9)
        return
    for plan in (allocate(problem, {"size_bytes": limit}), allocate_by_dynamic_program(problem, "size_bytes", limit)):
        assert plan.values["size_bytes"] <= limit
        assert math.isclose(plan.predicted, expected, rel_tol=1e-6, abs_tol=1e-9)
        for group in problem.ties:
            assert len({plan.choice[unit].activations for unit in group}) == 1


def toy(units: int, seed: int = 0) -> Problem:
    """Degradation rises and size falls from candidate to candidate."""
    generator = torch.Generator().manual_seed(seed)
    table = []
    for _ in range(units):
        hurt, size = torch.rand(2, generator=generator).tolist()
        table.append([(0.0, 800 * size), (hurt, 400 * size), (2 * hurt, 400 * size - 1), (5 * hurt, 200 * size)])
    return problem_of(table)


def test_two_limits_and_a_bound_on_degradation() -> None:
    problem = toy(5)
    limits = {"size_bytes": 1200.0, "bops": 500_000.0}
    plan = allocate(problem, limits)
    assert all(plan.values[name] <= limit for name, limit in limits.items())
    assert math.isclose(plan.predicted, best_by_enumeration(plain(problem), limits, DEGRADATION) or -1)
    bound = {DEGRADATION: 1.5}
    saving = allocate(problem, bound, minimise="size_bytes")
    assert saving.predicted <= 1.5
    assert math.isclose(saving.values["size_bytes"], best_by_enumeration(plain(problem), bound, "size_bytes") or -1)


def test_monotone_scale_free_and_generous() -> None:
    problem = toy(8)
    full = problem.total(dict.fromkeys(problem.options, CANDIDATES[0]), "size_bytes")
    found = [allocate(problem, {"size_bytes": share * full}).predicted for share in (0.3, 0.4, 0.6, 0.8, 1.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0.0
    scaled = Problem(
        options={
            unit: [
                Option(candidate=o.candidate, values={**o.values, DEGRADATION: 1e-4 * o.values[DEGRADATION]})
                for o in os
            ]
            for unit, os in problem.options.items()
        }
    )
    budget = {"size_bytes": 0.5 * full}
    assert allocate(scaled, budget).choice == allocate(problem, budget).choice


def test_the_plan_beats_random_plans_and_uniform_ones() -> None:
    problem = toy(10)
    limit = {"size_bytes": 2500.0}
    best = allocate(problem, limit)
    for index in range(30):
        drawn = random_plan(problem, limit, Key(3).fold(index))
        assert drawn is not None
        assert drawn.values["size_bytes"] <= 2500.0
        assert best.predicted <= drawn.predicted + 1e-9
    uniform = uniform_plans(problem)
    assert [len(set(plan.choice.values())) for plan in uniform] == [1, 1, 1, 1]
    frontier, unmet = budget_plans(problem, "size_bytes", [1.0, 2000.0, 3000.0])
    assert [budget for budget, _ in frontier] == [2000.0, 3000.0]
    assert unmet == [1.0]
    assert random_plan(problem, {"size_bytes": 1.0}, Key(0)) is None


def test_excluded_plans_do_not_come_back() -> None:
    problem = toy(4)
    limit = {"size_bytes": 900.0}
    plans = []
    for _ in range(3):
        plans.append(allocate(problem, limit, excluded=[plan.choice for plan in plans]))
    assert len({tuple(plan.choice.values()) for plan in plans}) == 3
    assert [plan.predicted for plan in plans] == sorted(plan.predicted for plan in plans)
    assert plans[0].differs_from(plans[1])


def test_refusals() -> None:
    with pytest.raises(MethodError, match="'w9000'"):
        Candidate.parse("w9000")
    with pytest.raises(MethodError, match="no budget"):
        pw.BitAllocation(candidates=("w8a8", "w4a4"))
    with pytest.raises(MethodError, match="at least 2 different"):
        pw.BitAllocation(candidates=("w8a8", "int8/int8"), size_ratio=0.1)
    with pytest.raises(MethodError, match="size_ratio=0"):
        pw.BitAllocation(candidates=("w8a8", "w4a4"), size_ratio=0)
    with pytest.raises(MethodError, match="latency_ms needs latency_table"):
        pw.BitAllocation(candidates=("w8a8", "w4a4"), latency_ms=1.0)
    with pytest.raises(MethodError, match="'conv' as int4/int8"):
        latency_of({"conv": {"int8/int8": 1.0}}, "conv", Candidate.parse("w4a8"))
    assert Candidate.parse("int4/float").bits == (4, 32)


def test_what_has_no_effect_is_refused() -> None:
    two = {"candidates": ("w8a8", "w4a4"), "size_ratio": 0.2}
    with pytest.raises(MethodError, match="minimise='bops' has no effect without max_degradation"):
        pw.BitAllocation(**two, minimise="bops")
    with pytest.raises(MethodError, match="latency_table has no effect"):
        pw.BitAllocation(**two, latency_table="table.json")
    for method in (pw.RoundToNearest, pw.AdaQuant):
        with pytest.raises(MethodError, match="activations='uint4' has no effect beside a BitAllocation"):
            method(weights=pw.BitAllocation(**two), activations="uint4")
        with pytest.raises(MethodError, match=r"percentile=99\.0 has no effect"):
            method(percentile=99.0)
        assert method(percentile=99.0, weight_range="percentile").percentile == 99.0


def test_the_order_of_candidates_says_nothing() -> None:
    one = pw.BitAllocation(candidates=("w8a8", "w4a8", "w4a4", "float"), size_ratio=0.2)
    other = pw.BitAllocation(candidates=("w4a4", "float", "w8a8", "w4a8"), size_ratio=0.2)
    assert one.parsed() == other.parsed()
    assert [str(c) for c in one.parsed()] == ["float/float", "int8/int8", "int4/int8", "int4/int4"]


def test_budgets_of_the_frontier_that_nothing_meets_are_named() -> None:
    allocation = pw.BitAllocation(candidates=("w8a8", "w4a8"), size_ratio=0.2, frontier=(0.01, 0.2), max_samples=4)
    applied = pw.apply_(net(), pw.RoundToNearest(weights=allocation), data=[IMAGES])
    assert applied.metrics["allocation.frontier_unmet"] == "0.01"
    assert sum(row["kind"] == "plan" for row in applied.tables["Frontier"]) == 2


IMAGES = (torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float() - 128) / 128


def net() -> nn.Module:
    model = pw.create_model("vgg-small", width=4, input_shape=(3, 16, 16)).train()
    with torch.no_grad():
        for _ in range(3):
            model(IMAGES)
    return model.eval()


ALLOCATION = pw.BitAllocation(
    candidates=("w8a8", "w4a8", "w2a8"), size_ratio=0.15, refine=2, frontier=(0.1, 0.2), random_plans=2
)


@pytest.mark.parametrize("method", [pw.RoundToNearest(weights=ALLOCATION), pw.AdaQuant(weights=ALLOCATION, steps=5)])
def test_methods_allocate(method: pw.Method, tmp_path: Path) -> None:
    model = net()
    applied = pw.apply_(model, method, data=[IMAGES], folder=tmp_path / "work")
    assert not isinstance(applied, list)
    formats = {key: value for key, value in applied.metrics.items() if key.endswith(".formats")}
    assert len(formats) == len(applied.changed)
    assert len(set(formats.values())) > 1
    assert isinstance(applied.metrics["allocation.predicted"], float)
    assert applied.metrics["allocation.measured"] >= 0
    assert {row["kind"] for row in applied.tables["Frontier"]} == {"plan", "uniform", "random"}
    with torch.no_grad():
        expected = model(IMAGES)
    artifact = pw.export(model, tmp_path / "mixed.pw", example_input=IMAGES[:2])
    assert torch.equal(artifact.model()(IMAGES), expected)
    # The budget's bytes are those of the artifact's tensors; the manifest comes on top.
    stored = sum(row.size_bytes for row in artifact.layers)
    assert abs(stored - float(applied.metrics["allocation.size_bytes"])) <= 0.02 * stored
    # A second call with the same folder finds everything done.
    again = net()
    second = pw.apply_(again, method, data=[IMAGES], folder=tmp_path / "work")
    assert not isinstance(second, list)
    assert second.metrics == applied.metrics
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_an_infeasible_budget_says_what_is_possible() -> None:
    with pytest.raises(InfeasibleBudgetError, match=r"size_bytes <= .* least achievable is \d+"):
        pw.apply_(
            net(),
            pw.RoundToNearest(weights=pw.BitAllocation(candidates=("w8a8", "w4a8"), size_ratio=0.01)),
            data=[IMAGES],
        )


class InPlace(nn.Module):
    """Everything a careless replay would get wrong: values written to after they were remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.a(x))
        y = self.b(x)
        y += x
        return self.c(torch.relu_(y))


@pytest.mark.parametrize("max_bytes", [0, 150, 250, None])  # a value has 3 x 4 float32, in two batches
@pytest.mark.parametrize("changed", ["a", "b", "c"])
def test_replay_equals_a_whole_run(changed: str, max_bytes: int | None) -> None:
    model, x = InPlace().eval(), torch.randn(3, 4)
    replay = Replay(model, [x, 2 * x], max_bytes=max_bytes)
    replay.outputs()
    remembered = sum(value.nbytes for values in replay._values for value in values.values())
    assert max_bytes is None or remembered <= max_bytes
    for _ in range(2):
        with torch.no_grad():
            model.get_submodule(changed).weight.add_(0.1)  # type: ignore[operator]
            expected = [model(x), model(2 * x)]
        for got, wanted in zip(replay.outputs(changed), expected, strict=True):
            assert torch.equal(got, wanted)


def test_replay_runs_nothing_it_knows() -> None:
    model, x = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)]), torch.randn(3, 4)
    ran: list[int] = []
    for index, layer in enumerate(model):
        layer.register_forward_hook(lambda *_args, index=index: ran.append(index))
    replay = Replay(model, [x])
    replay.outputs()
    ran.clear()
    replay.outputs("2")
    assert ran == [2, 3]


def test_kl_and_the_table(tmp_path: Path) -> None:
    p, q = torch.randn(5, 7), torch.randn(5, 7)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p.double()), torch.distributions.Categorical(logits=q.double())
    ).sum()
    torch.testing.assert_close(kl_divergence(p, q), wanted)
    assert float(kl_divergence(p, p)) == 0.0
    applied = pw.apply_(net(), pw.RoundToNearest(weights=ALLOCATION), data=[IMAGES])
    assert not isinstance(applied, list)
    table = Sensitivity("kl", 0.25, ())
    table.to_csv(tmp_path / "s.csv")
    assert Sensitivity.from_csv(tmp_path / "s.csv") == table
    (tmp_path / "s.csv").write_text("nonsense")
    with pytest.raises(MethodError, match="no table of sensitivities"):
        Sensitivity.from_csv(tmp_path / "s.csv")


def test_a_plan_of_a_given_choice() -> None:
    problem = toy(2)
    plan = plan_of(problem, dict.fromkeys(problem.options, CANDIDATES[1]), "mine")
    assert plan.predicted == problem.total(plan.choice, DEGRADATION)
