"""Philox bits of the C++ library: the published test vectors, and equality with numerics.random."""

import pytest
import torch

from pennyweight import ops
from pennyweight.errors import KernelError
from pennyweight.numerics.random import Key, random_bits


def test_published_vector() -> None:
    # Random123, kat_vectors: philox4x32 10 rounds, counter and key zero
    assert ops.philox_bits(4, (0, 0)).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 1001, 70_000])
@pytest.mark.parametrize("seed", [0, 7])
def test_same_bits_as_numerics(n: int, seed: int) -> None:
    key = Key(seed).fold("noise", 3)
    assert torch.equal(ops.philox_bits(n, key.words), random_bits((n,), key))


def test_refusals() -> None:
    with pytest.raises(KernelError, match="n = -1"):
        ops.philox_bits(-1, (0, 0))
    with pytest.raises(KernelError, match="key_words"):
        ops.philox_bits(1, (1 << 32, 0))
    with pytest.raises(KernelError, match=r"out is torch\.int32"):
        ops.philox_bits(2, (0, 0), out=torch.empty(2, dtype=torch.int32))
