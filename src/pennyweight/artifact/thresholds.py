"""Fold what stands between two binary layers into one integer comparison a channel.

The threshold is found by evaluating the module's own floating-point expression at the integers it can meet, never by
solving its formula: so the packed bit equals the bit the unpacked module computes, rounding and all.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pennyweight.errors import ArtifactError

Expression = Callable[[Tensor], Tensor]
MAX_EXHAUSTIVE = 1 << 14
_BLOCK_VALUES = 1 << 22


@torch.no_grad()
def fold_thresholds(expression: Expression, low: int, high: int, step: int, channels: int) -> tuple[Tensor, Tensor]:
    """Thresholds t with: the expression's sign bit is (z >= t), or (z <= t) where the channel is descending.

    Args:
        expression: (rows, channels) float integers -> (rows, channels) values, elementwise and monotone in each
            channel; its bit is value >= 0.
        low: smallest integer the product can take.
        high: largest integer.
        step: distance of neighbouring integers the product can take; 2 for a sum of an even or odd count of signs.
        channels: outputs of the layer.

    Returns:
        (channels,) int32 thresholds and (channels,) bool, True where the bit is (z <= t). A bit that is always set
        has t = low, ascending; one that is never set t = high + 1.

    Raises:
        ArtifactError: the expression is not monotone in some channel.

    Source: arXiv 1602.02830, section 3 (integer compare); 0.2 of its batch norm folding is replaced by evaluation.
    """
    first = _bits(expression, torch.full((1, channels), low))[0]
    last = _bits(expression, torch.full((1, channels), high))[0]
    descending = first & ~last
    count = (high - low) // step + 1
    if count <= MAX_EXHAUSTIVE:
        changes = _count_equal_to_first(expression, low, step, count, first)
    else:
        changes = _bisect(expression, low, step, count, first)
    # `changes` of the integers, counted from low, share the first bit; then the bit flips, once.
    threshold = torch.where(descending, low + (changes - 1) * step, low + changes * step)
    threshold = torch.where(first & last, low, torch.where(~first & ~last, high + 1, threshold))
    return threshold.to(torch.int32), descending


def _bits(expression: Expression, z: Tensor) -> Tensor:
    return expression(z.to(torch.float32)) >= 0


def _count_equal_to_first(expression: Expression, low: int, step: int, count: int, first: Tensor) -> Tensor:
    """How many integers share the first one's bit, checking every single one for a second change."""
    channels = first.shape[0]
    rows = max(1, _BLOCK_VALUES // max(1, channels))
    equal = torch.zeros(channels, dtype=torch.int64)
    ended = torch.zeros(channels, dtype=torch.bool)
    for start in range(0, count, rows):
        index = torch.arange(start, min(count, start + rows))
        same = _bits(expression, (low + index * step)[:, None].expand(-1, channels).contiguous()) == first
        prefix = same.to(torch.int8).cumprod(0).to(torch.bool)
        if bool((same & ~prefix).any()) or bool((same[0] & ended).any()):
            bad = int(torch.nonzero((same & ~prefix).any(0) | (same[0] & ended))[0])
            raise ArtifactError(
                f"channel {bad} between two binary layers is not monotone, so no threshold can replace it: "
                f"only batch norm, hard tanh, identity and dropout may stand there"
            )
        equal += torch.where(ended, 0, prefix.sum(0))
        ended |= ~prefix[-1]
    return equal


def _bisect(expression: Expression, low: int, step: int, count: int, first: Tensor) -> Tensor:
    """The same count by bisection: monotone float operations stay monotone when rounded, so one change is all."""
    below = torch.zeros(first.shape[0], dtype=torch.int64)  # index `below` shares the first bit
    above = torch.full_like(below, count)  # index `above` does not, or lies past the end
    while bool((above - below > 1).any()):
        middle = (below + above) // 2
        same = _bits(expression, (low + middle * step)[None])[0] == first
        moving = above - below > 1
        below = torch.where(moving & same, middle, below)
        above = torch.where(moving & ~same, middle, above)
    return above
