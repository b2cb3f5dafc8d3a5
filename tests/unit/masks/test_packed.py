"""Packed masks and packed N:M matrices: sizes, bits, and the way back."""

import pytest
import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.masks.nm import NM, nm_mask
from pennyweight.masks.packed import index_bits, pack_mask, pack_nm, places_of, unpack_mask, unpack_nm


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 16), (3, 13), (5, 1), (0, 8), (4, 0)])
def test_masks_and_back(shape: tuple[int, int]) -> None:
    mask = normal(*shape) > 0
    bits = pack_mask(mask)
    assert bits.shape == (shape[0], -(-shape[1] // 8))
    for row, column in mask.nonzero().tolist():
        assert int(bits[row, column // 8]) >> column % 8 & 1
    assert torch.equal(unpack_mask(bits, shape[1]), mask)


def test_damaged_masks_are_refused() -> None:
    with pytest.raises(NumericsError, match="2 bytes"):
        unpack_mask(torch.zeros(3, 1, dtype=torch.uint8), 9)
    with pytest.raises(NumericsError, match="damaged"):
        unpack_mask(torch.full((1, 2), 255, dtype=torch.uint8), 9)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("pattern", [NM(1, 2), NM(2, 4), NM(3, 5), NM(4, 8), NM(8, 16), NM(3, 33)], ids=str)
@pytest.mark.parametrize("shape", [(16, 32), (7, 13), (1, 3), (0, 4), (4, 0)])
def test_matrices_and_back_bit_for_bit(pattern: NM, axis: int, shape: tuple[int, int]) -> None:
    x = normal(*shape)
    if x.numel():
        x[0, 0] = -0.0
    mask = nm_mask(x, pattern, axis)
    mask &= normal(*shape, seed=1) > -0.7  # some groups keep fewer than n
    dense = unpack_nm(pack_nm(x, mask, pattern, axis))
    expected = torch.where(mask, x, torch.zeros_like(x))
    assert torch.equal(dense.view(torch.int32), expected.view(torch.int32))


def test_the_size_of_halves_at_two_of_four_is_nine_sixteenths() -> None:
    x = normal(64, 64).half()
    packed = pack_nm(x, nm_mask(x, NM(2, 4)), NM(2, 4))
    assert packed.num_bytes * 16 == 9 * x.numel() * 2
    assert index_bits(4) == 2
    places = places_of(packed).reshape(-1, 2)
    assert bool((places[:, 0] < places[:, 1]).all())


def test_a_mask_that_keeps_too_many_is_refused() -> None:
    with pytest.raises(NumericsError, match="more than 2 of 4 along axis 1"):
        pack_nm(torch.ones(2, 8), torch.ones(2, 8, dtype=torch.bool), NM(2, 4))
