"""Block-scaled floats: MXFP8, MXFP6, MXFP4 and NVFP4. Blocks run along the last dimension; formats are in `formats`.

An MX block's scale is 2^(floor(log2 max|x|) - emax), emax being the exponent of the element format's largest value;
elements are x / scale, rounded to nearest even, and saturate. NVFP4 scales the tensor so that its largest block scale
is e4m3's largest value, and rounds a block's max|x| / 6 to e4m3.

Defined here, where the formats leave it open: a block that holds NaN or infinity has the scale NaN, and all of it
decodes to NaN; a block of zeros has MX's smallest scale, or NVFP4's zero; an NVFP4 scale that rounds to zero makes its
block zero.

Source: OCP microscaling formats (MX) 1.0, section 6.3, for the scale; NVFP4 as NVIDIA describes it for Blackwell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.codec import decode, encode, round_to_format
from pennyweight.numerics.formats import BlockFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding
from pennyweight.numerics.shift import power_of_two

_BIAS, _NAN = 127, 255  # of E8M0


@dataclass(frozen=True, eq=False)
class Blocks:
    """A tensor in a block format.

    Args:
        elements: codes of the values over their scales, int64, of the tensor's shape.
        scales: codes of the scales, int64 (..., blocks).
        tensor_scale: float32 (), of "nvfp4"; None for the others.
        format: of the codes.
    """

    elements: Tensor
    scales: Tensor
    tensor_scale: Tensor | None
    format: BlockFormat


def num_blocks(length: int, format: BlockFormat) -> int:
    """Blocks of a row; the last may be short."""
    return -(-length // format.block_size)


def block_bits(shape: Sequence[int], format: BlockFormat) -> int:
    """Bits of a whole tensor: elements, scales and the tensor's own scale.

    Example:
        >>> block_bits((2, 33), BlockFormat("mxfp4")) == 2 * (33 * 4 + 2 * 8)
        True
    """
    rows = torch.Size(shape[:-1]).numel()
    own = 0 if format.scale is None else 32
    return rows * (shape[-1] * format.bits + num_blocks(shape[-1], format) * 8) + own


def quantize_blocks(
    x: Tensor, format: BlockFormat, rounding: Rounding = "nearest_even", key: Key | None = None
) -> Blocks:
    """Scales, and elements rounded over them.

    Args:
        x: floats of at least one dimension, taken as float32.
        rounding: of the elements; scales follow the rules above.

    Raises:
        NumericsError: `x` has no dimension, or stochastic rounding has no key.

    Example:
        >>> blocks = quantize_blocks(torch.tensor([0.5, 3.0, -100.0]), BlockFormat("mxfp4"))
        >>> dequantize_blocks(blocks).tolist()
        [0.0, 0.0, -96.0]
    """
    if x.dim() == 0:
        raise NumericsError(f"a single number has no blocks for {format}: give at least one dimension")
    rows = _in_blocks(x.detach().float().double(), format)
    bad = ~torch.isfinite(rows).all(-1)
    rows = torch.where(bad[..., None], 0.0, rows)
    largest = rows.abs().amax(-1)
    if format.scale is None:
        scale_codes, scale = _power_scale(largest, format)
        scale_codes, own = torch.where(bad, _NAN, scale_codes), None
    else:
        own = (largest.amax() if largest.numel() else largest.new_zeros(())) / (format.element.max * format.scale.max)
        own = torch.where(own > 0, own, 1.0).float().clamp(min=torch.finfo(torch.float32).tiny)
        scale_codes = encode(largest / format.element.max / own.double(), format.scale)
        scale = decode(scale_codes, format.scale).double() * own.double()
        scale_codes = torch.where(bad, (1 << (format.scale.bits - 1)) - 1, scale_codes)
    shares = torch.where(scale[..., None] > 0, rows / scale[..., None], 0.0)
    elements = encode(round_to_format(shares, format.element, rounding, key), format.element)
    return Blocks(elements.flatten(-2)[..., : x.shape[-1]], scale_codes, own, format)


def dequantize_blocks(blocks: Blocks) -> Tensor:
    """The float32 values."""
    format = blocks.format
    if format.scale is None:
        scale = torch.where(blocks.scales == _NAN, torch.nan, power_of_two(blocks.scales - _BIAS))
    else:
        assert blocks.tensor_scale is not None
        scale = decode(blocks.scales, format.scale).double() * blocks.tensor_scale.double()
    wide = scale.repeat_interleave(format.block_size, dim=-1)[..., : blocks.elements.shape[-1]]
    return (decode(blocks.elements, format.element).double() * wide).float()


def round_to_blocks(
    x: Tensor, format: BlockFormat, axis: int = -1, rounding: Rounding = "nearest_even", key: Key | None = None
) -> Tensor:
    """The values of `x` moved to the format's grid, blocks along `axis`; same dtype and shape.

    Raises:
        NumericsError: `x` has no dimension, or stochastic rounding has no key.
    """
    moved = x.detach().movedim(axis, -1)
    return dequantize_blocks(quantize_blocks(moved, format, rounding, key)).movedim(-1, axis).to(x.dtype)


def _in_blocks(x: Tensor, format: BlockFormat) -> Tensor:
    """(..., n) -> (..., blocks, block_size), the end filled with zeros."""
    end = x.new_zeros((*x.shape[:-1], -x.shape[-1] % format.block_size))
    return torch.cat([x, end], dim=-1).reshape(*x.shape[:-1], num_blocks(x.shape[-1], format), format.block_size)


def _power_scale(largest: Tensor, format: BlockFormat) -> tuple[Tensor, Tensor]:
    """Code and value of the MX scale of blocks with these largest magnitudes."""
    _, exponent = torch.frexp(largest)
    shared = (exponent.to(torch.int64) - 1 - format.element.emax).clamp(-_BIAS, _BIAS)
    shared = torch.where(largest > 0, shared, -_BIAS)
    return shared + _BIAS, power_of_two(shared)
