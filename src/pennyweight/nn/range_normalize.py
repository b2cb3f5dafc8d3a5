"""`range_batch_norm`: batch normalization by the range of the values instead of their variance, as a function.

Statistics of a whole batch, of ghost batches and the running ones; the modules are in `range_batchnorm`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pennyweight.errors import MethodError
from pennyweight.numerics.order_statistics import RangeScale, range_constant


def range_deviation(rows: Tensor, num_chunks: int, scale: RangeScale = "exact") -> tuple[Tensor, Tensor, Tensor]:
    """Standard deviation of each row by the mean range of its chunks, and where the extremes are.

    Chunks are consecutive; where their number does not divide the values, the first ones hold one more, and each is
    multiplied by the constant of its own size. A chunk holds at least two values, else there are fewer chunks. Among
    equal extremes the first counts. NaN anywhere in a row makes its deviation NaN.

    Args:
        rows: (rows, n) with n at least 2.
        num_chunks: at least 1.
        scale: which constant, see `numerics.order_statistics.range_constant`.

    Returns:
        The deviations (rows,); the indices (rows, 2 * chunks) of all maxima, then all minima; and the derivative of the
        deviation with respect to the values there, (2 * chunks,).
    """
    count = rows.shape[1]
    chunks = min(num_chunks, count // 2)
    size, longer = divmod(count, chunks)
    deviation = rows.new_zeros(rows.shape[0])
    highs, lows, slopes = [], [], []
    for start, number, length in ((0, longer, size + 1), (longer * (size + 1), chunks - longer, size)):
        if number == 0:
            continue
        part = rows[:, start : start + number * length].reshape(rows.shape[0], number, length)
        high, low = part.max(-1), part.min(-1)
        slope = range_constant(length, scale) / chunks
        deviation = deviation + slope * (high.values - low.values).sum(-1)
        offset = start + length * torch.arange(number, device=rows.device)
        highs.append(high.indices + offset)
        lows.append(low.indices + offset)
        slopes.append(rows.new_full((number,), slope))
    slope_high = torch.cat(slopes)
    return deviation, torch.cat([*highs, *lows], 1), torch.cat([slope_high, -slope_high])


class _NormalizeRows(torch.autograd.Function):
    """(x - mean) / sqrt(deviation^2 + eps) of each row, with the closed form of its gradient.

    With y the output, s the deviation and i = 1 / sqrt(s^2 + eps),
    dx = i (g - mean(g)) - s i^2 sum(g y) ds/dx, where ds/dx is C/q at each chunk's maximum and -C/q at its minimum.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, gain: Tensor | None, num_chunks: int, scale: RangeScale, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = rows.mean(1)
        deviation, where, slopes = range_deviation(rows, num_chunks, scale)
        if gain is not None:
            deviation = deviation * gain
        energy = deviation.square() + eps
        inverse = torch.where(energy == 0, 0.0, energy.rsqrt())  # a constant row without eps: 0, as its values say
        y = (rows - mean[:, None]) * inverse[:, None]
        ctx.save_for_backward(y, inverse, deviation, where, slopes, gain)
        ctx.mark_non_differentiable(mean, deviation)
        return y, mean, deviation

    @staticmethod
    @once_differentiable  # the closed form reads values that have no gradient: a second derivative would be wrong
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, inverse, deviation, where, slopes, gain = ctx.saved_tensors
        g = grads[0]
        grad = (g - g.mean(1, keepdim=True)) * inverse[:, None]
        pull = -deviation * inverse.square() * (g * y).sum(1)
        if gain is not None:
            pull = pull * gain
        # No index comes twice: chunks do not overlap, and where both extremes of one coincide all its values do, whose
        # two terms cancel. scatter_add would be the same but for the order of sums on a GPU.
        half = where.shape[1] // 2
        for part, slope in ((where[:, :half], slopes[:half]), (where[:, half:], slopes[half:])):
            grad.scatter_(1, part, grad.gather(1, part) + pull[:, None] * slope)
        return grad, None, None, None, None


