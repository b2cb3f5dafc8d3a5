"""Properties of N:M masks and of unbiased pruning, over arbitrary values, patterns and shapes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pennyweight.masks.mvue import mvue, mvue_variance
from pennyweight.masks.nm import NM, is_nm, nm_mask
from pennyweight.masks.packed import pack_mask, pack_nm, unpack_mask, unpack_nm
from pennyweight.numerics.random import Key
from pennyweight.ops import nm_masks
from properties.strategies import matrices, nm_patterns


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@given(matrices(), nm_patterns(), st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_masks_keep_n_and_what_is_pruned_is_no_larger(x: Tensor, pattern: NM, axis: int) -> None:
    mask = nm_mask(x, pattern, axis)
    assert is_nm(mask, pattern, axis)
    assert torch.equal(nm_mask(-x, pattern, axis), mask)
    assert torch.equal(nm_mask(x.t(), pattern, 1 - axis), mask.t())
    assert torch.equal(nm_masks.nm_mask(x, pattern, axis), mask)
    assert torch.equal(unpack_mask(pack_mask(mask), x.shape[1]), mask)
    kept = torch.where(mask, x, torch.zeros_like(x))
    assert same_bits(unpack_nm(pack_nm(x, mask, pattern, axis)), kept)
    again = nm_mask(kept, pattern, axis)
    assert same_bits(torch.where(again, kept, torch.zeros_like(x)), kept)  # pruning twice is pruning once


@given(matrices(bound=2.0**100), nm_patterns(), st.sampled_from([0, 1]), st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_pruning_keeps_n_signs_zeros_and_what_fits(x: Tensor, pattern: NM, axis: int, seed: int) -> None:
    pruned = mvue(x, pattern, Key(seed), axis)
    assert is_nm(pruned, pattern, axis)
    stays = pruned != 0
    assert torch.equal(pruned[stays].sign(), x[stays].sign())
    assert bool((pruned[stays].abs() >= x[stays].abs() * (1 - 1e-6)).all())
    assert torch.equal(mvue(-x, pattern, Key(seed), axis), -pruned)
    assert same_bits(nm_masks.mvue(x, pattern, Key(seed), axis), pruned)
    if is_nm(x, pattern, axis):
        assert torch.equal(pruned, x)
        assert float(mvue_variance(x, pattern, axis).sum()) == 0.0
