"""Philox4x32-10 bits from the C++ library: the same ones as `numerics.random`, sooner."""

import torch
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.kernels.library import library
from pennyweight.ops import dispatch


def philox_bits(n: int, key_words: tuple[int, int], out: Tensor | None = None) -> Tensor:
    """Counter-based random bits, element i being word i mod 4 of block i // 4.

    Args:
        n: how many.
        key_words: the two 32-bit words of the key.
        out: int64 (n,), contiguous, to write into.

    Returns:
        int64 (n,) in [0, 2^32).

    Raises:
        KernelError: a key word is not a 32-bit number, n is negative, `out` does not fit, or the library is not built.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Example:
        >>> philox_bits(4, (0, 0)).tolist()
        [1713891541, 3781805453, 3159862348, 2600524760]
    """
    if n < 0 or any(not 0 <= word < 1 << 32 for word in key_words):
        raise KernelError(f"n = {n}, key_words = {key_words}: n is at least 0 and both key words lie in [0, 2^32)")
    if out is None:
        out = torch.empty(n, dtype=torch.int64)
    elif out.dtype != torch.int64 or tuple(out.shape) != (n,) or not out.is_contiguous():
        raise KernelError(f"out is {out.dtype} of shape {tuple(out.shape)}; expected contiguous int64 of shape ({n},)")
    library().pw_philox(key_words[0], key_words[1], n, out.data_ptr(), dispatch.num_threads())
    return out
