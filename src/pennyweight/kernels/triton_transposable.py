"""Optimal transposable masks of 4 x 4 and 8 x 8 tiles in Triton; masks/transposable_exact.py says what they compute.

Sums are in float64 on the grid of `masks.transposable.on_grid`, so that masks are those of the CPU to the bit. For
4 x 4 tiles every mask is summed. For 8 x 8 tiles a greedy start is completed by swaps, and cycles that gain are
cancelled until there is none; a tile with several optimal masks is only marked, for the caller to solve.

Tested through Triton's interpreter on a CPU; unproven on a card as of this version.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disallow-untyped-calls=False

import functools
import itertools

import torch
from torch import Tensor

from pennyweight.kernels.optional_triton import jit, tl, triton

_TILES_OF_4, _TILES_OF_8 = 32, 2
_PATTERNS = 128  # masks of a 4 x 4 tile, filled up to a power of two


@jit
def _shift_of(largest):
    """What rounds to the grid when it is added and taken away: 1.5 * 2^8 times the largest power of two."""
    bits = largest.to(tl.int64, bitcast=True)
    return ((bits >> 52) << 52).to(tl.float64, bitcast=True) * 384.0


@jit
def _exact_of_4(scores, masks, bits, kept, count, tiles: tl.constexpr, patterns: tl.constexpr):
    """Sums every mask of each tile; of equal sums the first mask, which is the one with the earliest entries."""
    tile = tl.program_id(0) * tiles + tl.arange(0, tiles)
    inside = tile < count
    first = scores + tile.to(tl.int64) * 16
    entries = tl.arange(0, 16)
    values = tl.load(first[:, None] + entries[None, :], mask=inside[:, None], other=0.0).to(tl.float64)
    shift = _shift_of(tl.max(values, axis=1))
    pattern = tl.arange(0, patterns)
    total = tl.load(masks + 16 * patterns + pattern)[None, :] + tl.zeros((tiles, patterns), dtype=tl.float64)
    for e in range(16):
        value = tl.load(first + e, mask=inside, other=0.0).to(tl.float64)
        value = (value + shift) - shift
        total += value[:, None] * tl.load(masks + e * patterns + pattern)[None, :]
    most = tl.max(total, axis=1)
    best = tl.min(tl.where(total == most[:, None], pattern[None, :], patterns), axis=1)
    chosen = tl.load(bits + best)
    tl.store(
        kept + (tile.to(tl.int64) * 16)[:, None] + entries[None, :],
        ((chosen[:, None] >> entries[None, :]) & 1).to(tl.int8),
        mask=inside[:, None],
    )


@jit
def _first_best(value, place):
    """(tiles, 8, 8) -> of each tile the largest value and its first place."""
    most = tl.max(tl.max(value, axis=2), axis=1)
    at = tl.where(value == most[:, None, None], place, 64)
    return most, tl.min(tl.min(at, axis=2), axis=1)


@jit
def _row_of(matrix, row, i):
    """(tiles, 8, 8), one row number a tile -> (tiles, 8)."""
    return tl.sum(tl.where(i == row[:, None, None], matrix, 0), axis=1)


@jit
def _column_of(matrix, column, j):
    return tl.sum(tl.where(j == column[:, None, None], matrix, 0), axis=2)


@jit
def _entry_of(matrix, row, column, i, j):
    here = (i == row[:, None, None]) & (j == column[:, None, None])
    return tl.sum(tl.sum(tl.where(here, matrix, 0), axis=2), axis=1)


@jit
def _greedy(s, n, i, j, tiles: tl.constexpr):
    """Keeps from the largest down while row and column have room, then swaps until every line has n."""
    kept = tl.zeros((tiles, 8, 8), dtype=tl.int32)
    place = i * 8 + j
    for _ in range(8 * n):
        is_open = (tl.sum(kept, axis=2)[:, :, None] < n) & (tl.sum(kept, axis=1)[:, None, :] < n) & (kept == 0)
        most, at = _first_best(tl.where(is_open, s, -1.0), place)
        kept = tl.where((place == at[:, None, None]) & (most >= 0)[:, None, None], 1, kept)
    lines = tl.arange(0, 8)[None, :]
    missing = tl.max(8 * n - tl.sum(tl.sum(kept, axis=2), axis=1))
    while missing > 0:
        row = tl.min(tl.where(tl.sum(kept, axis=2) < n, lines, 8), axis=1)
        column = tl.min(tl.where(tl.sum(kept, axis=1) < n, lines, 8), axis=1)
        in_row, in_column = _row_of(kept, row, i), _column_of(kept, column, j)
        possible = (kept == 1) & (in_row[:, None, :] == 0) & (in_column[:, :, None] == 0)
        gain = _row_of(s, row, i)[:, None, :] + _column_of(s, column, j)[:, :, None] - s
        _most, at = _first_best(tl.where(possible, gain, float("-inf")), place)
        a, b = at // 8, at % 8
        short = (row < 8)[:, None, None]
        comes = ((i == row[:, None, None]) & (j == b[:, None, None])) | (
            (i == a[:, None, None]) & (j == column[:, None, None])
        )
        kept = tl.where(short & (place == at[:, None, None]), 0, tl.where(short & comes, 1, kept))
        missing = tl.max(8 * n - tl.sum(tl.sum(kept, axis=2), axis=1))
    return kept


@jit
def _arcs(s, kept):
    """(tiles, from, to): what a row gains by taking over the best column from another."""
    take = tl.where(kept == 1, float("-inf"), s)
    give = tl.where(kept == 1, s, float("inf"))
    return tl.max(take[:, :, None, :] - give[:, None, :, :], axis=3)


@jit
def _take_over(s, kept, after, on_cycle):
    """Each row on the cycle takes over the best column from the row after it."""
    lines = tl.arange(0, 8)
    take = tl.where(kept == 1, float("-inf"), s)
    give = tl.where(kept == 1, s, float("inf"))
    follows = after[:, :, None] == lines[None, None, :]  # (tiles, row, row after it)
    given = tl.sum(tl.where(follows[:, :, :, None], give[:, None, :, :], 0.0), axis=2)
    gain = tl.where(on_cycle[:, :, None], take - given, float("-inf"))
    best = tl.where(gain == tl.max(gain, axis=2)[:, :, None], lines[None, None, :], 8)
    column = tl.min(best, axis=2)
    comes = on_cycle[:, :, None] & (lines[None, None, :] == column[:, :, None])
    leaves = tl.sum(tl.where(follows[:, :, :, None] & comes[:, :, None, :], 1, 0), axis=1)
    return tl.where(comes, 1, tl.where(leaves > 0, 0, kept))


@jit
def _exact_of_8(scores, kept, tied, count, n, tiles: tl.constexpr):
    """Cycles that gain are cancelled, one of each tile at a time, until none of the program's tiles has one."""
    tile = tl.program_id(0) * tiles + tl.arange(0, tiles)
    inside = tile < count
    lines = tl.arange(0, 8)
    i, j = lines[None, :, None], lines[None, None, :]
    offset = (tile.to(tl.int64) * 64)[:, None, None] + i * 8 + j
    s = tl.load(scores + offset, mask=inside[:, None, None], other=0.0).to(tl.float64)
    shift = _shift_of(tl.max(tl.max(s, axis=2), axis=1))[:, None, None]
    s = (s + shift) - shift
    mask = _greedy(s, n, i, j, tiles)
    is_tied = tl.zeros((tiles,), dtype=tl.int32)
    improved = 1
    while improved > 0:
        best = _arcs(s, mask)
        step = j + tl.zeros((tiles, 8, 8), dtype=tl.int32)
        is_tied = tl.zeros((tiles,), dtype=tl.int32)
        turn = tl.full((tiles,), -1, dtype=tl.int32)  # the k of the cycle found
        start = tl.zeros((tiles,), dtype=tl.int32)
        for k in range(8):
            ks = tl.zeros((tiles,), dtype=tl.int32) + k
            into, out = _column_of(best, ks, j), _row_of(best, ks, i)
            around = tl.where(lines[None, :] == k, float("-inf"), into + out)
            most = tl.max(around, axis=1)
            first = tl.min(tl.where(around == most[:, None], lines[None, :], 8), axis=1)
            found = (turn < 0) & (most > 0)
            start = tl.where(found, first, start)
            turn = tl.where(found, k, turn)
            is_tied = tl.where(most == 0, 1, is_tied)
            through = into[:, :, None] + out[:, None, :]
            better = (through > best) & (turn < 0)[:, None, None]
            next_row = _column_of(step, ks, j)
            best = tl.where(better, through, best)
            step = tl.where(better, next_row[:, :, None], step)
        # start -> ... -> k -> ... until a row already seen, where the cycle closes
        has_cycle = turn >= 0
        after = tl.full((tiles, 8), -1, dtype=tl.int32)
        row, goal = start, turn
        walking = has_cycle
        for _ in range(16):
            goal = tl.where(row == turn, start, goal)
            to = _entry_of(step, row, goal, i, j)
            here = walking[:, None] & (lines[None, :] == row[:, None])
            after = tl.where(here, to[:, None], after)
            row = tl.where(walking, to, row)
            seen = tl.max(tl.where(lines[None, :] == row[:, None], after, -1), axis=1) >= 0
            walking = walking & (seen == 0)
        on_cycle = tl.zeros((tiles, 8), dtype=tl.int32)
        for _ in range(8):
            on_cycle = tl.where(has_cycle[:, None] & (lines[None, :] == row[:, None]), 1, on_cycle)
            row = tl.sum(tl.where(lines[None, :] == row[:, None], after, 0), axis=1)
        mask = _take_over(s, mask, after, on_cycle == 1)
        improved = tl.max(tl.where(has_cycle, 1, 0))
    tl.store(kept + offset, mask.to(tl.int8), mask=inside[:, None, None])
    tl.store(tied + tile, is_tied.to(tl.int8), mask=inside)


