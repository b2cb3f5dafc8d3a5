"""Unbiased pruning: exact expectations, the least variance by two solvers, and the edges of float32."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles.nm_sparsity import (
    exact_probabilities,
    exact_variance,
    expectation,
    least_square_by_linear_program,
    least_variance_by_solver,
)
from pennyweight.errors import NumericsError
from pennyweight.masks.mvue import keep_probabilities, mvue, mvue_variance, systematic
from pennyweight.masks.nm import NM, is_nm
from pennyweight.numerics.random import Key

KEY = Key(0).fold("test")
GROUPS = [
    [0.1, 0.2, 0.3, 4.0], [1.0, 1.0, 1.0, 1.0], [3.0, -2.0, 0.5, 0.0], [1.0, -1.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0],
    [2.0, 1.0, 1.0, 1.0], [1e-3, -1.0, 1e3, 7.0, -7.0], [0.3, 0.3, -0.9, 2.0, 1.1, 0.7], [1.0, 2.0], [0.25, -0.5, 4.0],
]  # fmt: skip


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cases() -> list[tuple[list[float], int]]:
    return [(group, n) for group in GROUPS for n in range(1, len(group))]


def variance(group: list[float], n: int, method: str = "systematic") -> float:
    return float(mvue_variance(torch.tensor([group], dtype=torch.float64), NM(n, len(group)), method=method).sum())  # type: ignore[arg-type]


@pytest.mark.parametrize(("group", "n"), cases())
def test_the_expectation_over_u_is_the_group_and_the_variance_the_closed_form(group: list[float], n: int) -> None:
    x = torch.tensor([group], dtype=torch.float64)
    mean, square = expectation(group, n, lambda u: systematic(x, torch.tensor([u], dtype=torch.float64), n)[0].tolist())
    assert np.allclose(mean, group, rtol=1e-12, atol=1e-12)
    found = mvue_variance(x, NM(n, len(group)))[0].numpy()
    assert np.allclose(
        np.array(square) - np.array(group) ** 2, found, rtol=1e-9, atol=1e-9 * float(np.max(np.square(group)))
    )
    assert variance(group, n) == pytest.approx(float(exact_variance(group, n)), rel=1e-12, abs=1e-12)
    marginals = [float(p) for p in exact_probabilities(group, n)]
    assert keep_probabilities(x, NM(n, len(group)))[0].tolist() == pytest.approx(marginals, rel=1e-12)


@pytest.mark.parametrize(("group", "n"), [(g, n) for g, n in cases() if 0.0 not in g])
def test_no_marginals_have_less_variance(group: list[float], n: int) -> None:
    assert variance(group, n) <= least_variance_by_solver(group, n) * (1 + 1e-6) + 1e-9
    rng = np.random.default_rng(0)
    subsets = list(itertools.combinations(range(len(group)), n))
    for design in rng.dirichlet(np.full(len(subsets), 0.5), size=100):
        p = np.zeros(len(group))
        for subset, share in zip(subsets, design, strict=True):
            p[list(subset)] += share
        if (p > 0).all():  # Horvitz and Thompson's estimator of this design
            assert variance(group, n) <= float((np.square(group) * (1 / p - 1)).sum()) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize(
    ("group", "n"), [([3.0, 1.0], 1), ([2.0, 1.0, 0.5], 1), ([2.0, 1.0, 0.5], 2), ([0.1, 0.2, 0.3, 4.0], 2)]
)
def test_no_joint_distribution_of_places_and_values_has_less(group: list[float], n: int) -> None:
    """Not even one whose values vary: the grid holds the optimum and values around it."""
    marginals = exact_probabilities(group, n)
    grid = [
        sorted({float(x / p) * factor for factor in (0.5, 0.9, 1.0, 1.1, 2.0, 4.0)})
        for x, p in zip(group, (float(p) for p in marginals), strict=True)
    ]
    least = least_square_by_linear_program(group, n, grid)
    assert variance(group, n) + float(np.square(group).sum()) == pytest.approx(least, rel=1e-7)


def test_closed_forms_of_one_of_two_and_two_of_four() -> None:
    assert variance([3.0, -2.0], 1) == pytest.approx(12.0)
    even = [1.0, 2.0, -1.5, 2.5]
    assert variance(even, 2) == pytest.approx(7.0**2 / 2 - sum(x * x for x in even))
    heavy = [0.1, 0.2, 0.3, 4.0]
    assert variance(heavy, 2) == pytest.approx(0.6**2 - 0.14)


def test_coarser_constraints_are_never_worse_and_two_draws_at_most_twice() -> None:
    for seed in range(20):
        x = normal(1, 8, seed=seed).exp().double()
        by_m = [float(mvue_variance(x, NM(m // 2, m)).sum()) for m in (8, 4, 2)]
        assert by_m == sorted(by_m)
        assert by_m[1] <= float(mvue_variance(x, NM(2, 4), method="approximate").sum()) <= 2 * by_m[1] + 1e-12


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("pattern", [NM(1, 2), NM(2, 4), NM(4, 8), NM(3, 5), NM(8, 16)], ids=str)
@pytest.mark.parametrize("shape", [(32, 48), (7, 13), (1, 3)])
def test_what_every_draw_keeps(pattern: NM, axis: int, shape: tuple[int, int]) -> None:
    x = normal(*shape).exp() * normal(*shape, seed=1).sign()
    x[0, 0] = 0.0
    pruned = mvue(x, pattern, KEY, axis)
    assert is_nm(pruned, pattern, axis)
    stays = pruned != 0
    assert torch.equal(pruned[stays].sign(), x[stays].sign())
    assert float(pruned[0, 0]) == 0.0
    assert bool((pruned[stays].abs() >= x[stays].abs()).all())
    assert torch.equal(pruned, mvue(x, pattern, KEY, axis))
    if shape != (1, 3) and shape[axis] > pattern.n:
        assert any(not torch.equal(pruned, mvue(x, pattern, KEY.fold(k), axis)) for k in range(5))


@pytest.mark.parametrize("method", ["systematic", "approximate"])
def test_draws_average_to_the_matrix_with_the_variance_of_the_closed_form(method: str) -> None:
    x = normal(1, 64).exp() * normal(1, 64, seed=1).sign()
    draws = 4000
    many = mvue(x.expand(draws, 64), NM(2, 4), KEY, 1, method).double()  # type: ignore[arg-type]
    variances = mvue_variance(x, NM(2, 4), 1, method)[0]  # type: ignore[arg-type]
    z = (many.mean(0) - x[0]) / (variances / draws).sqrt().clamp(min=1e-9)
    assert float(z.abs().max()) < 4.5
    assert torch.allclose(many.var(0).sum(), variances.sum(), rtol=0.05)


def test_the_update_product_converges_to_the_dense_one() -> None:
    """dW from pruned gradients, averaged over K keys, comes near the dense dW as 1 / sqrt(K)."""
    g, activations = normal(64, 8), normal(64, 12, seed=1)
    dense = g.t() @ activations

    def error(draws: int, start: int) -> float:
        mean = sum(mvue(g, NM(2, 4), KEY.fold(start + k), 0).t() @ activations for k in range(draws)) / draws
        return float((mean - dense).norm() / dense.norm())

    few, many = (np.mean([error(k, 1000 * r) for r in range(4)]) for k in (4, 64))
    assert 3.0 < few / many < 5.3
    greedy = mvue(g, NM(2, 4), KEY, 0, "greedy").t() @ activations
    assert float((greedy - dense).norm() / dense.norm()) > 2 * many  # and no averaging helps it


def test_powers_of_two_commute_exactly() -> None:
    x = normal(8, 16).exp()
    for shift in (-100, -7, 5, 100):
        scale = 2.0**shift
        assert torch.equal(mvue(x * scale, NM(2, 4), KEY), mvue(x, NM(2, 4), KEY) * scale)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.0, 3e-39])
def test_equal_values_stay_with_probability_n_over_m(value: float) -> None:
    x = torch.full((64, 8), value)
    pruned = mvue(x, NM(2, 4), KEY)
    if value == 0.0:
        assert torch.equal(pruned, torch.zeros_like(x))
        return
    counts = (pruned != 0).reshape(-1, 4).sum(1)
    assert bool((counts == 2).all())
    assert torch.equal(pruned[pruned != 0].unique(), 2 * x[0, :1])


def test_groups_with_no_more_than_n_nonzeros_stay_as_they_are() -> None:
    x = torch.tensor([[1e38, 1e-38, 0.0, 0.0, 0.0, 0.0, 0.0, -3.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.3]])
    for key in range(50):
        assert torch.equal(mvue(x, NM(2, 4), Key(key)), x)
        assert torch.equal(mvue(x.double(), NM(2, 4), Key(key)), x.double())


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(5, 7), NM(16, 32)], ids=str)
def test_sizes_over_the_whole_range_of_float32_never_keep_too_many(pattern: NM) -> None:
    exponents = normal(512, pattern.m) * 120
    x = torch.exp2(exponents.clamp(-149, 120)) * normal(512, pattern.m, seed=1).sign()
    x[:, 1:6] = 1e-45  # what underflows once it is scaled by the largest
    for key in range(4):
        pruned = mvue(x, pattern, Key(key))
        assert is_nm(pruned, pattern)
        assert bool(torch.isfinite(pruned).all())


def test_huge_sums_do_not_overflow_unless_the_kept_value_does() -> None:
    x = torch.full((1, 4), 3e38)
    assert mvue(x, NM(3, 4), KEY).abs().amax().item() == math.inf  # 4e38 is no float32
    x = torch.tensor([[3e38, 1e38, 1e38, 1e38]])
    assert float(mvue(x, NM(2, 4), KEY).abs().amax()) == pytest.approx(3e38)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_stay_what_they_are(dtype: torch.dtype) -> None:
    x = normal(8, 16).to(dtype)
    pruned = mvue(x, NM(2, 4), KEY)
    assert pruned.dtype == dtype
    assert torch.equal(pruned, mvue(x.float(), NM(2, 4), KEY).to(dtype)) or dtype == torch.float64


def test_greedy_is_the_mask_by_magnitude_and_its_variance_the_lost_square() -> None:
    x = torch.tensor([[4.0, 1.0, -3.0, 2.0]])
    assert mvue(x, NM(2, 4), KEY, method="greedy").tolist() == [[4.0, 0.0, -3.0, 0.0]]
    assert float(mvue_variance(x, NM(2, 4), method="greedy").sum()) == 5.0


def test_a_quadratic_descends_to_the_right_point_unbiased_and_to_a_wrong_one_greedily() -> None:
    """One step size, gradients w - target + noise of four coordinates pruned to one: greedy never moves the small."""
    target = torch.tensor([[4.0, 0.3, 0.2, 0.1]])
    tilt = torch.tensor([[1.0, 0.0, 0.0, 0.0]])  # of alternating sign: it averages to nothing

    def descend(method: str) -> Tensor:
        w, mean = target.clone() * 0, target.clone() * 0
        w[0, 0] = 4.0
        for step in range(600):
            gradient = w - target + tilt * (1 if step % 2 else -1)
            w = w - 0.1 * mvue(gradient, NM(1, 4), KEY.fold(step), method=method)  # type: ignore[arg-type]
            mean += w * (step >= 100) / 500
        return mean

    assert float((descend("systematic") - target).abs().max()) < 0.12
    assert torch.equal(descend("greedy")[0, 1:], torch.zeros(3))  # exactly where they began


def test_refusals() -> None:
    with pytest.raises(NumericsError, match="the matrix to prune holds nan"):
        mvue(torch.tensor([[1.0, math.nan]]), NM(1, 2), KEY)
    with pytest.raises(NumericsError, match="2:m, not to 4:8"):
        mvue(normal(2, 8), NM(4, 8), KEY, method="approximate")
    with pytest.raises(NumericsError, match="axis=3"):
        mvue(normal(2, 8), NM(4, 8), KEY, 3)


def test_empty_matrices() -> None:
    for shape, method in itertools.product([(0, 4), (4, 0)], ["systematic", "approximate", "greedy"]):
        assert mvue(torch.zeros(shape), NM(2, 4), KEY, method=method).shape == shape  # type: ignore[arg-type]
