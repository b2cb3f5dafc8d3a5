"""Mask diversity against matrices written one after another, and against the paper's expression."""

import math

import pytest

from oracles.nm_sparsity import count_transposable
from pennyweight.errors import NumericsError
from pennyweight.masks.diversity import mask_diversity, transposable_masks
from pennyweight.masks.nm import NM


@pytest.mark.parametrize(("n", "m"), [(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4), (2, 5)])
def test_transposable_masks_are_counted_one_by_one(n: int, m: int) -> None:
    assert transposable_masks(NM(n, m)) == count_transposable(n, m)


@pytest.mark.parametrize("m", range(2, 9))
def test_one_a_line_is_a_permutation(m: int) -> None:
    assert transposable_masks(NM(1, m)) == math.factorial(m)


def test_complements_are_as_many() -> None:
    assert all(transposable_masks(NM(n, 9)) == transposable_masks(NM(9 - n, 9)) for n in (2, 3, 4))


def test_a_window_of_sixty_four() -> None:
    """Exactly counted, 4:8 transposable admits fewer masks than 2:4 structured; the paper's expression says more."""
    assert mask_diversity(NM(2, 4), "unstructured").count == math.comb(64, 32)
    assert mask_diversity(NM(2, 4), "structured").count == 6**16
    assert mask_diversity(NM(4, 8), "structured").count == 70**8
    assert mask_diversity(NM(2, 4), "transposable").count == 90**4
    assert mask_diversity(NM(4, 8), "transposable").count == 116_963_796_250
    assert mask_diversity(NM(4, 8), "transposable", count="paper").count == math.prod(
        math.factorial(k) for k in (8, 7, 6, 5)
    )
    exact, paper = (mask_diversity(NM(4, 8), "transposable", count=count).log10 for count in ("exact", "paper"))
    structured = mask_diversity(NM(2, 4), "structured").log10
    assert exact < structured < paper


def test_windows_that_hold_no_whole_tile_give_the_logarithm_in_proportion() -> None:
    part = mask_diversity(NM(2, 4), "transposable", window=8)
    assert part.count is None
    assert part.log10 == pytest.approx(math.log10(90) / 2)


def test_refusals() -> None:
    with pytest.raises(NumericsError, match="window=0"):
        mask_diversity(NM(2, 4), "structured", window=0)
    with pytest.raises(NumericsError, match="window=3"):
        mask_diversity(NM(2, 4), "unstructured", window=3)
    with pytest.raises(NumericsError, match="up to m = 16"):
        mask_diversity(NM(2, 32), "transposable")
