"""The C++ masks and pruning against the references in torch: the same bits, whatever the threads and shapes."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pennyweight import ops
from pennyweight.errors import KernelError, NumericsError
from pennyweight.masks import mvue as pruning
from pennyweight.masks import nm
from pennyweight.masks.nm import NM
from pennyweight.masks.packed import pack_mask, unpack_nm
from pennyweight.numerics.random import Key
from pennyweight.ops import dispatch
from pennyweight.ops.nm_masks import mvue, mvue_packed, nm_mask, nm_mask_bits

KEY = Key(3).fold("kernel")
PATTERNS = [
    NM(1, 2), NM(2, 4), NM(1, 4), NM(3, 4), NM(3, 5), NM(4, 8), NM(1, 8), NM(8, 16), NM(16, 32), NM(7, 31), NM(63, 64),
]  # fmt: skip
SHAPES = [(1, 64), (64, 1), (32, 128), (7, 13), (128, 36), (5, 8), (0, 8), (8, 0), (33, 260)]


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    ops.set_num_threads(request.param)
    yield
    ops.set_num_threads(None)


def same_bits(a: Tensor, b: Tensor) -> bool:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.view(integer), b.view(integer))


def awkward(*shape: int) -> list[Tensor]:
    """Normal values, ties, a whole range of exponents, groups with few nonzeros, both zeros, huge and tiny ones."""
    source = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=source)
    wide = torch.exp2((torch.randn(shape, generator=source) * 60).clamp(-149, 126)) * x.sign()
    few = torch.where(torch.rand(shape, generator=source) < 0.6, x * 0.0, x)
    return [x, x.round(), wide, few, torch.full(shape, 3e38), torch.full(shape, -1e-45), torch.zeros(shape)]


def test_the_library_runs_here() -> None:
    nm_mask(torch.ones(2, 4), NM(2, 4))
    assert ops.explain().ran["nm_mask"] == dispatch.current_backend() != "reference"


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_references_bit_for_bit(pattern: NM, axis: int, shape: tuple[int, int]) -> None:
    for x in awkward(*shape):
        expected = nm.nm_mask(x, pattern, axis)
        assert torch.equal(nm_mask(x, pattern, axis), expected)
        assert torch.equal(nm_mask_bits(x, pattern, axis), pack_mask(expected))
        assert same_bits(mvue(x, pattern, KEY, axis), pruning.mvue(x, pattern, KEY, axis))


@pytest.mark.parametrize("axis", [0, 1])
def test_large_matrices_of_many_tasks(axis: int) -> None:
    x = torch.randn(1028, 516, generator=torch.Generator().manual_seed(2))
    assert torch.equal(nm_mask(x, NM(4, 8), axis), nm.nm_mask(x, NM(4, 8), axis))
    assert same_bits(mvue(x, NM(2, 4), KEY, axis), pruning.mvue(x, NM(2, 4), KEY, axis))
    wide = torch.randn(4, 9001, generator=torch.Generator().manual_seed(2))
    assert same_bits(mvue(wide, NM(2, 4), KEY, axis), pruning.mvue(wide, NM(2, 4), KEY, axis))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_strides(dtype: torch.dtype) -> None:
    x = torch.randn(24, 40, generator=torch.Generator().manual_seed(3)).to(dtype).t()
    assert torch.equal(nm_mask(x, NM(2, 4)), nm.nm_mask(x, NM(2, 4)))
    assert same_bits(mvue(x, NM(2, 4), KEY), pruning.mvue(x, NM(2, 4), KEY))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_with_its_place(bad: float, axis: int) -> None:
    cases = [((8, 16), (5, 9), NM(2, 4)), ((7, 13), (6, 12), NM(4, 8)), ((300, 300), (299, 299), NM(2, 4))]
    for shape, place, pattern in cases:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(4))
        x[place] = bad
        where = rf"index \({place[0]}, {place[1]}\)"
        with pytest.raises(NumericsError, match=f"scores of an N:M mask holds .* at {where}"):
            nm_mask(x, pattern, axis)
        with pytest.raises(NumericsError, match=f"matrix to prune holds .* at {where}"):
            mvue(x, pattern, KEY, axis)


def test_outputs_are_written_in_place() -> None:
    x = torch.randn(8, 16)
    bits, dense = torch.empty(8, 2, dtype=torch.uint8), torch.empty(8, 16)
    assert nm_mask_bits(x, NM(2, 4), out=bits) is bits
    assert mvue(x, NM(2, 4), KEY, out=dense) is dense
    assert same_bits(dense, pruning.mvue(x, NM(2, 4), KEY))
    with ops.use_backend("reference"):
        assert same_bits(mvue(x, NM(2, 4), KEY, out=torch.empty(8, 16)), dense)
        assert torch.equal(nm_mask_bits(x, NM(2, 4)), bits)
    with pytest.raises(KernelError, match="expected contiguous"):
        mvue(x, NM(2, 4), KEY, out=torch.empty(8, 15))


@pytest.mark.parametrize("axis", [0, 1])
def test_values_and_places_are_the_dense_matrix(axis: int) -> None:
    x = torch.randn(12, 20, generator=torch.Generator().manual_seed(5))
    packed = mvue_packed(x, NM(2, 4), KEY, axis)
    assert same_bits(unpack_nm(packed), mvue(x, NM(2, 4), KEY, axis))
    assert packed.values.shape[axis] == x.shape[axis] // 2
