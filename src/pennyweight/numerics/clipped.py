"""LinearQuant and LogQuant: values on few levels of a fixed range; and neural gradients on few levels of their own.

Integer formats name the linear levels: "int2" two's complement, -1, -1/2, 0, 1/2; "int2n" the symmetric -1, 0, 1;
"uint2" the unsigned 0, 1/3, 2/3, 1. Logarithmic formats are powers of two up to 1, and zero. Zero is always a level.

Source: arXiv 1609.07061, section 3.
Deviations: the paper's LinearQuant(x, k) leaves open how many levels k bits have; here a format says it, and no format
    has more than 2^k.
"""

import torch
from torch import Tensor

from pennyweight.errors import FormatError
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.codec import round_to_format
from pennyweight.numerics.formats import BinaryFormat, Format, IntFormat, LogFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding, apply_rounding
from pennyweight.numerics.ste import sign, straight_through_where


def unit_range(format: Format) -> tuple[float, float]:
    """The ends of the range: [0, 1] for unsigned integers, [-1, 1] for all else."""
    return (0.0, 1.0) if isinstance(format, IntFormat) and not format.signed else (-1.0, 1.0)


def unit_step(format: IntFormat) -> float:
    """Distance of neighbouring levels where the format's codes span `unit_range`.

    Example:
        >>> unit_step(IntFormat(3)), unit_step(IntFormat(3, narrow=True)), unit_step(IntFormat(1, signed=False))
        (0.25, 0.3333333333333333, 1.0)
    """
    return 1.0 / (format.max + (format.signed and not format.narrow))


def linear_codes(x: Tensor, format: IntFormat, scale: Tensor | None = None) -> Tensor:
    """Integer codes clip(round(x / d), min, max) as floats; the gradient is that of x / d where x is in the range.

    Args:
        x: values.
        format: its codes span `unit_range`.
        scale: the step d as a tensor, where it is at hand.

    Raises:
        NumericsError: `x` is not finite.
    """
    require_finite(x, "the tensor to quantize")
    steps = x / (unit_step(format) if scale is None else scale)
    codes = steps.detach().round().clamp(format.min, format.max)
    low, high = unit_range(format)
    inside = (x.detach() >= low) & (x.detach() <= high)
    return straight_through_where(steps, codes, inside)


def linear_quant(x: Tensor, format: IntFormat) -> Tensor:
    """LinearQuant: x on the levels of an integer format over `unit_range`; the gradient passes inside the range.

    Raises:
        NumericsError: `x` is not finite.

    Example:
        >>> linear_quant(torch.tensor([-2.0, -0.3, 0.0, 0.4, 2.0]), IntFormat(2)).tolist()
        [-1.0, -0.5, 0.0, 0.5, 0.5]
    """
    return linear_codes(x, format) * unit_step(format)


def log_quant(x: Tensor, format: LogFormat) -> Tensor:
    """LogQuant: x as a power of two by AP2, clipped; zero below half the smallest one. The gradient passes inside.

    Raises:
        NumericsError: `x` is not finite.

    Example:
        >>> log_quant(torch.tensor([-2.0, -0.3, 0.0, 0.1, 0.6]), LogFormat(3)).tolist()
        [-1.0, -0.25, 0.0, 0.0, 0.5]
    """
    largest = 2.0**format.max_exponent
    return straight_through_where(x, round_to_format(x.detach(), format), x.detach().abs() <= largest)


def scaled_codes(
    g: Tensor, format: Format, rounding: Rounding = "stochastic", key: Key | None = None
) -> tuple[Tensor, Tensor | None]:
    """A neural gradient as codes and their one scale, which maps max |g| to the largest code.

    Without bias when rounded stochastically. A gradient of zeros gives zeros. Infinity and NaN are handed back as they
    came, with no scale, so that whoever looks for overflows sees them.

    Args:
        format: signed integers, a logarithmic format up to 1, or binary.

    Raises:
        FormatError: the format is of another kind.
        NumericsError: stochastic rounding has no key.

    Example:
        >>> scaled_codes(torch.tensor([0.5, -0.25, 0.0]), IntFormat(6, narrow=True), "nearest_even")[0].tolist()
        [31.0, -16.0, 0.0]
    """
    require_gradient_format(format)
    largest = g.abs().amax() if g.numel() else g.new_zeros(())
    if not bool(torch.isfinite(largest)):
        return g, None
    tiny = torch.finfo(g.dtype).tiny
    if isinstance(format, IntFormat):
        scale = (largest / format.max).clamp(min=tiny)
        return apply_rounding((g / scale).clamp(-format.max, format.max), rounding, key), scale
    scale = largest.clamp(min=tiny)
    share = g / scale
    if isinstance(format, LogFormat):
        return round_to_format(share, format, rounding, key), scale
    signs = sign(share) if rounding == "nearest_even" else 2 * apply_rounding((share + 1) / 2, rounding, key) - 1
    return torch.where(largest > 0, signs, 0.0), scale


def require_gradient_format(format: Format) -> None:
    """Refuse formats that have no largest code with both signs.

    Raises:
        FormatError: naming the format.
    """
    fits = isinstance(format, BinaryFormat) or (isinstance(format, IntFormat) and format.signed)
    if not fits and not (isinstance(format, LogFormat) and format.max_exponent == 0):
        raise FormatError(
            f"{format}: a gradient on its own scale takes signed integers such as 'int6n', a logarithmic format such "
            f"as 'log6', or 'binary'"
        )
