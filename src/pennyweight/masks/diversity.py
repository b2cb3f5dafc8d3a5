"""Mask diversity: how many masks a constraint admits, counted exactly and by the paper's expression."""

import functools
import math
from dataclasses import dataclass
from typing import Literal

from pennyweight.errors import NumericsError
from pennyweight.masks.nm import NM

Kind = Literal["unstructured", "structured", "transposable"]


@dataclass(frozen=True)
class Diversity:
    """A number of masks.

    Args:
        log10: of the number.
        count: the number itself; None where the window holds no whole number of groups or tiles.
    """

    log10: float
    count: int | None


def mask_diversity(pattern: NM, kind: Kind, window: int = 64, count: Literal["exact", "paper"] = "exact") -> Diversity:
    """Masks of a window of elements.

    Where the window is no whole number of groups or tiles, the logarithm is that of a tile in proportion: 8:16
    transposable tiles have 256 elements, and are compared at 64.

    Args:
        pattern: n and m; of "unstructured", the density.
        kind: "unstructured" density, "structured" groups along one axis, or "transposable" tiles with n in each row
            and column.
        window: elements.
        count: "exact", or "paper" for the expression printed in the paper, which differs for transposable masks only.

    Raises:
        NumericsError: an empty window, or an unstructured one that the density does not divide.

    Source: arXiv 2102.08124, section 3.
    Deviations: "exact". The paper's product of factorials counts more than there are: 144 instead of 90 at 2:4,
        and by it 4:8 transposable admits more masks than 2:4 structured, where the count is the other way round.

    Example:
        >>> mask_diversity(NM(2, 4), "transposable", window=16).count
        90
        >>> mask_diversity(NM(2, 4), "transposable", window=16, count="paper").count
        144
    """
    if window < 1:
        raise NumericsError(f"window={window}: masks of at least 1 element are counted")
    if kind == "unstructured":
        kept, rest = divmod(window * pattern.n, pattern.m)
        if rest:
            raise NumericsError(f"window={window}: {pattern.n}/{pattern.m} of it is no whole number of elements")
        return _powered(math.comb(window, kept), window, window)
    if kind == "structured":
        return _powered(math.comb(pattern.m, pattern.n), pattern.m, window)
    of_tile = transposable_masks(pattern) if count == "exact" else _paper_tile(pattern)
    return _powered(of_tile, pattern.m**2, window)


def _powered(ways: int, elements: int, window: int) -> Diversity:
    whole = window % elements == 0
    return Diversity(math.log10(ways) * window / elements, ways ** (window // elements) if whole else None)


def _paper_tile(pattern: NM) -> int:
    return math.prod(math.factorial(pattern.m - i) for i in range(pattern.n))


@functools.cache
def transposable_masks(pattern: NM) -> int:
    """How many 0/1 matrices of m x m have n ones in each row and column.

    Row by row: all that matters of the rows above is how many columns have got how many ones. The upper and the lower
    half of the rows are counted alike, and meet where each column's ones add up to n. Some seconds at 8:16.

    Raises:
        NumericsError: m above 16, where there are too many cases.

    Example:
        >>> transposable_masks(NM(4, 8))
        116963796250
    """
    n, m = pattern.n, pattern.m
    if m > 16:
        raise NumericsError(f"{pattern}: transposable masks are counted up to m = 16; count='paper' has no limit")
    upper, lower = _rows(m // 2, pattern), _rows(m - m // 2, pattern)
    total = 0
    for histogram, ways in upper.items():
        counts = [histogram >> _BITS * ones & _FIELD for ones in range(n + 1)]
        opposite = sum(count << _BITS * (n - ones) for ones, count in enumerate(counts))
        arrangements = math.factorial(m) // math.prod(math.factorial(count) for count in counts)
        total += ways * lower.get(opposite, 0) // arrangements  # `lower` counts each arrangement of the columns
    return total


_BITS = 5
_FIELD = (1 << _BITS) - 1


def _rows(rows: int, pattern: NM) -> dict[int, int]:
    """Ways to fill some rows with n ones each, by how many columns then have 0, 1, ..., n of them.

    The counts of columns are digits of one number, which a dictionary finds sooner than a tuple.
    """
    n = pattern.n
    ways = {pattern.m: 1}
    for _ in range(rows):
        partial = {(histogram, n): number for histogram, number in ways.items()}  # with the ones still to give
        for has in range(n - 1, -1, -1):  # downwards, so that no column gets two ones of a row
            after: dict[tuple[int, int], int] = {}
            one_more = (1 << _BITS * (has + 1)) - (1 << _BITS * has)
            for (histogram, ones), number in partial.items():
                available = histogram >> _BITS * has & _FIELD
                for taken in range(min(available, ones) + 1):
                    key = (histogram + taken * one_more, ones - taken)
                    after[key] = after.get(key, 0) + number * math.comb(available, taken)
            partial = after
        ways = {histogram: number for (histogram, ones), number in partial.items() if ones == 0}
    return ways
