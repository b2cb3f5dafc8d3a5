"""The operators in readable torch: what each one means. The fast backends must equal these bit for bit.

Works on every device. Speed is not a goal; exactness is: sums of signs are exact in float64.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pennyweight.numerics import packing


def pack_signs(x: Tensor) -> Tensor:
    """Sign bits of the last dimension, 64 to a word, bit i of word j for element 64 j + i; bit 1 means x >= 0."""
    return packing.pack_signs(x)


def pack_bits(bits: Tensor) -> Tensor:
    """Booleans of the last dimension, 64 to an int64 word, the bits beyond the end zero."""
    return packing.pack_signs(bits.to(torch.int8) - 1)


def unpack_signs(words: Tensor, k: int) -> Tensor:
    """The signs +1 and -1 of packed words, as float64."""
    return packing.unpack_signs(words, k).to(torch.float64)


def binary_matmul(a_words: Tensor, b_words: Tensor, k: int) -> Tensor:
    """Product of two matrices of signs, (M, K) x (N, K) -> int32 (M, N)."""
    return (unpack_signs(a_words, k) @ unpack_signs(b_words, k).T).to(torch.int32)


def int8_binary_matmul(x: Tensor, w_words: Tensor, k: int) -> Tensor:
    """Product of int8 codes (M, K) with signs (N, K) -> int32 (M, N)."""
    return (x.to(torch.float64) @ unpack_signs(w_words, k).T).to(torch.int32)


def convolve(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    pad_value: int,
) -> Tensor:
    """Convolution of integers held as float64, the border (top, bottom, left, right) filled with `pad_value`."""
    top, bottom, left, right = padding
    padded = F.pad(x, (left, right, top, bottom), value=float(pad_value))
    return F.conv2d(padded, weight, None, stride, 0, dilation, groups)


def threshold_bits(z: Tensor, threshold: Tensor, greater: Tensor) -> Tensor:
    """Packed bits of z >= threshold where `greater`, else z <= threshold; one threshold for each column."""
    return pack_bits(torch.where(greater, z >= threshold, z <= threshold))


def quantize_codes(x: Tensor, scale: float) -> Tensor:
    """int8 codes clamp(round_half_even(x / scale), -128, 127)."""
    return torch.round(x / scale).clamp(-128, 127).to(torch.int8)
