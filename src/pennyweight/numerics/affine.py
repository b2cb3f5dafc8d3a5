"""Affine quantization: code = round(value / scale) + zero_point, with one scale a tensor, a channel or a group.

Where ranges come from is the business of `ranges`.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import FormatError, NumericsError
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding, apply_rounding
from pennyweight.numerics.ste import straight_through_where


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

_MAX_BITS = 24  # float32 scales, zero points and quotients are exact no further


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
    """The values of `x`, one row for each scale: (scales, values). A short last group repeats its last value."""
    if isinstance(granularity, PerTensor):
        return x.reshape(1, -1)
    _require_dimensions(x, granularity)
    if isinstance(granularity, PerChannel):
        return x.reshape(x.shape[0], -1) if x.numel() else x.new_zeros((x.shape[0], 0))
    short = -x.shape[-1] % granularity.group_size
    if short:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], short)], dim=-1)
    return x.reshape(-1, granularity.group_size)


def parameter_shape(x: Tensor, granularity: Granularity) -> tuple[int, ...]:
    """Shape of the scales of `x`.

    Raises:
        NumericsError: `x` has no dimension to take channels or groups from.
    """
    if isinstance(granularity, PerTensor):
        return ()
    _require_dimensions(x, granularity)
    if isinstance(granularity, PerChannel):
        return (x.shape[0],)
    return (*x.shape[:-1], -(-x.shape[-1] // granularity.group_size))


def _require_dimensions(x: Tensor, granularity: Granularity) -> None:
    if x.dim() == 0:
        raise NumericsError(f"a single number has no dimension for granularity '{granularity}': use 'tensor'")


def expand(parameter: Tensor, x: Tensor, granularity: Granularity) -> Tensor:
    """A scale or zero point shaped to meet every value of `x`."""
    if isinstance(granularity, PerTensor):
        return parameter.reshape(())
    assert parameter.shape == parameter_shape(x, granularity), (parameter.shape, x.shape, granularity)
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
        FormatError: the format is wider than 24 bits.
        NumericsError: the range is not finite or upside down, or symmetric codes are unsigned and it has negative
            values.

    Deviations: within a step of the largest float32 the scale is cut so that no code stands for infinity.
    """
    if format.bits > _MAX_BITS:
        raise FormatError(f"{format}: affine codes take at most {_MAX_BITS} bits, float32 counts exactly no further")
    require_finite(low, "the range's low end")
    require_finite(high, "the range's high end")
    if bool((low > high).any()):
        raise NumericsError(f"the range [{float(low[low > high][0])}, {float(high[low > high][0])}] is upside down")
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    if symmetric:
        if not format.signed and bool((low < 0).any()):
            raise NumericsError(
                f"symmetric {format} cannot hold the negative value {float(low.min())}: use a signed format"
            )
        scale = torch.maximum(high, -low) / format.max
    else:
        steps = format.num_levels - 1
        scale = high / steps - low / steps  # the difference itself could overflow
    float32 = torch.finfo(torch.float32)
    most_steps = format.max + 1 if symmetric else format.num_levels
    scale = torch.where(scale > 0, scale.clamp(float32.tiny, float32.max / most_steps), 1.0)
    zero_point = torch.zeros_like(scale)
    if not symmetric:
        zero_point = (format.min - torch.round(low / scale)).clamp(format.min, format.max)
    return AffineParameters(scale=scale, zero_point=zero_point, format=format, granularity=granularity)


def _steps(x: Tensor, parameters: AffineParameters) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x / scale in at least float32, the zero point, and the ends between which the quotient is representable."""
    require_finite(x, "the tensor to quantize")
    format = parameters.format
    zero_point = expand(parameters.zero_point, x, parameters.granularity)
    wide = x.to(torch.promote_types(x.dtype, parameters.scale.dtype))  # a scale without dimensions would not widen x
    steps = wide / expand(parameters.scale, x, parameters.granularity)
    return steps, zero_point, format.min - zero_point, format.max - zero_point


def quantize(
    x: Tensor, parameters: AffineParameters, rounding: Rounding = "nearest_even", key: Key | None = None
) -> Tensor:
    """Codes round(x / scale) + zero_point as int32, clamped to the format.

    The zero point is added after rounding, as integer runtimes do it: the other way round, ties would fall
    differently for odd zero points.

    Raises:
        NumericsError: `x` holds NaN or infinity, or stochastic rounding has no key.
    """
    steps, zero_point, low, high = _steps(x, parameters)
    return (apply_rounding(steps.clamp(low, high), rounding, key) + zero_point).to(torch.int32)


def dequantize(codes: Tensor, parameters: AffineParameters) -> Tensor:
    """The float32 values of codes."""
    zero_point = expand(parameters.zero_point, codes, parameters.granularity)
    return (codes - zero_point) * expand(parameters.scale, codes, parameters.granularity)


def fake_quantize(
    x: Tensor, parameters: AffineParameters, rounding: Rounding = "nearest_even", key: Key | None = None
) -> Tensor:
    """Quantize and dequantize; the gradient passes where x was not clamped, up to half a step beyond the ends.

    Raises:
        NumericsError: `x` holds NaN or infinity, or stochastic rounding has no key.
    """
    steps, _, low, high = _steps(x.detach(), parameters)
    rounded = apply_rounding(steps.clamp(low, high), rounding, key)
    value = (rounded * expand(parameters.scale, x, parameters.granularity)).to(x.dtype)
    if not x.requires_grad:
        return value
    inside = (steps >= low - 0.5) & (steps <= high + 0.5)
    return straight_through_where(x, value, inside)
