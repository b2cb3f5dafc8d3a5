"""N:M patterns: at most n nonzeros in each aligned group of m neighbours. Groups, masks by magnitude, and their checks.

The truth that `ops.nm_masks` is held to, bit for bit. Which gradients stay by chance is `masks.mvue`.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import FormatError, NumericsError
from pennyweight.numerics.checks import require_finite

MAX_GROUP = 64


@dataclass(frozen=True)
class NM:
    """At most `n` nonzeros in each aligned group of `m` consecutive elements.

    Some papers write N for the number of zeros; here it is always what is kept.

    Args:
        n: kept, from 1 to m - 1.
        m: elements of a group, at most 64.

    Raises:
        FormatError: the two make no pattern.

    Example:
        >>> NM.parse("2:4").density
        0.5
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        """Check the two numbers."""
        if not 1 <= self.n < self.m <= MAX_GROUP:
            raise FormatError(
                f"{self.n}:{self.m} is no pattern: n of m neighbours are kept, with 1 <= n < m <= {MAX_GROUP}"
            )

    @classmethod
    def parse(cls, text: str) -> "NM":
        """The pattern of a string such as "2:4".

        Raises:
            FormatError: the string is not two numbers with a colon between them, or they make no pattern.
        """
        found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
        if found is None:
            raise FormatError(f"{text!r} is no N:M pattern: write n:m, such as '2:4' for 2 kept of each 4")
        return cls(int(found[1]), int(found[2]))

    @property
    def density(self) -> float:
        """Share that is kept."""
        return self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


def require_matrix(x: Tensor, axis: int) -> None:
    """Refuse what is no matrix of floating-point numbers, or no axis of one.

    Raises:
        NumericsError: naming shape, dtype or axis.
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise NumericsError(
            f"N:M groups run along a matrix of floating-point numbers, not {x.dtype} of shape {tuple(x.shape)}: bring "
            f"convolutions into GEMM layout first (`gemm_matrix`)"
        )
    if axis not in (0, 1):
        raise NumericsError(f"axis={axis}: groups run along axis 0 (down the columns) or 1 (along the rows)")


def to_groups(x: Tensor, m: int, axis: int) -> Tensor:
    """The groups of a matrix as rows; a last group that is not full is filled with zeros.

    Group g of axis 1 is number g % ceil(C / m) of row g // ceil(C / m); of axis 0, it is in column g % C.

    Args:
        x: (R, C).
        m: elements of a group.
        axis: along which groups run, 0 or 1.

    Returns:
        (groups, m).
    """
    rows, columns = x.shape
    number = -(-x.shape[axis] // m)
    if axis == 1:
        return torch.constant_pad_nd(x, (0, -columns % m)).reshape(rows * number, m)
    return (
        torch.constant_pad_nd(x, (0, 0, 0, -rows % m))
        .reshape(number, m, columns)
        .transpose(1, 2)
        .reshape(number * columns, m)
    )


def from_groups(groups: Tensor, shape: tuple[int, int], axis: int) -> Tensor:
    """The matrix whose groups `to_groups` gave; the filling is cut off."""
    rows, columns = shape
    m = groups.shape[1]
    number = -(-shape[axis] // m)
    if axis == 1:
        return groups.reshape(rows, number * m)[:, :columns].contiguous()
    return groups.reshape(number, columns, m).transpose(1, 2).reshape(number * m, columns)[:rows].contiguous()


def nm_mask(scores: Tensor, pattern: NM, axis: int = 1) -> Tensor:
    """Keep the n largest magnitudes of each group; of equal ones the first.

    A last group that is not full keeps n too, or all it has. Zeros count like other values: each full group keeps
    exactly n, so that a weight of zero can come back.

    Args:
        scores: (R, C), any floating-point dtype; weights themselves, or non-negative scores.
        pattern: n and m.
        axis: along which groups run: 1 for the reduction over inputs of a weight (out, in), 0 for outputs.

    Returns:
        (R, C) bool.

    Raises:
        NumericsError: NaN or infinity, no matrix, no such axis.

    Example:
        >>> nm_mask(torch.tensor([[1.0, -4.0, 3.0, 1.0]]), NM(2, 4)).tolist()
        [[False, True, True, False]]
    """
    require_matrix(scores, axis)
    require_finite(scores, "the scores of an N:M mask")
    groups = to_groups(scores.detach().abs(), pattern.m, axis)
    # Filling must lose to a real zero, which stands before it: the sort is stable.
    order = torch.sort(groups, dim=1, descending=True, stable=True).indices
    kept = torch.zeros(groups.shape, dtype=torch.bool, device=groups.device).scatter_(1, order[:, : pattern.n], True)
    return from_groups(kept, (scores.shape[0], scores.shape[1]), axis)


def is_nm(mask: Tensor, pattern: NM, axis: int = 1) -> bool:
    """Whether no group of a matrix has more than n nonzeros.

    Example:
        >>> is_nm(torch.tensor([[1.0, 0.0, 2.0, 0.0, 1.0]]), NM(2, 4))
        True
    """
    counts = to_groups((mask != 0).to(torch.float32), pattern.m, axis).sum(1)
    return bool((counts <= pattern.n).all())


def saturation(mask: Tensor, pattern: NM, axis: int = 1) -> float:
    """Share of groups with exactly n nonzeros, groups that are not full left out; 1 where there is no full group."""
    length = mask.shape[axis] // pattern.m * pattern.m
    counts = to_groups((mask != 0).narrow(axis, 0, length).to(torch.float32), pattern.m, axis).sum(1)
    return float((counts == pattern.n).double().mean()) if counts.numel() else 1.0


def gemm_matrix(weight: Tensor) -> Tensor:
    """A weight as the matrix its product multiplies: (out, in), or (out, *kernel, in) flattened, inputs innermost.

    Args:
        weight: (out, in, *kernel), as torch's layers hold it.

    Returns:
        (out, K); a view where that is possible.
    """
    return weight.movedim(1, -1).flatten(1)


def from_gemm_matrix(matrix: Tensor, shape: torch.Size) -> Tensor:
    """A matrix in the layout of a weight of this shape; undoes `gemm_matrix`."""
    out, inputs, *kernel = shape
    return matrix.reshape(out, *kernel, inputs).movedim(-1, 1).contiguous()