def range_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_chunks: int = 16,
    scale: RangeScale = "exact",
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    ghost_batch_size: int | None = None,
    gain: Tensor | None = None,
) -> Tensor:
    """Normalize each channel by its mean and its range: y = (x - mean) / sqrt(s^2 + eps) * weight + bias.

    s = C(n) * (max - min), averaged over `num_chunks` chunks of n values, estimates the standard deviation. Maxima and
    minima of quantized values lie on their grid; no squares are summed.

    Args:
        x: (batch, channels, *spatial).
        running_mean: (channels,), updated in place while training; None to keep none.
        running_var: (channels,), the square of the running mean of s, so that evaluation is plain batch norm and a
            batch norm's buffers can be loaded.
        num_chunks: at least 1; fewer are used where a chunk would have less than two values.
        scale: "exact", "repo" or "paper", see `numerics.order_statistics.range_constant`.
        training: False uses the running statistics.
        momentum: weight of the new statistics, torch's meaning.
        ghost_batch_size: samples that share statistics; None for all. The last ghost batch takes the remainder, and the
            running statistics move by the mean over ghost batches.
        gain: (channels,), multiplies s where values are not Gaussian.

    Raises:
        MethodError: num_chunks or ghost_batch_size below 1, or fewer than two values a channel.

    Source: arXiv 1805.11046, section 3.
    Deviations: the exact constant by default; eps is added to s^2, as batch norm adds it to the variance; the running
        statistic is the mean of s in torch's meaning of momentum, where the published code has it the other way round.
    """
    if num_chunks < 1:
        raise MethodError(f"num_chunks={num_chunks}: the values are split into at least 1 chunk")
    if ghost_batch_size is not None and ghost_batch_size < 1:
        raise MethodError(f"ghost_batch_size={ghost_batch_size}: a ghost batch holds at least 1 sample")
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps)
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    outputs, means, deviations = [], [], []
    for part, groups in _ghosts(wide, ghost_batch_size):
        y, mean, deviation = _groups(part, groups, num_chunks, scale, eps, gain)
        outputs.append(y)
        means.append(mean)
        deviations.append(deviation)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(torch.cat(means).mean(0).to(running_mean.dtype), momentum)
            deviation = running_var.sqrt().lerp_(torch.cat(deviations).mean(0).to(running_var.dtype), momentum)
            running_var.copy_(deviation.square())
    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    channel = (1, -1) + (1,) * (x.dim() - 2)
    if weight is not None:
        y = y * weight.reshape(channel)
    if bias is not None:
        y = y + bias.reshape(channel)
    return y.to(x.dtype)


def _ghosts(x: Tensor, size: int | None) -> list[tuple[Tensor, int]]:
    """Consecutive samples, with the number of equal ghost batches in them."""
    groups = 1 if size is None else max(1, x.shape[0] // size)
    if groups == 1 or size is None:
        return [(x, 1)]
    if x.shape[0] % size == 0:
        return [(x, groups)]
    head = (groups - 1) * size
    return [(x[:head], groups - 1), (x[head:], 1)]


def _groups(
    x: Tensor, groups: int, num_chunks: int, scale: RangeScale, eps: float, gain: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and mean and deviation as (groups, channels), of equal groups of consecutive samples."""
    channels, size = x.shape[1], x.shape[0] // groups
    spatial = math.prod(x.shape[2:])
    folded = x.reshape(groups, size, channels, spatial).transpose(1, 2)  # (groups, channels, size, spatial)
    # Contiguous, so that sums have one order in every memory format.
    rows = folded.reshape(groups * channels, size * spatial).contiguous()
    if rows.shape[1] < 2:
        raise MethodError(
            f"Range BN has {rows.shape[1]} value(s) a channel for an input of shape {tuple(x.shape)} in {groups} "
            f"group(s): a range takes at least 2; use a larger batch, or evaluation mode"
        )
    wide_gain = None if gain is None else gain.repeat(groups)
    y, mean, deviation = _NormalizeRows.apply(rows, wide_gain, num_chunks, scale, eps)
    y = y.reshape(folded.shape).transpose(1, 2).reshape(x.shape)
    return y, mean.reshape(groups, channels), deviation.reshape(groups, channels)
