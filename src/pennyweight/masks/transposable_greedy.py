"""Approximate transposable masks: the paper's pruning, the reference's keeping, and keeping completed by swaps.

Every order of scores is: larger first, and of equal ones the earlier entry, row by row.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pennyweight.masks.transposable import on_grid


def _by_score(tiles: Tensor) -> Tensor:
    return torch.sort(tiles.flatten(1), dim=1, descending=True, stable=True).indices


@torch.no_grad()
def greedy_prune(tiles: Float[Tensor, "tiles m m"], n: int) -> Bool[Tensor, "tiles m m"]:
    """Prunes from the smallest score up, each entry whose row or column has fewer than m - n pruned.

    Lines keep at most n, often fewer. What it prunes is worth at most twice what the optimum prunes.

    Source: arXiv 2102.08124, the 2-approximation.

    Deviations: "fewer" is strict; the available text does not settle it.
    """
    count, m, _ = tiles.shape
    every = torch.arange(count, device=tiles.device)
    rows, columns = (torch.zeros(count, m, dtype=torch.int32, device=tiles.device) for _ in range(2))
    kept = torch.ones(count, m * m, dtype=torch.bool, device=tiles.device)
    for entry in _by_score(tiles).flip(1).unbind(1):
        i, j = entry // m, entry % m
        pruned = (rows[every, i] < m - n) | (columns[every, j] < m - n)
        rows[every, i] += pruned.int()
        columns[every, j] += pruned.int()
        kept[every, entry] = ~pruned
    return kept.view(tiles.shape)


@torch.no_grad()
def greedy_keep(tiles: Float[Tensor, "tiles m m"], n: int) -> Bool[Tensor, "tiles m m"]:
    """Keeps from the largest score down, each entry whose row and column have fewer than n kept.

    Lines keep at most n. What it keeps is worth at least half of what the optimum keeps.

    Source: the approximation in the paper's repository.

    Deviations: every tile is worked to its end; the repository stops a whole batch when each tile's current entry is
    blocked, so that its result depends on the batch.
    """
    return _keep_in_order(_by_score(tiles), tiles, n)


def _keep_in_order(order: Tensor, tiles: Tensor, n: int) -> Tensor:
    count, m, _ = tiles.shape
    every = torch.arange(count, device=tiles.device)
    rows, columns = (torch.zeros(count, m, dtype=torch.int32, device=tiles.device) for _ in range(2))
    kept = torch.zeros(count, m * m, dtype=torch.bool, device=tiles.device)
    for entry in order.unbind(1):
        i, j = entry // m, entry % m
        taken = (rows[every, i] < n) & (columns[every, j] < n)
        rows[every, i] += taken.int()
        columns[every, j] += taken.int()
        kept[every, entry] = taken
    return kept.view(tiles.shape)


@torch.no_grad()
def greedy_swap(
    tiles: Float[Tensor, "tiles m m"], n: int, order_by: Float[Tensor, "tiles m m"] | None = None
) -> Bool[Tensor, "tiles m m"]:
    """`greedy_keep`, then swaps until every line keeps exactly n.

    While row i and column j, the first ones, are short: of the kept (a, b) with (i, b) and (a, j) not kept, the one
    that makes score[i, b] + score[a, j] - score[a, b] largest gives its place to these two. There is always one. Where
    row i and column j are both short, (i, j) is kept. So the rows without column j, more than m - n of them, are full,
    and were all their entries in columns that row i keeps, fewer than n columns would hold n of each.

    Args:
        order_by: keeps in the order of these instead of the scores', such as a fractional plan.
    """
    kept = _keep_in_order(_by_score(tiles if order_by is None else order_by), tiles, n)
    scores = on_grid(tiles)
    short = (kept.sum(2) < n).any(1).nonzero().flatten()
    while short.numel():
        kept[short] = _swap(scores[short], kept[short], n)
        short = short[(kept[short].sum(2) < n).any(1)]
    return kept


def _swap(scores: Tensor, kept: Tensor, n: int) -> Tensor:
    """One swap in every tile; each has a short line."""
    m = scores.shape[1]
    every = torch.arange(len(scores), device=scores.device)
    i = (kept.sum(2) < n).int().argmax(1)
    j = (kept.sum(1) < n).int().argmax(1)
    possible = kept & ~kept[every, i][:, None, :] & ~kept[every, :, j][:, :, None]
    gain = scores[every, i][:, None, :] + scores[every, :, j][:, :, None] - scores
    entry = gain.masked_fill(~possible, -torch.inf).flatten(1).argmax(1)
    a, b = entry // m, entry % m
    kept = kept.clone()
    kept[every, a, b] = False
    kept[every, i, b] = True
    kept[every, a, j] = True
    return kept
