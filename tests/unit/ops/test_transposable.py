"""Transposable masks of whole weights: every backend against the readable truth and flows; both products' matrices."""

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from oracles.transposable import best_by_enumeration, best_by_flow
from pennyweight import ops
from pennyweight.errors import NumericsError
from pennyweight.masks.transposable import as_matrices, is_transposable, to_tiles
from pennyweight.ops.transposable import transposable_mask

COMPILED = [name for name in ops.available_backends() if name != "reference"]
SOLVERS = ("exact", "greedy_swap", "greedy_keep", "greedy_prune")


def scores_of(*shape: int, kind: str = "gaussian", seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "tied":
        return torch.randint(0, 3, shape, generator=generator).float()
    scores = torch.randn(shape, generator=generator).abs()
    return scores.bfloat16().float() if kind == "bfloat16" else scores


@functools.cache
def reference_mask(kind: str, n: int, m: int, solver: str) -> tuple[Tensor, Tensor]:
    """Scores, ragged and of more tiles than lanes, and their mask."""
    scores = scores_of(2 * m + 3, 9 * m + 1, kind=kind)
    with ops.use_backend("reference"):
        return scores, transposable_mask(scores, n, m, solver=solver)


@functools.cache
def large_reference_mask(n: int, m: int) -> tuple[Tensor, Tensor]:
    scores = torch.cat([scores_of(m, m), scores_of(m, m, kind="tied")], dim=1)
    with ops.use_backend("reference"):
        return scores, transposable_mask(scores, n, m)


@pytest.fixture
def two_threads() -> Iterator[None]:
    ops.set_num_threads(2)
    yield
    ops.set_num_threads(None)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("kind", ["gaussian", "tied", "bfloat16"])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (2, 5), (4, 8), (7, 8), (5, 12), (8, 16), (3, 19)])
def test_every_backend_returns_the_reference_mask(backend: str, kind: str, n: int, m: int) -> None:
    for solver in SOLVERS:
        scores, expected = reference_mask(kind, n, m, solver)
        with ops.use_backend(backend):
            assert torch.equal(transposable_mask(scores, n, m, solver=solver), expected), solver


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(("n", "m"), [(16, 32), (40, 64)])
def test_large_tiles_too(backend: str, n: int, m: int) -> None:
    scores, expected = large_reference_mask(n, m)
    with ops.use_backend(backend):
        assert torch.equal(transposable_mask(scores, n, m), expected)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("kind", ["gaussian", "tied"])
def test_every_backend_returns_the_best_of_all_masks_and_the_flows(backend: str, kind: str) -> None:
    with ops.use_backend(backend):
        for n, m, count, oracle in ((2, 4, 40, best_by_enumeration), (3, 4, 10, best_by_enumeration),
                                    (4, 8, 10, best_by_flow), (3, 8, 10, best_by_flow)):  # fmt: skip
            tiles = scores_of(count, m, m, kind=kind, seed=1)
            mask = transposable_mask(tiles.transpose(0, 1).reshape(m, count * m), n, m)
            for tile, kept in zip(tiles, mask.reshape(m, count, m).transpose(0, 1), strict=True):
                assert kept.int().tolist() == oracle(tile.tolist(), n)


