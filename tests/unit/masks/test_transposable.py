"""Transposable masks on tiles: the exact one against every mask and against flows, the others by their guarantees."""

import pytest
import torch
from torch import Tensor

from oracles.transposable import best_by_enumeration, best_by_flow, best_total_by_highs, every_mask
from pennyweight.errors import NumericsError
from pennyweight.masks.transposable import (
    as_matrices,
    check_scores,
    from_matrices,
    from_tiles,
    is_transposable,
    on_grid,
    to_tiles,
)
from pennyweight.masks.transposable_entropic import entropic, entropic_plan
from pennyweight.masks.transposable_exact import exact
from pennyweight.masks.transposable_greedy import greedy_keep, greedy_prune, greedy_swap


def gaussian(count: int, m: int, seed: int = 0) -> Tensor:
    return torch.randn(count, m, m, generator=torch.Generator().manual_seed(seed)).abs()


def tied(count: int, m: int, seed: int = 0) -> Tensor:
    """Scores of three values: most tiles have many optimal masks."""
    return torch.randint(0, 3, (count, m, m), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("make", [gaussian, tied])
@pytest.mark.parametrize(("n", "m", "count"), [(1, 2, 10), (2, 3, 10), (1, 4, 10), (2, 4, 20), (3, 4, 10)])
def test_the_exact_mask_is_the_first_best_of_all_masks(make, n: int, m: int, count: int) -> None:
    tiles = make(count, m)
    for tile, mask in zip(tiles, exact(tiles, n), strict=True):
        assert mask.int().tolist() == best_by_enumeration(tile.tolist(), n)


@pytest.mark.parametrize("make", [gaussian, tied])
@pytest.mark.parametrize(("n", "m", "count"), [(3, 5, 8), (2, 6, 8), (4, 8, 8), (3, 8, 6), (1, 8, 6), (8, 16, 1)])
def test_the_exact_mask_is_the_flows_in_whole_numbers(make, n: int, m: int, count: int) -> None:
    tiles = make(count, m)
    for tile, mask in zip(tiles, exact(tiles, n), strict=True):
        assert mask.int().tolist() == best_by_flow(tile.tolist(), n)


@pytest.mark.parametrize(("n", "m", "count"), [(4, 8, 10), (8, 16, 4), (16, 32, 1)])
def test_the_exact_score_is_that_of_highs(n: int, m: int, count: int) -> None:
    tiles = gaussian(count, m, seed=1)
    masks = exact(tiles, n)
    assert bool((masks.sum(1) == n).all())
    assert bool((masks.sum(2) == n).all())
    for tile, mask in zip(tiles, masks, strict=True):
        kept = float(tile.double()[mask].sum())
        assert kept == pytest.approx(best_total_by_highs(tile.tolist(), n), abs=1e-7)


def test_the_oracle_counts_what_is_known() -> None:
    assert len(every_mask(2, 4)) == 90
    assert len(every_mask(1, 4)) == 24


def test_scores_of_very_different_sizes_and_all_zero_tiles_have_an_optimum() -> None:
    tiles = gaussian(6, 4) * torch.tensor([1e-38, 1e-20, 1.0, 1e20, 1e38, 0.0])[:, None, None]
    tiles[2, 0, 0], tiles[2, 3, 3] = 1e6, 1e-30  # and within one tile
    for tile, mask in zip(tiles, exact(tiles, 2), strict=True):
        assert mask.int().tolist() == best_by_enumeration(on_grid(tile[None])[0].tolist(), 2)
    assert exact(torch.zeros(1, 4, 4), 2)[0].int().tolist() == every_mask(2, 4)[0]
    assert exact(torch.zeros(0, 4, 4), 2).shape == (0, 4, 4)


def test_the_grid_leaves_scores_alone_down_to_two_to_the_minus_21_of_the_largest() -> None:
    tile = torch.tensor([[[1.9999999, 1e-6], [0.3, 0.0]]])
    assert torch.equal(on_grid(tile), tile.double())
    below = torch.tensor([[[1.0, 2.0**-46], [2.0**-45 * 1.01, 0.0]]])
    assert on_grid(below)[0].tolist() == [[1.0, 0.0], [2.0**-44, 0.0]]


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 8), (4, 8), (6, 8), (8, 16)])
def test_approximations_keep_their_guarantees(n: int, m: int) -> None:
    tiles = torch.cat([gaussian(40, m), gaussian(40, m, seed=1) ** 4, tied(20, m)])
    worth, best = tiles.double(), (tiles.double() * exact(tiles, n)).sum((1, 2))
    everything = worth.sum((1, 2))
    for solver in (greedy_prune, greedy_keep, greedy_swap, entropic):
        mask = solver(tiles, n)
        kept = (worth * mask).sum((1, 2))
        assert int(mask.sum(1).max()) <= n
        assert int(mask.sum(2).max()) <= n
        if solver in (greedy_swap, entropic):
            assert bool((kept <= best + 1e-9).all())
            assert bool((mask.sum(1) == n).all()), "every line is full"
            assert bool((mask.sum(2) == n).all())
        if solver is greedy_keep:
            assert bool((kept >= best / 2 - 1e-9).all())
        if solver is greedy_prune:
            assert bool((everything - kept <= 2 * (everything - best) + 1e-9).all())


