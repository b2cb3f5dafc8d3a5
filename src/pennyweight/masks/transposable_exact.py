"""Optimal transposable masks: the readable truth of `ops.transposable_mask`, on tensors of tiles.

The problem is a flow: n units from each row, through entries of capacity 1, n units into each column. A mask with n in
every line is optimal when no cycle of the residual graph gains. Between rows alone, row a takes over from row b the
best column j that b keeps and a does not: arc[a, b] = max score[a, j] - score[b, j]. A cycle of rows that gains is
applied, and none left proves the optimum (the search is Floyd and Warshall's).

Of several optimal masks the one that keeps the earliest entries, row by row, is taken: the greatest when read as a
binary number. It depends on nothing but the scores, so every solver of the house returns the same mask.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pennyweight.masks.transposable import on_grid
from pennyweight.masks.transposable_greedy import greedy_swap

_BLOCK = 1 << 13  # tiles worked on at once


@torch.no_grad()
def exact(tiles: Float[Tensor, "tiles m m"], n: int) -> Bool[Tensor, "tiles m m"]:
    """The mask of the largest total score with exactly n kept in every row and column of each tile.

    Args:
        tiles: finite scores of at least 0.

    Source: arXiv 2102.08124, the minimum-cost flow.

    Deviations: cycles are cancelled from a greedy start instead of solving the flow from zero; scores are on the grid
    of `transposable.on_grid`.

    Example:
        >>> exact(torch.tensor([[[3.0, 2.0], [2.0, 0.0]]]), 1).int().tolist()
        [[[0, 1], [1, 0]]]
    """
    if not len(tiles):
        return torch.zeros_like(tiles, dtype=torch.bool)
    return torch.cat([_exact(block, n) for block in tiles.split(_BLOCK)])


def _exact(tiles: Tensor, n: int) -> Tensor:
    scores, kept = on_grid(tiles), greedy_swap(tiles, n)
    left = torch.arange(len(tiles), device=tiles.device)
    while left.numel():
        done, tied, potentials = _cancel_cycle(scores, kept, left)
        for at in (done & tied).nonzero().flatten().tolist():
            kept[left[at]] = _earliest(scores[left[at]], kept[left[at]], potentials[at])
        left = left[~done]
    return kept


def _cancel_cycle(scores: Tensor, kept: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One cycle that gains is applied to `kept` in each of the tiles `left`.

    Returns: which of them had none, which have a cycle that neither gains nor loses, and their rows' potentials.
    """
    m = scores.shape[1]
    s, mask = scores[left], kept[left]
    take, give = s.masked_fill(mask, -torch.inf), s.masked_fill(~mask, torch.inf)
    best = torch.full_like(s, -torch.inf)
    for j in range(m):
        best = torch.maximum(best, take[:, :, j, None] - give[:, None, :, j])
    step = torch.arange(m, device=s.device).repeat(len(left), m, 1)  # the row after a on the best path from a to b
    is_open = torch.ones(len(left), dtype=torch.bool, device=s.device)
    tied = torch.zeros_like(is_open)
    for k in range(m):
        around = best[:, :, k] + best[:, k, :]
        around[:, k] = -torch.inf
        gain, start = around.max(1)
        gains = is_open & (gain > 0)
        for at in gains.nonzero().flatten().tolist():
            _apply(take[at], give[at], step[at], int(start[at]), k, kept[left[at]])
        is_open &= ~gains
        tied |= gain == 0
        through = best[:, :, k, None] + best[:, k, None, :]
        better = through > best
        best = torch.where(better, through, best)
        step = torch.where(better, step[:, :, k, None], step)
    return is_open, tied, best.amax(1).clamp(min=0)


def _apply(take: Tensor, give: Tensor, step: Tensor, start: int, k: int, kept: Tensor) -> None:
    """Takes over along start -> ... -> k -> ... -> start. Where the way back meets the way out the cycle closes there:
    what is left out does not pass k and therefore gains nothing."""
    after: dict[int, int] = {}
    row = start
    while row != k:
        after[row] = int(step[row, k])
        row = after[row]
    while True:
        after[row] = int(step[row, start])
        row = after[row]
        if row in after:
            break
    first = row
    while True:
        column = int((take[row] - give[after[row]]).argmax())
        kept[row, column] = True
        kept[after[row], column] = False
        row = after[row]
        if row == first:
            return


def _earliest(scores: Tensor, kept: Tensor, potentials: Tensor) -> Tensor:
    """The optimal mask that keeps the earliest entries.

    With the rows' potentials p of an optimum, each column keeps its n largest score + p. Entries above the n-th are in
    every optimal mask and entries below in none; where the n-th equals the next one, entries of that value are free.
    Free entries are gone through in order: one that is not kept is, if a cycle of free entries can bring it in.
    """
    value = scores + potentials[:, None]
    lowest = value.masked_fill(~kept, torch.inf).amin(0)
    highest = value.masked_fill(kept, -torch.inf).amax(0)
    free = ((value == lowest) & (lowest == highest)).tolist()
    mask = kept.tolist()
    m = len(mask)
    for i in range(m):
        for j in range(m):
            if free[i][j] and not mask[i][j]:
                _bring_in(i, j, mask, free)
            free[i][j] = False
    return torch.tensor(mask, device=kept.device)


def _bring_in(i: int, j: int, mask: list[list[bool]], free: list[list[bool]]) -> None:
    """Keeps (i, j) by the shortest cycle of free entries through it, if there is one."""
    m = len(mask)
    came: dict[int, tuple[int, int]] = {}  # row -> (row before it, column handed over)
    frontier = [(i, j)]
    while frontier and i not in came:
        reached = []
        for row, column in frontier:
            for other in range(m):
                if mask[other][column] and free[other][column] and other not in came:
                    came[other] = (row, column)
                    reached += [(other, c) for c in range(m) if free[other][c] and not mask[other][c]]
        frontier = reached
    if i not in came:
        return
    row = i
    while True:
        before, column = came[row]
        mask[row][column], mask[before][column] = False, True
        row = before
        if row == i:
            return
