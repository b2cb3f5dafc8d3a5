"""N:M masks against every subset tried, and their groups, layouts and refusals."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from oracles.nm_sparsity import best_subset
from pennyweight.errors import FormatError, NumericsError
from pennyweight.masks.nm import (
    NM,
    from_gemm_matrix,
    from_groups,
    gemm_matrix,
    is_nm,
    nm_mask,
    saturation,
    to_groups,
)

PATTERNS = [NM(1, 2), NM(2, 4), NM(1, 4), NM(3, 4), NM(3, 5), NM(4, 8), NM(2, 7)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_subsets(scores: Tensor, pattern: NM, axis: int) -> Tensor:
    """The mask, group by group, by trying every subset."""
    lines = scores if axis == 1 else scores.t()
    mask = torch.zeros(lines.shape, dtype=torch.bool)
    for r, line in enumerate(lines.tolist()):
        for start in range(0, len(line), pattern.m):
            for place in best_subset(line[start : start + pattern.m], pattern.n):
                mask[r, start + place] = True
    return mask if axis == 1 else mask.t()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("shape", [(8, 16), (7, 13), (1, 3), (3, 1), (5, 8)])
def test_the_mask_keeps_the_best_subset_of_every_group(pattern: NM, axis: int, shape: tuple[int, int]) -> None:
    for scores in (normal(*shape), normal(*shape).round(), torch.zeros(shape)):  # rounded ones tie often
        assert torch.equal(nm_mask(scores, pattern, axis), by_subsets(scores, pattern, axis))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_dtype(dtype: torch.dtype) -> None:
    scores = normal(6, 12).to(dtype)
    assert torch.equal(nm_mask(scores, NM(2, 4)), by_subsets(scores.double(), NM(2, 4), 1))


def test_of_equal_magnitudes_the_first_stay() -> None:
    tied = torch.tensor([[0.0, -1.0, 1.0, -1.0, 5.0, -0.0, 0.0, 0.0]])
    assert nm_mask(tied, NM(2, 4)).int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]


def test_a_mask_is_n_of_m_on_its_axis_and_saturated() -> None:
    scores = normal(64, 64)
    for axis in (0, 1):
        mask = nm_mask(scores, NM(4, 8), axis)
        assert is_nm(mask, NM(4, 8), axis)
        assert saturation(mask, NM(4, 8), axis) == 1.0
        assert not is_nm(mask, NM(4, 8), 1 - axis)
    assert saturation(torch.zeros(4, 8, dtype=torch.bool), NM(2, 4)) == 0.0
    assert saturation(torch.zeros(4, 3, dtype=torch.bool), NM(2, 4)) == 1.0


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (0, 0)])
def test_empty_matrices(shape: tuple[int, int]) -> None:
    for axis in (0, 1):
        assert nm_mask(torch.zeros(shape), NM(2, 4), axis).shape == shape
        assert is_nm(torch.zeros(shape), NM(2, 4), axis)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = normal(4, 8)
    scores[2, 3] = bad
    with pytest.raises(NumericsError, match=r"scores of an N:M mask holds .* at index \(2, 3\)"):
        nm_mask(scores, NM(2, 4))


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(NumericsError, match=r"shape \(2, 2, 2\).*gemm_matrix"):
        nm_mask(torch.zeros(2, 2, 2), NM(1, 2))
    with pytest.raises(NumericsError, match="int64"):
        nm_mask(torch.zeros(2, 2, dtype=torch.int64), NM(1, 2))
    with pytest.raises(NumericsError, match="axis=2"):
        nm_mask(torch.zeros(2, 2), NM(1, 2), 2)


@pytest.mark.parametrize("text", ["4:4", "5:4", "0:4", "1:65", "2", "2:4:8", "a:b", "-1:4", ""])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(FormatError):
        NM.parse(text)


def test_patterns_say_what_they_are() -> None:
    assert str(NM.parse("4:8")) == "4:8"
    assert Fraction(NM(1, 4).density) == Fraction(1, 4)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(8, 12), (7, 5), (1, 1), (4, 0), (0, 4)])
def test_groups_and_back(axis: int, shape: tuple[int, int]) -> None:
    x = normal(*shape)
    groups = to_groups(x, 4, axis)
    assert groups.shape == (-(-shape[axis] // 4) * shape[1 - axis], 4)
    assert torch.equal(from_groups(groups, shape, axis), x)


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3), (6, 4, 3, 2), (5, 3, 2, 3, 2)])
def test_a_convolutions_matrix_has_inputs_innermost(shape: tuple[int, ...]) -> None:
    weight = normal(*shape)
    matrix = gemm_matrix(weight)
    assert matrix.shape == (shape[0], math.prod(shape[1:]))
    assert torch.equal(matrix[2, : shape[1]], weight[(2, slice(None), *[0] * (len(shape) - 2))])
    assert torch.equal(from_gemm_matrix(matrix, weight.shape), weight)
