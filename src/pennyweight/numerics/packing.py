"""Bit packing: codes of 1 to 8 bits into bytes, signs into 64-bit words."""

import torch
from torch import Tensor

from pennyweight.errors import NumericsError

WORD_BITS = 64


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack unsigned codes densely, the first code in the lowest bits of the first byte.

    Args:
        codes: integers in [0, 2^bits), any shape, read in row-major order.
        bits: 1 to 8.

    Returns:
        uint8 of ceil(count * bits / 8) bytes; the unused bits of the last are 0.

    Raises:
        NumericsError: a code does not fit.
    """
    assert 1 <= bits <= 8, bits
    flat = codes.flatten()
    if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >= 1 << bits):
        raise NumericsError(
            f"codes lie in [{int(flat.min())}, {int(flat.max())}]; {bits} bits hold 0 to {(1 << bits) - 1}"
        )
    if bits == 8:
        return flat.to(torch.uint8)
    planes = (flat.to(torch.uint8)[:, None] >> torch.arange(bits, dtype=torch.uint8, device=flat.device)) & 1
    stream = planes.flatten()
    stream = torch.cat([stream, stream.new_zeros(-stream.numel() % 8)])
    return _bytes_of(stream)


def _bytes_of(stream: Tensor) -> Tensor:
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=stream.device)
    return (stream.view(-1, 8) * weights).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of `pack_bits` as uint8.

    Raises:
        NumericsError: there are not exactly the bytes that `count` codes take.
    """
    assert 1 <= bits <= 8, bits
    if packed.dtype != torch.uint8 or packed.numel() != -(-count * bits // 8):
        raise NumericsError(
            f"{count} codes of {bits} bits take {-(-count * bits // 8)} bytes of uint8, "
            f"not {packed.numel()} of {packed.dtype}"
        )
    if bits == 8:
        return packed.flatten().clone()
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    stream = ((packed.flatten()[:, None] >> shifts) & 1).flatten()[: count * bits].view(count, bits)
    weights = (1 << torch.arange(bits, device=packed.device)).to(torch.uint8)
    return (stream * weights).sum(-1, dtype=torch.uint8)


def pack_signs(x: Tensor) -> Tensor:
    """Signs of the last dimension as bits of 64-bit words: bit = 1 where x >= 0 (-0 included), padding bits 0.

    Args:
        x: (..., K), without NaN.

    Returns:
        (..., ceil(K / 64)) int64, element k in bit k % 64 of word k // 64.

    Raises:
        NumericsError: NaN has no sign.
    """
    if bool(torch.isnan(x).any()):
        index = tuple(int(i) for i in torch.isnan(x).nonzero()[0])
        raise NumericsError(f"NaN at index {index} has no sign to pack")
    *lead, k = x.shape
    words = -(-k // WORD_BITS)
    bits = torch.zeros((*lead, words * WORD_BITS), dtype=torch.uint8, device=x.device)
    bits[..., :k] = x >= 0
    return _bytes_of(bits.flatten()).view(torch.int64).view(*lead, words)


def unpack_signs(words: Tensor, k: int) -> Tensor:
    """The first `k` signs of each row of words as float32 +1 and -1: (..., ceil(k / 64)) -> (..., k)."""
    assert words.dtype == torch.int64
    assert words.shape[-1] == -(-k // WORD_BITS), (words.shape, k)
    shifts = torch.arange(8, dtype=torch.uint8, device=words.device)
    as_bytes = words.contiguous().view(torch.uint8)
    bits = ((as_bytes[..., None] >> shifts) & 1).flatten(-2)[..., :k]
    return bits.to(torch.float32) * 2 - 1
