"""Counter-based random numbers: Philox4x32-10 in torch integer arithmetic, the same bits on every device and in C++.

A draw is a pure function of a key and a position. Nothing holds state, so a resumed run draws what an uninterrupted
one would have, and the order in which ranks or workers draw does not matter.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


@dataclass(frozen=True)
class Key:
    """The root of a family of draws.

    Args:
        seed: any integer.
        path: what was folded in so far.

    Example:
        >>> Key(0).fold("order", 3) == Key(0).fold("order").fold(3)
        True
    """

    seed: int
    path: tuple[int | str, ...] = ()

    def fold(self, *parts: int | str) -> "Key":
        """A key of its own for a purpose, a step, a sample: independent of every other path's."""
        return Key(self.seed, (*self.path, *(part if isinstance(part, str) else int(part) for part in parts)))

    @property
    def words(self) -> tuple[int, int]:
        """The two 32-bit words Philox is keyed with."""
        text = repr((int(self.seed), self.path)).encode()
        value = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        return value & _MASK, value >> 32


def philox4x32(counters: Tensor, key: tuple[int, int]) -> Tensor:
    """Ten rounds of Philox4x32.

    Args:
        counters: (..., 4) int64, each below 2^32.
        key: two words below 2^32.

    Returns:
        (..., 4) int64, each below 2^32.
    """
    # In place on copies of the columns: this is a chain of cheap passes over memory.
    c0, c1, c2, c3 = (column.clone(memory_format=torch.contiguous_format) for column in counters.unbind(-1))
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap, but shift and mask still find the high and low words of the unsigned product
        p0, p1 = c0.mul_(_MULTIPLIERS[0]), c2.mul_(_MULTIPLIERS[1])
        high0 = (p0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_MASK)
        high1 = (p1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_MASK)
        c0, c1, c2, c3 = high1, p1.bitwise_and_(_MASK), high0, p0.bitwise_and_(_MASK)
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack([c0, c1, c2, c3], dim=-1)


def random_bits(shape: Sequence[int], key: Key, device: torch.device | str | None = None) -> Tensor:
    """Uniform 32-bit words as int64.

    Element i of the flattened result is word i % 4 of the block with counter i // 4.
    """
    count = math.prod(shape)
    block = torch.arange(-(-count // 4), dtype=torch.int64, device=device)
    zero = torch.zeros_like(block)
    words = philox4x32(torch.stack([block & _MASK, block >> 32, zero, zero], dim=-1), key.words)
    return words.flatten()[:count].reshape(tuple(shape))


def uniform(shape: Sequence[int], key: Key, device: torch.device | str | None = None) -> Tensor:
    """Uniform float32 in [0, 1), a multiple of 2^-24."""
    return (random_bits(shape, key, device) >> 8).to(torch.float32) * 2.0**-24


def normal(shape: Sequence[int], key: Key, device: torch.device | str | None = None) -> Tensor:
    """Standard normal float32 by Box and Muller; the last bits may differ between devices."""
    count = math.prod(shape)
    u = uniform((2, count), key, device)
    radius = torch.sqrt(-2.0 * torch.log(1.0 - u[0]))  # 1 - u lies in (0, 1]
    return (radius * torch.cos(2.0 * math.pi * u[1])).reshape(tuple(shape))


def randint(low: int, high: int, shape: Sequence[int], key: Key, device: torch.device | str | None = None) -> Tensor:
    """Integers in [low, high) as int64; the bias of at most (high - low) / 2^32 is accepted."""
    assert 0 < high - low <= 1 << 31, f"randint({low}, {high}): the range must hold 1 to 2^31 integers"
    return low + ((random_bits(shape, key, device) * (high - low)) >> 32)


def permutation(n: int, key: Key) -> Tensor:
    """A random order of 0 .. n-1 as int64: the positions sorted by 62 random bits each."""
    words = random_bits((n, 2), key)
    return torch.argsort((words[:, 0] >> 1 << 31) | (words[:, 1] >> 1), stable=True)
