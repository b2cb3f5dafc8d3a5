"""What is done with formats: round values to a format's grid, encode them as integer codes, decode codes.

Scales are no business of a format; they live in `affine`.
"""

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import BinaryFormat, FloatFormat, Format, IntFormat, LogFormat, TernaryFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding, apply_rounding
from pennyweight.numerics.shift import ap2, power_of_two
from pennyweight.numerics.ste import sign


def round_to_format(x: Tensor, format: Format, rounding: Rounding = "nearest_even", key: Key | None = None) -> Tensor:
    """The values of `x` moved to the format's grid; same dtype and shape.

    Beyond the largest value a format saturates, unless a `FloatFormat` says otherwise. Clamping comes before rounding,
    so that stochastic rounding is unbiased inside the range and never leaves it. Binary takes the sign; logarithmic
    formats round the exponent to nearest (AP2), and to zero below half of the smallest value; stochastically they take
    one of the two neighbours, without bias in the value.

    Raises:
        NumericsError: `x` holds NaN or infinity, its dtype cannot count as far as an integer format, stochastic
            rounding has no key, or binary and logarithmic formats are asked for a rounding they do not have.
    """
    assert x.is_floating_point(), f"values are floats, not {x.dtype}"
    require_finite(x, "the tensor to round")
    if isinstance(format, LogFormat) and rounding == "stochastic":
        return _round_log_stochastic(x, format, key)
    if isinstance(format, LogFormat | BinaryFormat):
        if rounding != "nearest_even":
            raise NumericsError(f"rounding={rounding!r}: {format} has its own rounding; leave it at 'nearest_even'")
        return _round_log(x, format) if isinstance(format, LogFormat) else sign(x)
    if isinstance(format, FloatFormat):
        return _round_float(x.double(), format, rounding, key).to(x.dtype)
    low, high = _integer_ends(format)
    if high * torch.finfo(x.dtype).eps > 2:
        raise NumericsError(f"{x.dtype} does not hold every integer up to {high} of {format}: pass a wider dtype")
    return apply_rounding(x.clamp(low, high), rounding, key)


def _integer_ends(format: Format) -> tuple[int, int]:
    if isinstance(format, IntFormat):
        return format.min, format.max
    assert isinstance(format, TernaryFormat), format
    return -1, 1


def _round_log(x: Tensor, format: LogFormat) -> Tensor:
    smallest, largest = 2.0**format.min_exponent, 2.0**format.max_exponent
    wide = x.double()
    magnitude = ap2(wide.abs()).clamp(smallest, largest)
    return torch.where(wide.abs() < smallest / 2, 0.0, torch.copysign(magnitude, wide)).to(x.dtype)


def _round_log_stochastic(x: Tensor, format: LogFormat, key: Key | None) -> Tensor:
    """Up with the probability of the distance from below, in units of the power below, or of the smallest power."""
    wide = x.double().clamp(-(2.0**format.max_exponent), 2.0**format.max_exponent)
    _, exponent = torch.frexp(wide)
    quantum = power_of_two((exponent - 1).clamp(min=format.min_exponent))
    return (apply_rounding(wide / quantum, "stochastic", key) * quantum).to(x.dtype)


def _round_float(x: Tensor, format: FloatFormat, rounding: Rounding, key: Key | None) -> Tensor:
    """Round float64 values; the quantum is a power of two, so that dividing by it is exact."""
    stays_finite = format.saturate or rounding == "toward_zero"
    clamped = x.clamp(-format.max, format.max) if stays_finite else x
    _, exponent = torch.frexp(clamped)  # |mantissa| in [1/2, 1): the true exponent is one less
    exponent = (exponent.to(torch.int64) - 1).clamp(min=format.emin)
    quantum = power_of_two(exponent - format.mantissa_bits)
    if not format.subnormals:
        quantum = torch.where(clamped.abs() < 2.0**format.emin, 2.0**format.emin, quantum)
    steps = clamped / quantum
    rounded = apply_rounding(steps, rounding, key)
    if format.mantissa_bits == 0 and rounding == "nearest_even":
        # Without mantissa bits "even" is the exponent field's last bit.
        down = (steps.abs() == 1.5) & ((exponent + format.exponent_bias) % 2 == 0)
        rounded = torch.where(down, torch.copysign(torch.ones_like(steps), steps), rounded)
    rounded = rounded * quantum
    if stays_finite:
        return rounded
    beyond = torch.copysign(torch.full_like(x, torch.inf if format.specials == "ieee" else torch.nan), x)
    return torch.where(rounded.abs() > format.max, beyond, rounded)


