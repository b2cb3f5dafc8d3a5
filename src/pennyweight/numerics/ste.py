"""Straight-through functions: a step forward, a simple slope backward.

Source: arXiv 1308.3432; the clipped sign is arXiv 1602.02830, equation 4.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from pennyweight.numerics.random import Key, uniform

Surrogate = Literal["hardtanh", "identity", "approx", "swish"]
"""The function whose derivative stands for the sign's; see `surrogate_sign`."""
_SWISH_BETA = 5.0


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0 (0 and -0 included), else -1. `torch.sign` would make a third value of 0."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def _slope(x: Tensor, surrogate: Surrogate) -> Tensor:
    """The derivative each surrogate has at x."""
    if surrogate == "approx":
        return (2.0 - 2.0 * x.abs()).clamp_min(0.0)
    bx = _SWISH_BETA * x
    # Beyond |bx| = 40 the slope is below float32's rounding of 1, and cosh would overflow later.
    inside = bx.clamp(-40.0, 40.0)
    value = _SWISH_BETA * (2.0 - inside * torch.tanh(inside / 2.0)) / (1.0 + torch.cosh(inside))
    return torch.where(bx.abs() <= 40.0, value, 0.0)


class _SurrogateGradient(torch.autograd.Function):
    """`value` forward; backward the gradient times the surrogate's slope at x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.surrogate = surrogate
        ctx.save_for_backward(x.abs() <= 1 if surrogate == "hardtanh" else x)  # a mask is all the first one needs
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (saved,) = ctx.saved_tensors
        if ctx.surrogate == "hardtanh":
            return torch.where(saved, grads[0], 0.0), None, None
        return grads[0] * _slope(saved, ctx.surrogate), None, None


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
    return surrogate_sign(x, "hardtanh" if clip else "identity")


def surrogate_sign(x: Tensor, surrogate: Surrogate) -> Tensor:
    """sign(x) forward, and the derivative of another function backward.

    Args:
        surrogate: "identity": 1; "hardtanh": 1 where |x| <= 1; "approx": 2 - 2|x| where |x| <= 1, of a piecewise
            parabola; "swish": b (2 - b x tanh(b x / 2)) / (1 + cosh(b x)) with b = 5, of the sign swish, negative
            beyond |x| = 0.48.

    Source: arXiv 1602.02830, equation 4; arXiv 1808.00278, section 3.2 (approx); arXiv 1812.11800 (swish).
    """
    return _with_slope(x, sign(x.detach()), surrogate)


def _with_slope(x: Tensor, value: Tensor, surrogate: Surrogate) -> Tensor:
    if surrogate == "identity":
        return straight_through(x, value)
    result: Tensor = _SurrogateGradient.apply(x, value, surrogate)
    return result


def stochastic_sign_ste(x: Tensor, key: Key, surrogate: Surrogate = "hardtanh") -> Tensor:
    """+1 with probability clip((x + 1) / 2, 0, 1), else -1; the gradient is `surrogate_sign`'s."""
    probability = (x.detach().double() + 1) / 2
    drawn = torch.where(uniform(x.shape, key, x.device) < probability, 1.0, -1.0).to(x.dtype)
    return _with_slope(x, drawn, surrogate)


def round_ste(x: Tensor) -> Tensor:
    """Nearest-even integers; the gradient passes everywhere."""
    return straight_through(x, torch.round(x.detach()))


def clamp_ste(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """clamp(x, low, high); the gradient passes everywhere, also outside."""
    ends = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in (low, high))
    return straight_through(x, torch.clamp(x.detach(), *ends))
