"""Affine ranges that stochastic rounding needs: zero on the grid, and both ends within it, so that nothing is clamped.

Ranges for rounding to nearest, where an end may lie half a step beyond the last code, are `affine`'s.
"""

import torch
from torch import Tensor

from pennyweight.numerics.affine import AffineParameters, PerTensor
from pennyweight.numerics.formats import IntFormat


def covering_parameters(low: Tensor, high: Tensor, format: IntFormat) -> AffineParameters:
    """Scale and integer zero point with low and high between the first and the last code's values.

    A grid of 2^b - 1 steps over [low, high], moved to hold zero, would leave one end outside by up to half a step:
    clamping it there would bias the rounded extremes towards zero. One step is spent on the move instead, where zero is
    not a multiple of the step from the ends already. A range of no width gets scale 1.

    Args:
        low: smallest value, a finite number.
        high: largest value.
        format: of at least 3 levels, at most 24 bits.
    """
    assert format.num_levels >= 3, format
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    steps = format.num_levels - 1
    one_sided = (low == 0) | (high == 0)
    usable = torch.where(one_sided, float(steps), float(steps - 1))
    scale = high / usable - low / usable  # the difference itself could overflow
    limits = torch.finfo(torch.float32)
    scale = torch.where(scale > 0, scale.clamp(limits.tiny, limits.max / (steps + 1)), 1.0)
    below = torch.where(high == 0, float(steps), torch.floor(low / scale).neg()).clamp(0, steps)
    zero_point = format.min + torch.where(low == 0, 0.0, below)
    return AffineParameters(scale=scale, zero_point=zero_point, format=format, granularity=PerTensor())
