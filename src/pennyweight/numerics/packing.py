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
    assert not codes.is_floating_point(), f"codes are integers, not {codes.dtype}"
    flat = codes.flatten()
    if flat.numel():
        low, high = (int(end) for end in flat.aminmax())
        if low < 0 or high >= 1 << bits:
            raise NumericsError(f"codes lie in [{low}, {high}]; {bits} bits hold 0 to {(1 << bits) - 1}")
    count = flat.numel()
    groups = torch.cat([flat.to(torch.uint8), flat.new_zeros(-count % 8, dtype=torch.uint8)]).view(-1, 8)
    packed = groups.new_zeros(groups.shape[0], bits)  # eight codes make `bits` whole bytes
    for i in range(8):
        byte, offset = divmod(i * bits, 8)
        packed[:, byte] |= groups[:, i] << offset
        if offset + bits > 8:
            packed[:, byte + 1] |= groups[:, i] >> (8 - offset)
    return packed.flatten()[: _num_bytes(count, bits)]


def _num_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of `pack_bits` as uint8.

    Raises:
        NumericsError: there are not exactly the bytes that `count` codes take.
    """
    assert 1 <= bits <= 8, bits
    assert count >= 0, count
    num_bytes = _num_bytes(count, bits)
    if packed.dtype != torch.uint8 or packed.numel() != num_bytes:
        raise NumericsError(
            f"{count} codes of {bits} bits take {num_bytes} bytes of uint8, not {packed.numel()} of {packed.dtype}"
        )
    groups = torch.cat([packed.flatten(), packed.new_zeros(-num_bytes % bits)]).view(-1, bits)
    codes = groups.new_empty(groups.shape[0], 8)
    for i in range(8):
        byte, offset = divmod(i * bits, 8)
        code = groups[:, byte] >> offset
        if offset + bits > 8:
            code |= groups[:, byte + 1] << (8 - offset)
        codes[:, i] = code & ((1 << bits) - 1)
    return codes.flatten()[:count]


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
    return pack_bits(bits, 1).view(torch.int64).view(*lead, words)


def unpack_signs(words: Tensor, k: int) -> Tensor:
    """The first `k` signs of each row of words as float32 +1 and -1: (..., ceil(k / 64)) -> (..., k)."""
    assert words.dtype == torch.int64
    assert words.shape[-1] == -(-k // WORD_BITS), (words.shape, k)
    shifts = torch.arange(8, dtype=torch.uint8, device=words.device)
    as_bytes = words.contiguous().view(torch.uint8)
    bits = ((as_bytes[..., None] >> shifts) & 1).flatten(-2)[..., :k]
    return bits.to(torch.float32) * 2 - 1