@pytest.mark.usefixtures("two_threads")
def test_threads_change_nothing() -> None:
    scores = scores_of(70, 1100, kind="bfloat16")
    two = [transposable_mask(scores, n, m, solver=solver) for n, m in ((2, 4), (4, 8)) for solver in SOLVERS]
    ops.set_num_threads(1)
    one = [transposable_mask(scores, n, m, solver=solver) for n, m in ((2, 4), (4, 8)) for solver in SOLVERS]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def line_counts(matrix: Tensor, m: int) -> Tensor:
    """Of each aligned group of m along the last axis."""
    return matrix.reshape(len(matrix), -1, m).sum(2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_both_products_of_a_linear_layer_are_sparse(solver: str) -> None:
    mask = transposable_mask(scores_of(24, 40), 4, 8, solver=solver)
    for matrix in (mask, mask.t().contiguous()):
        assert int(line_counts(matrix, 8).max()) <= 4
        if solver in ("exact", "greedy_swap"):
            assert int(line_counts(matrix, 8).min()) == 4
    assert is_transposable(mask, 4, 8)


@pytest.mark.parametrize("shape", [(16, 24, 3, 3), (8, 16, 5), (8, 8, 2, 1, 3)])
def test_both_products_of_a_convolution_are_sparse(shape: tuple[int, ...]) -> None:
    mask = transposable_mask(scores_of(*shape), 2, 4)
    axes = range(2, len(shape))
    forward = mask.permute(0, *axes, 1).reshape(shape[0], -1)  # (outputs, positions * inputs)
    backward = mask.permute(1, *axes, 0).reshape(shape[1], -1)  # (inputs, positions * outputs)
    for matrix in (forward, backward):
        assert bool((line_counts(matrix, 4) == 2).all())


def test_those_are_the_matrices_a_convolution_multiplies_by() -> None:
    x, weight = scores_of(2, 8, 5, 5), scores_of(12, 8, 3, 3, seed=1)
    forward = weight.permute(0, 2, 3, 1).reshape(12, -1)
    windows = x.permute(0, 2, 3, 1).unfold(1, 3, 1).unfold(2, 3, 1)  # (batch, row, column, inputs, 3, 3)
    columns = windows.permute(0, 1, 2, 4, 5, 3).reshape(2 * 9, -1)
    expected = torch.nn.functional.conv2d(x, weight)
    torch.testing.assert_close((columns @ forward.t()).reshape(2, 3, 3, 12).permute(0, 3, 1, 2), expected)
    gradient = scores_of(2, 12, 3, 3, seed=2)
    backward = weight.permute(1, 2, 3, 0).reshape(8, -1)
    padded = torch.nn.functional.pad(gradient, (2, 2, 2, 2)).permute(0, 2, 3, 1).unfold(1, 3, 1).unfold(2, 3, 1)
    columns = padded.flip(4, 5).permute(0, 1, 2, 4, 5, 3).reshape(2 * 25, -1)
    expected = torch.nn.grad.conv2d_input(list(x.shape), weight, gradient)
    torch.testing.assert_close((columns @ backward.t()).reshape(2, 5, 5, 8).permute(0, 3, 1, 2), expected)


def test_tiles_of_a_grouped_convolution_stay_in_their_group() -> None:
    scores = scores_of(12, 4, 3, 3)  # 3 groups of 4 outputs and 4 inputs
    mask = transposable_mask(scores, 2, 4, groups=3)
    for part, kept in zip(scores.chunk(3), mask.chunk(3), strict=True):
        assert torch.equal(transposable_mask(part, 2, 4), kept)


def test_lines_of_ragged_tiles_keep_at_most_n_and_full_ones_exactly_n() -> None:
    mask = transposable_mask(scores_of(10, 13), 2, 4)
    assert is_transposable(mask, 2, 4)
    assert bool((line_counts(mask[:8, :12], 4) == 2).all())
    assert bool((line_counts(mask[:8, :12].t(), 4) == 2).all())
    padded = torch.zeros(12, 16)
    padded[:10, :13] = scores_of(10, 13)
    assert torch.equal(mask, transposable_mask(padded, 2, 4)[:10, :13])


def test_all_zero_tiles_get_the_first_mask() -> None:
    scores = torch.zeros(8, 8)
    scores[0, 4] = -0.0
    tile = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).bool()
    assert torch.equal(transposable_mask(scores, 2, 4), tile.repeat(2, 2))


def test_views_and_narrow_types_give_the_same_mask() -> None:
    scores = scores_of(40, 24, kind="bfloat16")
    expected = transposable_mask(scores, 4, 8)
    assert torch.equal(transposable_mask(scores.t().contiguous().t(), 4, 8), expected)
    assert torch.equal(transposable_mask(scores.bfloat16(), 4, 8), expected)
    assert torch.equal(transposable_mask(scores.double(), 4, 8), expected)
    assert torch.equal(transposable_mask(scores[::1].requires_grad_(), 4, 8), expected)
    convolution = scores_of(8, 8, 3, 3)
    channels_last = convolution.contiguous(memory_format=torch.channels_last)
    assert torch.equal(transposable_mask(channels_last, 2, 4), transposable_mask(convolution, 2, 4))


def test_a_mask_is_written_where_asked() -> None:
    scores, out = scores_of(16, 16), torch.ones(16, 16, dtype=torch.bool)
    assert transposable_mask(scores, 2, 4, out=out) is out
    assert torch.equal(out, transposable_mask(scores, 2, 4))
    with pytest.raises(NumericsError, match="out is torch"):
        transposable_mask(scores, 2, 4, out=out[:8])


def test_the_entropic_solver_fills_every_line() -> None:
    scores = scores_of(24, 16, 1, 1)
    mask = transposable_mask(scores, 4, 8, solver="entropic")
    tiles = to_tiles(as_matrices(mask), 8)
    assert bool((tiles.sum(1) == 4).all())
    assert bool((tiles.sum(2) == 4).all())
    best = transposable_mask(scores, 4, 8)
    assert float((scores * mask).sum()) > 0.998 * float((scores * best).sum())


@pytest.mark.usefixtures("unchecked")
def test_what_has_no_mask_is_refused_in_words() -> None:
    scores = scores_of(16, 16)
    with pytest.raises(NumericsError, match="did you mean 'greedy_swap'"):
        transposable_mask(scores, 2, 4, solver="greedy_swop")  # type: ignore[arg-type]
    with pytest.raises(NumericsError, match="n:m = 4:4"):
        transposable_mask(scores, 4, 4)
    with pytest.raises(NumericsError, match="smaller than the 32 x 32 tile"):
        transposable_mask(scores, 16, 32)
    scores[2, 3] = float("nan")
    with pytest.raises(NumericsError, match=r"index \(2, 3\)"):
        transposable_mask(scores, 2, 4)
    with pytest.raises(NumericsError, match="hold inf"):
        transposable_mask(torch.full((16, 16), 1e200, dtype=torch.float64), 2, 4)
    with pytest.raises(NumericsError, match="floating-point"):
        transposable_mask(torch.ones(16, 16, dtype=torch.int64), 2, 4)