def test_greedy_orders_by_score_and_then_by_place() -> None:
    tile = torch.tensor([[[4.0, 3.0], [3.0, 0.0]]])
    assert greedy_keep(tile, 1)[0].tolist() == [[True, False], [False, True]]  # 4 + 0, where 3 + 3 would be better
    assert greedy_prune(tile, 1)[0].tolist() == [[True, False], [False, False]]  # 0, then the later 3, then the earlier
    assert greedy_keep(torch.ones(1, 2, 2), 1)[0].tolist() == [[True, False], [False, True]]
    negative_zero = torch.tensor([[[-0.0, 0.0], [0.0, -0.0]]])
    assert greedy_keep(negative_zero, 1)[0].tolist() == [[True, False], [False, True]]


def test_a_swap_completes_what_keeping_leaves_short() -> None:
    # keeping takes (0, 0) and (1, 1) and is left with (2, 2), allowed; a tile of 2:3 can leave lines short
    tiles = gaussian(200, 4)
    short = (greedy_keep(tiles, 2).sum(2) < 2).any(1)
    assert bool(short.any())
    swapped = greedy_swap(tiles, 2)
    assert torch.equal(swapped[~short], greedy_keep(tiles, 2)[~short])
    assert bool(
        ((swapped * tiles).sum((1, 2)) >= (greedy_keep(tiles, 2) * tiles).sum((1, 2)))[short].float().mean() > 0.5
    )


def test_a_fractional_plan_has_its_sums_and_its_cap() -> None:
    plan = entropic_plan(gaussian(20, 8), 4, sharpness=20.0, iterations=500).exp()
    assert float(plan.max()) <= 1 + 1e-5
    assert torch.allclose(plan.sum(1), torch.tensor(4.0), atol=1e-2)
    assert torch.allclose(plan.sum(2), torch.tensor(4.0), atol=1e-2)


def test_a_fractional_plan_rounds_close_to_the_optimum() -> None:
    tiles = gaussian(100, 8)
    best = float((tiles * exact(tiles, 4)).sum())
    assert float((tiles * entropic(tiles, 4)).sum()) > 0.998 * best
    assert float((tiles * greedy_swap(tiles, 4)).sum()) < 0.998 * best, "the bar above is no gift"
    assert bool((entropic(torch.zeros(1, 8, 8), 4).sum(1) == 4).all())


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (5, 12)])
def test_the_optimum_moves_with_its_scores(n: int, m: int) -> None:
    tiles = gaussian(20, m, seed=2)
    mask = exact(tiles, n)
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.randperm(m, generator=generator), torch.randperm(m, generator=generator)
    assert torch.equal(exact(tiles[:, rows][:, :, columns], n), mask[:, rows][:, :, columns])
    assert torch.equal(exact(tiles.transpose(1, 2), n), mask.transpose(1, 2))
    assert torch.equal(exact(tiles * 2.0**-40, n), mask)
    largest = tiles.amax(dim=(1, 2), keepdim=True).log2().floor().exp2()
    complement = exact(4 * largest - (tiles / largest * 2**20).round() / 2**20 * largest, m - n)  # what pruning pays
    assert torch.equal(~complement, exact((tiles / largest * 2**20).round(), n))


@pytest.mark.parametrize("shape", [(8, 12), (9, 13), (8, 6, 3, 3), (5, 4, 1), (4, 5, 2, 1, 2)])
def test_tiles_and_matrices_come_back(shape: tuple[int, ...]) -> None:
    weight = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    matrices = as_matrices(weight)
    assert torch.equal(from_tiles(to_tiles(matrices, 4), matrices), matrices)
    assert torch.equal(from_matrices(matrices, weight), weight)
    grouped = torch.arange(8.0 * 2 * 9).reshape(8, 2, 3, 3)
    assert torch.equal(from_matrices(as_matrices(grouped, 4), grouped, 4), grouped)
    assert as_matrices(grouped, 4).shape == (36, 2, 2)


def test_what_is_no_pattern_or_no_score_is_refused_in_words() -> None:
    for n, m in ((4, 4), (0, 4), (5, 4), (2, 65)):
        with pytest.raises(NumericsError, match=f"{n}:{m}"):
            check_scores(torch.ones(128, 128), n, m)
    with pytest.raises(NumericsError, match="smaller than the 8 x 8 tile"):
        check_scores(torch.ones(16, 3, 3, 3), 4, 8)
    with pytest.raises(NumericsError, match="no matrix"):
        check_scores(torch.ones(16), 2, 4)
    with pytest.raises(NumericsError, match="groups=3"):
        check_scores(torch.ones(16, 16), 2, 4, groups=3)
    with pytest.raises(NumericsError, match="floating-point"):
        check_scores(torch.ones(16, 16).long(), 2, 4)
    for bad in (float("nan"), float("inf"), -1.0):
        scores = torch.ones(8, 8)
        scores[3, 5] = bad
        with pytest.raises(NumericsError, match=r"index \(3, 5\) \(1 of 64"):
            check_scores(scores, 2, 4)
    check_scores(torch.zeros(8, 8), 2, 4)


def test_a_mask_is_judged_on_rows_and_columns_of_each_tile() -> None:
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[0, :2] = mask[0, 4:6] = True
    assert is_transposable(mask, 2, 4)
    mask[1:3, 0] = True
    assert not is_transposable(mask, 2, 4)
    assert is_transposable(mask, 3, 4)