def encode(x: Tensor, format: Format) -> Tensor:
    """Codes from 0 to 2^bits - 1 as int64, after rounding to nearest.

    Integers count from the format's smallest; floats are sign, exponent and mantissa fields; logarithmic formats are
    sign and exponent index with 0 for zero; binary has 1 for +1; ternary counts -1, 0, +1.
    """
    values = round_to_format(x.double(), format)
    if isinstance(format, IntFormat | TernaryFormat):
        return values.to(torch.int64) - _integer_ends(format)[0]
    if isinstance(format, FloatFormat):
        return _encode_float(values, format)
    if isinstance(format, LogFormat):
        _, exponent = torch.frexp(values)
        index = torch.where(values == 0, 0, exponent - 1 - format.min_exponent + 1).to(torch.int64)
        return index | ((values < 0).to(torch.int64) << (format.width - 1))
    assert isinstance(format, BinaryFormat), format
    return (values > 0).to(torch.int64)


def _encode_float(values: Tensor, format: FloatFormat) -> Tensor:
    m = format.mantissa_bits
    finite = torch.isfinite(values)
    magnitude = torch.where(finite, values.abs(), 0.0)
    _, exponent = torch.frexp(magnitude)
    field = torch.where(magnitude < 2.0**format.emin, 0, exponent - 1 + format.exponent_bias).to(torch.int64)
    scale = power_of_two(m - (field.clamp(min=1) - format.exponent_bias))
    mantissa = (magnitude * scale).to(torch.int64) - torch.where(field > 0, 1 << m, 0)
    top = ((1 << format.exponent_bits) - 1) << m
    special = torch.where(torch.isnan(values), top | ((1 << m) - 1), top)
    code = torch.where(finite, (field << m) | mantissa, special)
    return code | (torch.signbit(values).to(torch.int64) << (format.bits - 1))


def decode(codes: Tensor, format: Format) -> Tensor:
    """The values of codes of any integer dtype; the inverse of `encode` on the grid.

    Returns:
        float32; float64 where the format's values do not fit it.

    Raises:
        NumericsError: a code is not in [0, 2^bits), or none of the format's.
    """
    codes = codes.to(torch.int64)
    _require_codes(codes, format)
    if isinstance(format, IntFormat | TernaryFormat):
        value = (codes + _integer_ends(format)[0]).double()
    elif isinstance(format, FloatFormat):
        value = _decode_float(codes, format)
    elif isinstance(format, LogFormat):
        index = codes & ((1 << (format.width - 1)) - 1)
        power = power_of_two(index - 1 + format.min_exponent)
        value = torch.where(index == 0, 0.0, torch.where(codes >> (format.width - 1) == 1, -power, power))
    else:
        assert isinstance(format, BinaryFormat), format
        value = codes.double() * 2 - 1
    return value.to(torch.float32 if _fits_float32(format) else torch.float64)


def _require_codes(codes: Tensor, format: Format) -> None:
    num_codes = 1 << format.bits
    if isinstance(format, IntFormat):
        num_codes = format.num_levels
    elif isinstance(format, TernaryFormat):
        num_codes = 3
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < num_codes):
        raise NumericsError(f"codes lie in [{int(codes.min())}, {int(codes.max())}]; {format} has 0 to {num_codes - 1}")


def _fits_float32(format: Format) -> bool:
    if isinstance(format, IntFormat):
        return format.max <= 1 << 24
    if isinstance(format, FloatFormat):
        return format.emax <= 127 and format.emin - format.mantissa_bits >= -149
    return not isinstance(format, LogFormat) or (format.max_exponent <= 127 and format.min_exponent >= -149)


def _decode_float(codes: Tensor, format: FloatFormat) -> Tensor:
    m = format.mantissa_bits
    mantissa = codes & ((1 << m) - 1)
    field = (codes >> m) & ((1 << format.exponent_bits) - 1)
    whole = (mantissa + torch.where(field > 0, 1 << m, 0)).double()
    value = whole * power_of_two(field.clamp(min=1) - format.exponent_bias - m)
    if not format.subnormals:
        value = torch.where(field == 0, 0.0, value)
    top = (1 << format.exponent_bits) - 1
    if format.specials == "ieee":
        value = torch.where(field == top, torch.where(mantissa == 0, torch.inf, torch.nan), value)
    elif format.specials == "fn":
        value = torch.where((field == top) & (mantissa == (1 << m) - 1), torch.nan, value)
    return torch.where((codes >> (format.bits - 1)) & 1 == 1, -value, value)
