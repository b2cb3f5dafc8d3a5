"""Lossless storage of tensors that hold few integers: signs, masks, sums of signs, indices."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.numerics.packing import pack_bits, unpack_bits

SMALLEST = 256
"""Tensors of fewer elements are left alone: there is nothing to gain."""
_WIDTHS = (0, 1, 2, 4, 8, 16)
_TYPES = (torch.bool, torch.int64, torch.int32, torch.float64, torch.float32, torch.float16, torch.bfloat16)
_BITS_AS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_EXACT = 1 << 24  # integers up to here are float32's own
_FRACTION_BITS = (0, 8)  # integers; and sums of pixels, which normalised by a power of two are multiples of 2^-8
_OFFSET = 1 << 15


@dataclass(frozen=True, eq=False)
class Compact:
    """A tensor of values (low + step * code) * 2^-fraction_bits, codes packed.

    Args:
        data: uint8 with the codes packed densely, or int16 less 2^15.
        bits: of a code: 0 (a constant, which needs no codes), 1, 2, 4, 8 or 16.
        low: the smallest value, times 2^fraction_bits.
        step: 1, or 2 where all values have one parity, as products of signs do.
        fraction_bits: 0 for integers.
        shape: of the tensor, its dimensions in the order of memory.
        order: the dimension of the tensor each of these is.
        dtype: of the tensor.
    """

    data: Tensor
    bits: int
    low: int
    step: int
    fraction_bits: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """What the codes take."""
        return self.data.numel() * self.data.element_size()


def compact(x: Tensor) -> Tensor | Compact:
    """The tensor in the fewest of 0, 1, 2, 4, 8 or 16 bits an element that hold it exactly, else the tensor itself.

    Every bit and the strides come back by `restore`. Left as they are: tensors with other numbers, NaN, infinities or
    -0.0; those with gaps or overlaps in memory; and small ones.

    Cost: a look at 256 elements where these are no integers; else some ten passes.

    Example:
        >>> packed = compact(torch.ones(1024).index_fill(0, torch.tensor([3]), -1.0))
        >>> packed.bits, packed.num_bytes
        (1, 128)
    """
    if x.numel() < SMALLEST or x.dtype not in _TYPES or x.layout != torch.strided:
        return x
    order = tuple(sorted(range(x.dim()), key=x.stride, reverse=True))
    dense = x.detach().permute(order)
    if not dense.is_contiguous():
        return x
    flat = dense.view(-1)
    if x.dtype == torch.bool:
        flat = flat.view(torch.uint8)
    fraction_bits = next((bits for bits in _FRACTION_BITS if _are_multiples(flat[:SMALLEST], bits)), None)
    if fraction_bits is None or not _are_multiples(flat, fraction_bits):
        return x
    codes = _integers(flat, fraction_bits)
    low, high = (int(end) for end in codes.aminmax())
    codes = codes - low  # not in place: they may be the tensor itself
    step = 1 if bool((codes & 1).any()) else 2
    largest = (high - low) // step
    bits = next((width for width in _WIDTHS if largest < 1 << width), None)
    if bits is None or bits >= 8 * x.element_size():
        return x
    data = _packed(codes // step, bits)
    return Compact(data, bits, low, step, fraction_bits, tuple(dense.shape), order, x.dtype)


def _integers(flat: Tensor, fraction_bits: int) -> Tensor:
    return (flat * 2**fraction_bits if fraction_bits else flat).to(torch.int32)


def _are_multiples(flat: Tensor, fraction_bits: int) -> bool:
    """Whether all are multiples of 2^-fraction_bits that the type holds and gives back to the bit: -0.0 is none."""
    limit = _EXACT >> fraction_bits
    if not all(-limit <= float(end) <= limit for end in flat.aminmax()):  # NaN is not, either
        return False
    if not flat.is_floating_point():
        return fraction_bits == 0
    as_bits = _BITS_AS[flat.element_size()]
    again = _values(_integers(flat, fraction_bits), fraction_bits, flat.dtype)
    return torch.equal(again.view(as_bits), flat.view(as_bits))


def _values(integers: Tensor, fraction_bits: int, dtype: torch.dtype) -> Tensor:
    values = integers.to(dtype)
    return values * 2.0**-fraction_bits if fraction_bits else values


def _packed(codes: Tensor, bits: int) -> Tensor:
    if bits == 0:
        return codes.new_empty(0, dtype=torch.uint8)
    if bits == 16:
        return (codes - _OFFSET).to(torch.int16)
    return codes.to(torch.uint8) if bits == 8 else pack_bits(codes.to(torch.uint8), bits)


def restore(stored: Tensor | Compact) -> Tensor:
    """What `compact` was given, with the same strides."""
    if isinstance(stored, Tensor):
        return stored
    count = 1
    for side in stored.shape:
        count *= side
    if stored.bits == 0:
        codes = torch.zeros(count, dtype=torch.int32, device=stored.data.device)
    elif stored.bits == 16:
        codes = stored.data.to(torch.int32) + _OFFSET
    else:
        codes = (stored.data if stored.bits == 8 else unpack_bits(stored.data, stored.bits, count)).to(torch.int32)
    values = _values(codes * stored.step + stored.low, stored.fraction_bits, stored.dtype)
    return values.view(stored.shape).permute([stored.order.index(dim) for dim in range(len(stored.order))])
