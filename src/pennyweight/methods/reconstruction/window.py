"""Fewer output positions a step: a random window of a convolution's output, random rows of a linear layer's.

The squared error over a random part is an unbiased estimate of the error over all positions, at a fraction of the cost.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear
from pennyweight.numerics.random import Key, permutation, randint

_ENOUGH_POSITIONS = 64
"""A sample's positions that are always kept; fewer would make the estimate noisy for little gain."""
_Conv = GemmConv1d | GemmConv2d | GemmConv3d


def window_loss(unit: Unit, x: Tensor, y: Tensor, share: float, key: Key) -> Tensor:
    """Mean squared error of a unit over a part of its output positions.

    Args:
        x: the unit's input for a mini-batch.
        y: its target.
        share: of the positions, in (0, 1]; blocks and small outputs are always taken whole.
        key: of the choice.
    """
    module = unit.module
    if share < 1 and isinstance(module, GemmLinear) and x.dim() > 2:
        rows = y.shape[:-1].numel()
        kept = max(round(share * rows), min(rows, _ENOUGH_POSITIONS))
        chosen = permutation(rows, key)[:kept]
        return unit.loss_terms(module(x.flatten(0, -2)[chosen]), y.flatten(0, -2)[chosen]).mean()
    if share < 1 and isinstance(module, GemmConv1d | GemmConv2d | GemmConv3d) and _has_plain_padding(module):
        size = _window(tuple(y.shape[2:]), share)
        if size != tuple(y.shape[2:]):
            start = [
                int(randint(0, whole - part + 1, (), key.fold(axis)))
                for axis, (whole, part) in enumerate(zip(y.shape[2:], size, strict=True))
            ]
            target = y
            for axis, (first, count) in enumerate(zip(start, size, strict=True)):
                target = target.narrow(2 + axis, first, count)
            window = _input_window(module, x, start, size)
            with _padded_outside(module):
                return unit.loss_terms(module(window), target).mean()
    return unit.loss_terms(module(x), y).mean()


def _has_plain_padding(layer: _Conv) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _window(whole: tuple[int, ...], share: float) -> tuple[int, ...]:
    """Sides of a window with about that share of the positions, of the shape of the whole."""
    positions = torch.Size(whole).numel()
    share = max(share, min(1.0, _ENOUGH_POSITIONS / positions))
    side = share ** (1 / len(whole))
    return tuple(max(1, min(n, round(side * n))) for n in whole)


def _input_window(layer: _Conv, x: Tensor, start: list[int], size: tuple[int, ...]) -> Tensor:
    """What the layer sees of a window of its output, zeros included where the window meets the border."""
    pads: list[int] = []
    for axis, (first, count) in enumerate(zip(start, size, strict=True)):
        low = first * layer.stride[axis] - layer.padding[axis]
        high = low + (count - 1) * layer.stride[axis] + (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
        length = x.shape[2 + axis]
        x = x.narrow(2 + axis, max(low, 0), min(high, length) - max(low, 0))
        pads = [max(-low, 0), max(high - length, 0), *pads]  # F.pad counts from the last dimension
    return F.pad(x, pads) if any(pads) else x


@contextmanager
def _padded_outside(layer: _Conv) -> Iterator[None]:
    """The layer without padding of its own: zero is exact on every grid, so padding may come before quantization."""
    padding = layer.padding
    layer.padding = (0,) * len(layer.stride)
    try:
        yield
    finally:
        layer.padding = padding
