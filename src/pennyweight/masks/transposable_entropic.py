"""Transposable masks by entropic optimal transport: all tensor operations, for accelerators and large tiles."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pennyweight.masks.transposable_greedy import greedy_swap


@torch.no_grad()
def entropic_plan(
    tiles: Float[Tensor, "tiles m m"], n: int, *, sharpness: float, iterations: int
) -> Float[Tensor, "tiles m m"]:
    """The fractional plan of row and column sums n and entries of at most 1 that is nearest to exp(sharpness * score).

    Dykstra's projections of the logarithm, in turns onto row sums, column sums and the cap, whose correction is carried
    along. In logarithms nothing overflows, however sharp.

    Args:
        sharpness: of the scores divided by the tile's largest; the sharper, the nearer to the optimum, and the slower.
        iterations: rounds of the three projections.

    Returns:
        Logarithms of the plan.
    """
    largest = tiles.amax(dim=(1, 2), keepdim=True)
    plan = sharpness * tiles.float() / largest.float().clamp(min=torch.finfo(torch.float32).tiny)
    correction = torch.zeros_like(plan)
    target = math.log(n)
    for _ in range(iterations):
        plan = plan - torch.logsumexp(plan, 2, keepdim=True) + target
        plan = plan - torch.logsumexp(plan, 1, keepdim=True) + target
        plan = plan + correction
        correction = plan.clamp(min=0)
        plan = plan - correction
    return plan


@torch.no_grad()
def entropic(
    tiles: Float[Tensor, "tiles m m"], n: int, *, sharpness: float = 100.0, iterations: int = 300
) -> Bool[Tensor, "tiles m m"]:
    """`entropic_plan` rounded: entries kept from the plan's largest down, then completed by swaps.

    Near the optimum, not at it; exp and log differ by a last bit between devices, and so may masks.

    Source: arXiv 2505.23949 (TSENOR), abstract level: entropic regularisation, Dykstra's projections, rounding.

    Deviations: in logarithms; the rounding is this house's greedy order and swaps.
    """
    plan = entropic_plan(tiles, n, sharpness=sharpness, iterations=iterations)
    return greedy_swap(tiles, n, order_by=plan)
