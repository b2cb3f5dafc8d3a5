"""Straight-through functions: a step forward, a simple slope backward.

Source: arXiv 1308.3432; the clipped sign is arXiv 1602.02830, equation 4.
"""

from typing import Any

import torch
from torch import Tensor

from pennyweight.numerics.random import Key, uniform


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0 (0 and -0 included), else -1. `torch.sign` would make a third value of 0."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class _ClippedSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside


class _IdentityGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _GradientWhere(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None


def straight_through_where(x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
    """`value` forward, the gradient of `x` backward where `inside`, and none elsewhere."""
    result: Tensor = _GradientWhere.apply(x, value, inside)
    return result


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """`value` forward, the gradient of `x` backward."""
    result: Tensor = _IdentityGradient.apply(x, value)
    return result


def sign_ste(x: Tensor, *, clip: bool = True) -> Tensor:
    """sign(x); the gradient passes everywhere, or with `clip` where |x| <= 1, the boundary included."""
    if clip:
        result: Tensor = _ClippedSign.apply(x)
        return result
    return straight_through(x, sign(x.detach()))


def stochastic_sign_ste(x: Tensor, key: Key) -> Tensor:
    """+1 with probability clip((x + 1) / 2, 0, 1), else -1; the gradient passes where |x| <= 1."""
    probability = (x.detach().double() + 1) / 2
    drawn = torch.where(uniform(x.shape, key, x.device) < probability, 1.0, -1.0).to(x.dtype)
    return straight_through(torch.clamp(x, -1, 1), drawn)


def round_ste(x: Tensor) -> Tensor:
    """Nearest-even integers; the gradient passes everywhere."""
    return straight_through(x, torch.round(x.detach()))


def clamp_ste(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """clamp(x, low, high); the gradient passes everywhere, also outside."""
    ends = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in (low, high))
    return straight_through(x, torch.clamp(x.detach(), *ends))
