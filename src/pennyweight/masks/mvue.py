"""Unbiased N:M pruning: which elements of a group stay is drawn so that every element keeps its expectation.

The truth that `ops.nm_masks` is held to, bit for bit: float32 operations in a fixed order, and draws that are a
function of the key and the number of the group. Masks by magnitude are `masks.nm`.
"""

from typing import Literal

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.masks.nm import NM, from_groups, nm_mask, require_matrix, to_groups
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.random import Key, uniform

Pruning = Literal["systematic", "approximate", "greedy"]
"""Unbiased with the least variance; unbiased by the paper's two draws (n = 2); the largest magnitudes, biased."""


def mvue(x: Tensor, pattern: NM, key: Key, axis: int = 1, method: Pruning = "systematic") -> Tensor:
    """Prune a matrix to n of each m so that its expectation over keys is the matrix itself, with the least variance.

    An element is kept with probability p = min(1, |x| / tau), where tau makes the p of a group add up to n; kept, it
    becomes x / p, that is x itself or tau with its sign. No unbiased scheme has less variance. One uniform number a
    group decides which ones stay (systematic sampling), so the same key prunes alike on every device.

    Args:
        x: (R, C); halves are computed in float32 and rounded once, at the end.
        pattern: n and m.
        key: of the draws; group g uses element g of `uniform`.
        axis: along which groups run: the one the product sums over.
        method: see `Pruning`.

    Returns:
        (R, C), at most n nonzeros a group; groups with no more than n nonzeros are returned as they are.

    Raises:
        NumericsError: NaN or infinity, no matrix, or "approximate" with n other than 2.

    Source: arXiv 2203.10991, sections 3 and 4; the exact solution for any n:m is the water-filling solution of
        min sum x^2 / p under sum p = n, p <= 1.
    Deviations: exact where the paper's 2:4 is approximate ("approximate" is the paper's). The uniform number has 24
        bits: probabilities are exact to 2^-24.

    Example:
        >>> x = torch.tensor([[3.0, -1.0, 1.0, 1.0]])
        >>> mvue(x, NM(1, 4), Key(0)).abs().sum().item()  # one of the four carries all
        6.0
    """
    require_matrix(x, axis)
    require_finite(x, "the matrix to prune")
    shape = (x.shape[0], x.shape[1])
    if method == "greedy":
        return torch.where(nm_mask(x, pattern, axis), x, torch.zeros_like(x))
    groups = to_groups(x.detach() if x.dtype == torch.float64 else x.detach().float(), pattern.m, axis)
    if method == "approximate":
        kept = _two_draws(groups, pattern, uniform((2, len(groups)), key, x.device))
    else:
        kept = systematic(groups, uniform((len(groups),), key, x.device), pattern.n)
    return from_groups(kept.to(x.dtype), shape, axis)


def systematic(groups: Tensor, u: Tensor, n: int) -> Tensor:
    """Exact minimum-variance pruning of each group for given uniform numbers.

    On a line where each element takes its magnitude, those are kept that hold one of the points tau (u + k).

    Args:
        groups: (G, m), float32 or float64, finite.
        u: (G,) in [0, 1).
        n: kept of each group.

    Returns:
        (G, m).
    """
    sizes, up = _sizes(groups)
    u = u.to(groups.dtype)
    tau = water_level(sizes, n)
    certain = [_certain(size, tau) for size in sizes]
    left = n - _sum([column.to(tau.dtype) for column in certain])
    point, reached, slots = u * tau, torch.zeros_like(tau), torch.full_like(tau, n)
    kept = []
    for x, size, sure in zip(groups.unbind(1), sizes, certain, strict=True):
        reached = reached + torch.where(sure, 0, size)
        hit = ~sure & (reached > point) & (left > 0)
        point = torch.where(hit, point + tau, point)
        left = left - hit.to(tau.dtype)
        sure = sure & (slots > 0)  # never more than n, whatever rounding did to tau
        slots = slots - sure.to(tau.dtype)
        kept.append(torch.where(sure, x, torch.where(hit, torch.copysign(tau * up, x), 0)))
    return torch.stack(kept, 1)


def water_level(sizes: list[Tensor], n: int) -> Tensor:
    """The tau at which sum min(1, size / tau) = n; where no more than n sizes are positive, any below them all.

    Args:
        sizes: the m magnitudes, each (G,).
        n: kept of each group.

    Returns:
        (G,).
    """
    total = _sum(sizes)
    tau = total / torch.full_like(total, n)  # by a tensor: a GPU multiplies by the reciprocal of a number
    for _ in range(n - 1):  # each pass but the last finds at least one more that is certain to stay
        certain = [_certain(size, tau) for size in sizes]
        left = n - _sum([column.to(tau.dtype) for column in certain])
        rest = _sum([torch.where(sure, 0, size) for sure, size in zip(certain, sizes, strict=True)])
        lower = torch.where(left > 0, rest / left, tau)
        if torch.equal(lower, tau):
            break
        tau = lower
    return tau


