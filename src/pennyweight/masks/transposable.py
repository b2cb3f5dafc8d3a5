"""Transposable N:M masks: what they are, on which matrices, and how a weight is cut into tiles. Solvers are next door.

A layer's forward product reduces over its inputs, the backward product over its outputs. One mask serves both when W
and W^T are N:M: every m x m tile then keeps n weights in each row and each column. The tile is the unit of all solvers,
whose signature is (tiles (T, m, m), n) -> kept (T, m, m).

A convolution is a product of one matrix (outputs, inputs) for each kernel position, and its tiles lie there: along
inputs, which are innermost in the forward matrix (outputs, positions * inputs), and along outputs, which are innermost
in the backward one (inputs, positions * outputs). The flattened memory of OIHW is neither.

"Exactly n" is part of the definition: masks of at most n in each line can be worth a little more, since filling the
last lines may ask a larger entry to give way.

Matrices that m does not divide are padded with zero scores; the mask of the padded tile has exactly n in each line, and
what lies outside is cut off: lines of ragged tiles keep at most n.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pennyweight.errors import NumericsError

MAX_M = 64
_GRID_BITS = 44
"""Scores of a tile are multiples of 2^-44 of its largest power of two, so that sums over a whole cycle of a tile with m
up to 64 are exact in float64. float32 scores down to 2^-21 of the largest are on the grid as they are."""


def check_pattern(n: int, m: int) -> None:
    """Refuses what is not a pattern of tiles.

    Raises:
        NumericsError: not 1 <= n < m <= 64.
    """
    if not 1 <= n < m <= MAX_M:
        raise NumericsError(f"n:m = {n}:{m}: a transposable mask keeps 1 <= n < m of m, and m is at most {MAX_M}")


def as_matrices(weight: Tensor, groups: int = 1) -> Tensor:
    """The matrices of a weight's products: (1, out, in) of a linear layer, (groups * positions, out, in) of a
    convolution; a view where strides allow.

    Args:
        weight: (out, in) or (out, in / groups, *kernel).
        groups: of the convolution.

    Raises:
        NumericsError: fewer than two dimensions, or groups that do not divide the outputs.
    """
    if weight.dim() < 2:
        raise NumericsError(f"a weight of shape {tuple(weight.shape)} is no matrix: masks of tiles need (out, in, ...)")
    if groups < 1 or weight.shape[0] % groups:
        raise NumericsError(f"groups={groups} do not divide the {weight.shape[0]} outputs of the weight")
    out, inputs, positions = weight.shape[0] // groups, weight.shape[1], math.prod(weight.shape[2:])
    by_position = weight.reshape(groups, out, inputs, positions).permute(0, 3, 1, 2)
    return by_position.reshape(groups * positions, out, inputs)


def from_matrices(matrices: Tensor, like: Tensor, groups: int = 1) -> Tensor:
    """The inverse of `as_matrices` for a weight of the shape of `like`; contiguous."""
    positions = len(matrices) // groups
    by_position = matrices.reshape(groups, positions, *matrices.shape[1:])
    return by_position.permute(0, 2, 3, 1).reshape(like.shape).contiguous()


def to_tiles(matrices: Tensor, m: int) -> Tensor:
    """(K, out, in) -> (T, m, m), tile rows after one another, ragged tiles padded with zeros."""
    count, rows, columns = matrices.shape
    padded = torch.nn.functional.pad(matrices, (0, -columns % m, 0, -rows % m))
    tiles = padded.reshape(count, padded.shape[1] // m, m, padded.shape[2] // m, m)
    return tiles.transpose(2, 3).reshape(-1, m, m)


def from_tiles(tiles: Tensor, matrices: Tensor) -> Tensor:
    """The inverse of `to_tiles` for matrices of the shape of `matrices`, padding cut off."""
    m = tiles.shape[1]
    count, rows, columns = matrices.shape
    whole = tiles.reshape(count, -(-rows // m), -(-columns // m), m, m).transpose(2, 3)
    return whole.reshape(count, -(-rows // m) * m, -1)[:, :rows, :columns]


def check_scores(scores: Tensor, n: int, m: int, groups: int = 1) -> None:
    """Refuses scores no mask can be made for.

    Raises:
        NumericsError: a wrong pattern, another dtype, a matrix smaller than a tile, NaN, infinity or a negative score.
    """
    check_pattern(n, m)
    if not scores.is_floating_point():
        raise NumericsError(f"scores are {scores.dtype}: give floating-point scores, such as weight.abs()")
    rows, columns = as_matrices(scores, groups).shape[1:]
    if min(rows, columns) < m:
        raise NumericsError(
            f"scores of shape {tuple(scores.shape)} are matrices of {rows} x {columns}, smaller than the {m} x {m} "
            "tile: leave the layer dense, or choose a smaller m"
        )
    if not scores.numel():
        return
    scores = scores.detach().float()  # what solvers read
    lowest, highest = (float(end) for end in torch.aminmax(scores))
    if not (lowest >= 0 and math.isfinite(highest)):
        bad = ~((scores >= 0) & torch.isfinite(scores))
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise NumericsError(
            f"scores hold {float(scores[index])} at index {index} ({int(bad.sum())} of {scores.numel()} values are "
            "negative or not finite): a score says what keeping an entry is worth, such as weight.abs()"
        )


def on_grid(tiles: Float[Tensor, "tiles m m"]) -> Float[Tensor, "tiles m m"]:
    """Scores as multiples of 2^-44 of the tile's largest power of two, in float64: their sums are then exact, and
    "optimal" has one meaning on every machine."""
    scores = tiles.double()
    largest = scores.abs().amax(dim=(1, 2), keepdim=True)
    power = torch.exp2(torch.frexp(largest).exponent.double() - 1)  # largest lies in [power, 2 * power)
    # Adding and taking away 1.5 * 2^52 units rounds to a unit, half to even.
    shift = torch.where(largest > 0, 1.5 * 2.0 ** (52 - _GRID_BITS) * power, 0.0)
    return (scores + shift) - shift


def is_transposable(mask: Tensor, n: int, m: int, groups: int = 1) -> bool:
    """Whether every row and every column of every tile keeps at most n, on the matrices of the layer's products.

    Args:
        mask: bool, of the weight's shape.

    Example:
        >>> is_transposable(torch.eye(4).bool(), 1, 4), is_transposable(torch.ones(4, 4).bool(), 2, 4)
        (True, False)
    """
    check_pattern(n, m)
    tiles = to_tiles(as_matrices(mask, groups), m)
    return bool((tiles.sum(1) <= n).all() and (tiles.sum(2) <= n).all())
