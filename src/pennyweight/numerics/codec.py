"""What is done with formats: round values to a format's grid, encode them as integer codes, decode codes.

Scales are no business of a format; they live in `affine`.
"""

import torch
from torch import Tensor

from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import BinaryFormat, FloatFormat, Format, IntFormat, LogFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding, apply_rounding
from pennyweight.numerics.shift import ap2
from pennyweight.numerics.ste import sign


def round_to_format(x: Tensor, format: Format, rounding: Rounding = "nearest_even", key: Key | None = None) -> Tensor:
    """The values of `x` moved to the format's grid; same dtype and shape.

    Beyond the largest value a format saturates, unless a `FloatFormat` says otherwise. Clamping comes before rounding,
    so that stochastic rounding is unbiased inside the range and never leaves it. Binary takes the sign; logarithmic
    formats round the exponent to nearest (AP2) whatever `rounding` says.

    Raises:
        NumericsError: `x` holds NaN or infinity, or stochastic rounding has no key.
    """
    require_finite(x, "the tensor to round")
    if isinstance(format, IntFormat):
        return apply_rounding(x.clamp(format.min, format.max), rounding, key)
    if isinstance(format, FloatFormat):
        return _round_float(x.double(), format, rounding, key).to(x.dtype)
    if isinstance(format, LogFormat):
        smallest, largest = 2.0**format.min_exponent, 2.0**format.max_exponent
        magnitude = ap2(x.abs()).clamp(smallest, largest)
        return torch.where(x.abs() < smallest / 2, 0.0, torch.copysign(magnitude, x)).to(x.dtype)
    if isinstance(format, BinaryFormat):
        return sign(x)
    return apply_rounding(x.clamp(-1, 1), rounding, key)


def _round_float(x: Tensor, format: FloatFormat, rounding: Rounding, key: Key | None) -> Tensor:
    """Round float64 values; the quantum is a power of two, so that dividing by it is exact."""
    clamped = x.clamp(-format.max, format.max) if format.saturate else x
    _, exponent = torch.frexp(clamped)  # |mantissa| in [1/2, 1): the true exponent is one less
    exponent = (exponent - 1).clamp(min=format.emin)
    quantum = torch.ldexp(torch.ones_like(x), exponent - format.mantissa_bits)
    if not format.subnormals:
        quantum = torch.where(clamped.abs() < 2.0**format.emin, 2.0**format.emin, quantum)
    rounded = apply_rounding(clamped / quantum, rounding, key) * quantum
    if format.saturate:
        return rounded
    beyond = torch.copysign(torch.full_like(x, torch.inf if format.specials == "ieee" else torch.nan), x)
    return torch.where(rounded.abs() > format.max, beyond, rounded)


def encode(x: Tensor, format: Format) -> Tensor:
    """Codes from 0 to 2^bits - 1 as int64, after rounding to nearest.

    Integers count from the format's smallest; floats are sign, exponent and mantissa fields; logarithmic formats are
    sign and exponent index with 0 for zero; binary has 1 for +1; ternary counts -1, 0, +1.
    """
    values = round_to_format(x, format)
    if isinstance(format, IntFormat):
        return values.to(torch.int64) - format.min
    if isinstance(format, FloatFormat):
        return _encode_float(values.double(), format)
    if isinstance(format, LogFormat):
        _, exponent = torch.frexp(values)
        index = torch.where(values == 0, 0, exponent - 1 - format.min_exponent + 1).to(torch.int64)
        return index | ((values < 0).to(torch.int64) << (format.width - 1))
    if isinstance(format, BinaryFormat):
        return (values > 0).to(torch.int64)
    return values.to(torch.int64) + 1


def _encode_float(values: Tensor, format: FloatFormat) -> Tensor:
    m = format.mantissa_bits
    finite = torch.isfinite(values)
    magnitude = torch.where(finite, values.abs(), 0.0)
    _, exponent = torch.frexp(magnitude)
    field = torch.where(magnitude < 2.0**format.emin, 0, exponent - 1 + format.exponent_bias).to(torch.int64)
    scale = torch.ldexp(torch.ones_like(values), m - (field.clamp(min=1) - format.exponent_bias))
    mantissa = (magnitude * scale).to(torch.int64) - torch.where(field > 0, 1 << m, 0)
    top = ((1 << format.exponent_bits) - 1) << m
    special = torch.where(torch.isnan(values), top | ((1 << m) - 1), top)
    code = torch.where(finite, (field << m) | mantissa, special)
    return code | (torch.signbit(values).to(torch.int64) << (format.bits - 1))


def decode(codes: Tensor, format: Format) -> Tensor:
    """The float32 values of codes; the inverse of `encode` on the grid."""
    if isinstance(format, IntFormat):
        return (codes + format.min).to(torch.float32)
    if isinstance(format, FloatFormat):
        return _decode_float(codes, format).to(torch.float32)
    if isinstance(format, LogFormat):
        index = codes & ((1 << (format.width - 1)) - 1)
        power = torch.ldexp(torch.ones(codes.shape), index - 1 + format.min_exponent)
        return torch.where(index == 0, 0.0, torch.where(codes >> (format.width - 1) == 1, -power, power))
    if isinstance(format, BinaryFormat):
        return codes.to(torch.float32) * 2 - 1
    return codes.to(torch.float32) - 1


def _decode_float(codes: Tensor, format: FloatFormat) -> Tensor:
    m = format.mantissa_bits
    mantissa = codes & ((1 << m) - 1)
    field = (codes >> m) & ((1 << format.exponent_bits) - 1)
    whole = (mantissa + torch.where(field > 0, 1 << m, 0)).double()
    value = torch.ldexp(whole, field.clamp(min=1) - format.exponent_bias - m)
    if not format.subnormals:
        value = torch.where(field == 0, 0.0, value)
    top = (1 << format.exponent_bits) - 1
    if format.specials == "ieee":
        value = torch.where(field == top, torch.where(mantissa == 0, torch.inf, torch.nan), value)
    elif format.specials == "fn":
        value = torch.where((field == top) & (mantissa == (1 << m) - 1), torch.nan, value)
    return torch.where((codes >> (format.bits - 1)) & 1 == 1, -value, value)