def _certain(size: Tensor, tau: Tensor) -> Tensor:
    return (size >= tau) & (size > 0)


def _sum(columns: list[Tensor]) -> Tensor:
    """In order: the sum's bits are part of the definition."""
    total = columns[0]
    for column in columns[1:]:
        total = total + column
    return total


def _sizes(groups: Tensor) -> tuple[list[Tensor], Tensor]:
    """Magnitudes of each place of the groups, scaled by 2^-8 where their sum would overflow; and what undoes it."""
    columns = list(groups.abs().unbind(1))
    scaled = torch.isinf(_sum(columns))
    down, up = (1.0 + scaled.to(groups.dtype) * (factor - 1.0) for factor in (2.0**-8, 2.0**8))
    return [column * down for column in columns], up


def _two_draws(groups: Tensor, pattern: NM, u: Tensor) -> Tensor:
    """The paper's approximate scheme: one element in proportion to its size, then another of the rest likewise."""
    probabilities = _two_draw_probabilities(groups, pattern)
    sizes = groups.abs().double()
    first = _drawn(sizes, u[0])
    second = _drawn(sizes.scatter(1, first[:, None], 0.0), u[1])
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen.scatter_(1, first[:, None], True).scatter_(1, second[:, None], True)
    chosen &= sizes > 0
    return torch.where(chosen, groups.double() / probabilities.clamp(min=1e-300), 0.0).to(groups.dtype)


def _drawn(sizes: Tensor, u: Tensor) -> Tensor:
    """The element each group draws in proportion to size; the last that has any where rounding leaves none."""
    line = sizes.cumsum(1)
    beyond = line > u[:, None].double() * line[:, -1:]
    last = torch.where(sizes > 0, torch.arange(sizes.shape[1], device=sizes.device), 0).amax(1)
    return torch.where(beyond.any(1), beyond.to(torch.uint8).argmax(1), last)


def _two_draw_probabilities(groups: Tensor, pattern: NM) -> Tensor:
    """p_i = a_i / S (1 + sum over j != i of a_j / (S - a_j)), each S - a_j summed from the others."""
    if pattern.n != 2:
        raise NumericsError(f"the approximate scheme draws two elements: it prunes to 2:m, not to {pattern}")
    sizes = groups.abs().double()
    sizes = sizes / sizes.amax(1, keepdim=True).clamp(min=1e-300)
    m = sizes.shape[1]
    others = torch.stack([sizes[:, [j for j in range(m) if j != i]].sum(1) for i in range(m)], 1)
    ratios = torch.where(others > 0, sizes / others.clamp(min=1e-300), 0.0)
    total = sizes.sum(1, keepdim=True).clamp(min=1e-300)
    return sizes / total * (1 + ratios.sum(1, keepdim=True) - ratios)


def keep_probabilities(x: Tensor, pattern: NM, axis: int = 1, method: Pruning = "systematic") -> Tensor:
    """With what probability each element stays, in float64.

    Returns:
        (R, C), in [0, 1]; zeros never stay.

    Example:
        >>> keep_probabilities(torch.tensor([[3.0, 1.0, 1.0, 1.0]]), NM(2, 4)).round(decimals=3).tolist()
        [[1.0, 0.333, 0.333, 0.333]]
    """
    require_matrix(x, axis)
    require_finite(x, "the matrix to prune")
    shape = (x.shape[0], x.shape[1])
    if method == "greedy":
        return nm_mask(x, pattern, axis).double()
    groups = to_groups(x.detach().double(), pattern.m, axis)
    if method == "approximate":
        return from_groups(_two_draw_probabilities(groups, pattern).clamp(max=1.0), shape, axis)
    columns, _ = _sizes(groups)
    tau, sizes = water_level(columns, pattern.n)[:, None], torch.stack(columns, 1)
    certain = _certain(sizes, tau)
    return from_groups(torch.where(certain, 1.0, sizes / torch.where(tau > 0, tau, 1.0)), shape, axis)


def mvue_variance(x: Tensor, pattern: NM, axis: int = 1, method: Pruning = "systematic") -> Tensor:
    """Variance of each pruned element, x^2 (1 / p - 1), in float64; of "greedy" the squared bias instead.

    The sum over a matrix is E |B(x) - x|^2. Least for "systematic"; "approximate" never has twice as much, and "greedy"
    has less than both, but it is bias, which no averaging over steps takes away.

    Returns:
        (R, C).

    Source: arXiv 2203.10991, section 3.

    Example:
        >>> mvue_variance(torch.tensor([[3.0, 2.0]]), NM(1, 2)).sum().item()  # 2 |a| |b|
        12.0
    """
    kept = keep_probabilities(x, pattern, axis, method)
    squared = x.detach().double().square()
    if method == "greedy":
        return torch.where(kept > 0, 0.0, squared)
    return torch.where(kept > 0, squared * (1 / torch.where(kept > 0, kept, 1.0) - 1), 0.0)
