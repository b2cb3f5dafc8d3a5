"""Affine quantization: value = (code - zero_point) * scale, with one scale a tensor, a channel or a group.

Where ranges come from is the business of `ranges`.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding, apply_rounding


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""

    def __str__(self) -> str:
        return "tensor"


@dataclass(frozen=True)
class PerChannel:
    """One scale for each index along the first dimension, a weight's output channels."""

    def __str__(self) -> str:
        return "channel"


@dataclass(frozen=True)
class PerGroup:
    """One scale for each run of `group_size` values along the last dimension; the last run may be shorter."""

    group_size: int

    def __post_init__(self) -> None:
        """Check the size."""
        if self.group_size < 1:
            raise NumericsError(f"group_size={self.group_size}: a group holds at least 1 value")

    def __str__(self) -> str:
        return f"group:{self.group_size}"


Granularity = PerTensor | PerChannel | PerGroup


def parse_granularity(spec: str | Granularity) -> Granularity:
    """The granularity a string names: "tensor", "channel" or "group:128".

    Raises:
        NumericsError: the string names none.
    """
    if not isinstance(spec, str):
        return spec
    if spec == "tensor":
        return PerTensor()
    if spec == "channel":
        return PerChannel()
    if found := re.fullmatch(r"group:(\d+)", spec):
        return PerGroup(int(found[1]))
    raise NumericsError(f"granularity {spec!r} is not known; valid are 'tensor', 'channel' and 'group:N'")


@dataclass(frozen=True)
class AffineParameters:
    """What turns values into codes and back.

    Args:
        scale: positive float; shape () for a tensor, (channels,) for channels, (..., groups) for groups.
        zero_point: integer-valued float of the same shape; the code of the value 0.
        format: the codes' integers.
        granularity: which values share a scale.
    """

    scale: Tensor
    zero_point: Tensor
    format: IntFormat
    granularity: Granularity


def group_rows(x: Tensor, granularity: Granularity) -> Tensor:
    """View of `x` with one row for each scale: (scales, values). A short last group repeats its last value."""
    if isinstance(granularity, PerTensor):
        return x.reshape(1, -1)
    if isinstance(granularity, PerChannel):
        return x.reshape(x.shape[0], -1) if x.numel() else x.new_zeros((x.shape[0], 0))
    short = -x.shape[-1] % granularity.group_size
    if short:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], short)], dim=-1)
    return x.reshape(-1, granularity.group_size)


def parameter_shape(x: Tensor, granularity: Granularity) -> tuple[int, ...]:
    """Shape of the scales of `x`."""
    if isinstance(granularity, PerTensor):
        return ()
    if isinstance(granularity, PerChannel):
        return (x.shape[0],)
    return (*x.shape[:-1], -(-x.shape[-1] // granularity.group_size))


def expand(parameter: Tensor, x: Tensor, granularity: Granularity) -> Tensor:
    """A scale or zero point shaped to meet every value of `x`."""
    if isinstance(granularity, PerTensor):
        return parameter.reshape(())
    if isinstance(granularity, PerChannel):
        return parameter.reshape(-1, *[1] * (x.dim() - 1))
    return parameter.repeat_interleave(granularity.group_size, dim=-1)[..., : x.shape[-1]]


def affine_parameters(
    low: Tensor, high: Tensor, format: IntFormat, granularity: Granularity, *, symmetric: bool
) -> AffineParameters:
    """Scale and zero point that cover [low, high].

    The range is widened to hold 0, whose code is always exact. A range of no width gets scale 1.

    Args:
        low: smallest value for each scale.
        high: largest value for each scale.
        symmetric: zero point 0; else the whole range of codes is used.

    Raises:
        NumericsError: the range is not finite, or symmetric codes are unsigned and the range has negative values.
    """
    require_finite(low, "the range's low end")
    require_finite(high, "the range's high end")
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    if symmetric:
        if not format.signed and bool((low < 0).any()):
            raise NumericsError(
                f"symmetric {format} cannot hold the negative value {float(low.min())}: use a signed format"
            )
        scale = torch.maximum(high / format.max, -low / format.max)
    else:
        scale = high / (format.num_levels - 1) - low / (format.num_levels - 1)  # the difference itself could overflow
    tiny = torch.finfo(torch.float32).tiny
    scale = torch.where(scale > 0, scale.clamp(min=tiny), 1.0)
    zero_point = torch.zeros_like(scale)
    if not symmetric:
        zero_point = (format.min - torch.round(low / scale)).clamp(format.min, format.max)
    return AffineParameters(scale=scale, zero_point=zero_point, format=format, granularity=granularity)


def quantize(
    x: Tensor, parameters: AffineParameters, rounding: Rounding = "nearest_even", key: Key | None = None
) -> Tensor:
    """Codes as int32, clamped to the format.

    Raises:
        NumericsError: `x` holds NaN or infinity.
    """
    require_finite(x, "the tensor to quantize")
    format, granularity = parameters.format, parameters.granularity
    steps = x / expand(parameters.scale, x, granularity) + expand(parameters.zero_point, x, granularity)
    return apply_rounding(steps.clamp(format.min, format.max), rounding, key).to(torch.int32)


def dequantize(codes: Tensor, parameters: AffineParameters) -> Tensor:
    """The float32 values of codes."""
    zero_point = expand(parameters.zero_point, codes, parameters.granularity)
    return (codes - zero_point) * expand(parameters.scale, codes, parameters.granularity)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0] * inside, None, None


def fake_quantize(
    x: Tensor, parameters: AffineParameters, rounding: Rounding = "nearest_even", key: Key | None = None
) -> Tensor:
    """Quantize and dequantize; the gradient passes where the value was not clamped."""
    format, granularity = parameters.format, parameters.granularity
    codes = quantize(x.detach(), parameters, rounding, key)
    value = dequantize(codes, parameters).to(x.dtype)
    steps = x.detach() / expand(parameters.scale, x, granularity) + expand(parameters.zero_point, x, granularity)
    inside = (steps >= format.min - 0.5) & (steps <= format.max + 0.5)
    result: Tensor = _FakeQuantize.apply(x, value, inside)
    return result