@functools.cache
def _masks_of_4(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All masks with n in each line, those with earlier entries first, and their bits.

    Returns: (17, 128) float64, whose last row keeps what only fills up from winning, and (128,) int32.
    """
    lines = [sum(1 << j for j in chosen) for chosen in itertools.combinations(range(4), n)]
    masks = torch.zeros(17, _PATTERNS, dtype=torch.float64)
    bits = torch.zeros(_PATTERNS, dtype=torch.int32)
    masks[16] = -torch.inf
    at = 0
    for rows in itertools.product(lines, repeat=4):
        if all(sum(row >> j & 1 for row in rows) == n for j in range(4)):
            masks[:16, at] = torch.tensor([float(rows[e // 4] >> e % 4 & 1) for e in range(16)])
            masks[16, at] = 0.0
            bits[at] = sum(row << 4 * i for i, row in enumerate(rows))
            at += 1
    return masks.to(device), bits.to(device)


def exact(tiles: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The optimal masks of (T, 4, 4) or (T, 8, 8) tiles of finite float32 scores of at least 0.

    Returns: bool masks, and which tiles of 8 x 8 have several optimal masks, of which this one is as good as any.
    """
    count, m = len(tiles), tiles.shape[1]
    assert m in (4, 8), m
    kept = torch.empty(tiles.shape, dtype=torch.int8, device=tiles.device)
    tied = torch.zeros(count, dtype=torch.int8, device=tiles.device)
    tiles = tiles.contiguous()
    if count and m == 4:
        masks, bits = _masks_of_4(n, tiles.device)
        _exact_of_4[(triton.cdiv(count, _TILES_OF_4),)](tiles, masks, bits, kept, count, _TILES_OF_4, _PATTERNS)
    elif count:
        together = _TILES_OF_8 if tiles.is_cuda else 16  # an interpreter's time is the number of programs
        _exact_of_8[(triton.cdiv(count, together),)](tiles, kept, tied, count, n, together)
    return kept.bool(), tied.bool()
