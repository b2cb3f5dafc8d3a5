"""Transposable N:M masks of whole weights: C++ on a CPU, Triton on a GPU, the readable truth; equal masks.

On a GPU, exact masks of 4 x 4 and 8 x 8 tiles are Triton's; those of other sizes, and tiles of 8 x 8 that have several
optimal masks, visit the CPU. The approximate solvers are tensor operations and run where the scores are.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pennyweight.errors import NumericsError, did_you_mean
from pennyweight.kernels import optional_triton, triton_transposable
from pennyweight.kernels.library import CompiledPath, library
from pennyweight.masks.transposable import as_matrices, check_scores, from_matrices, from_tiles, to_tiles
from pennyweight.masks.transposable_entropic import entropic
from pennyweight.masks.transposable_exact import exact
from pennyweight.masks.transposable_greedy import greedy_keep, greedy_prune, greedy_swap
from pennyweight.ops import dispatch

TransposableSolver = Literal["exact", "greedy_swap", "greedy_keep", "greedy_prune", "entropic"]

_REFERENCES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "exact": exact,
    "greedy_swap": greedy_swap,
    "greedy_keep": greedy_keep,
    "greedy_prune": greedy_prune,
    "entropic": entropic,
}
_COMPILED = ("exact", "greedy_swap", "greedy_keep", "greedy_prune")  # in the order of the kernel's numbers


@torch.no_grad()
def transposable_mask(
    scores: Float[Tensor, "..."],
    n: int,
    m: int,
    *,
    solver: TransposableSolver = "exact",
    groups: int = 1,
    out: Tensor | None = None,
) -> Bool[Tensor, "..."]:
    """The mask that keeps n of m in each row and each column of every m x m tile: W and W^T are then both n:m.

    A convolution is masked on the matrices of its products, one (outputs, inputs) for each kernel position. Tiles that
    a matrix does not fill are padded with zeros, and keep at most n in each line.

    Args:
        scores: what keeping each weight is worth, such as `weight.abs()`: (out, in) or (out, in / groups, *kernel), of
            any floating dtype, read as float32.
        n: kept of each m, 1 to m - 1.
        m: up to 64.
        solver: "exact" has the largest total score; of equal ones the mask that keeps the earliest entries.
            "greedy_swap" fills every line too. "greedy_keep" and "greedy_prune" (the paper's) may leave lines short.
            "entropic" is all tensor operations, near the optimum, and not the same to the bit on every device.
        groups: of a grouped convolution; tiles do not span groups.
        out: bool of the scores' shape, contiguous, to write into.

    Returns:
        bool, of the scores' shape.

    Raises:
        NumericsError: a wrong pattern or solver, a matrix smaller than a tile, NaN, infinity or a negative score.

    Source: arXiv 2102.08124.

    Example:
        >>> mask = transposable_mask(torch.rand(8, 16), 2, 4)
        >>> mask.sum(1).tolist(), mask.sum(0).tolist() == [4] * 16
        ([8, 8, 8, 8, 8, 8, 8, 8], True)
    """
    if solver not in _REFERENCES:
        raise NumericsError(f"solver={solver!r}: {did_you_mean(str(solver), _REFERENCES)}")
    check_scores(scores, n, m, groups)
    if out is None:
        out = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    elif out.dtype != torch.bool or out.shape != scores.shape or not out.is_contiguous() or out.device != scores.device:
        raise NumericsError(
            f"out is {out.dtype} of shape {tuple(out.shape)} on {out.device}: masks of these scores are contiguous "
            f"bool of shape {tuple(scores.shape)} on {scores.device}"
        )
    matrices = as_matrices(scores.detach(), groups).float()
    if scores.device.type != "cpu" and solver == "exact":
        return out.copy_(from_matrices(exact_on_gpu(matrices, n, m), scores, groups))
    path = dispatch.select(scores.device) if solver in _COMPILED else None
    if path is not None and scores.dim() == 2:
        _compiled(path, matrices, n, m, solver, out)
        return out
    return out.copy_(from_matrices(_solve(path, matrices, n, m, solver), scores, groups))


def exact_on_gpu(matrices: Tensor, n: int, m: int) -> Tensor:
    """(K, out, in) float32 -> bool, by Triton where it has a kernel; called on checked scores of a GPU."""
    path = dispatch.select()
    if m not in (4, 8) or not optional_triton.AVAILABLE:
        return _solve(path, matrices.cpu(), n, m, "exact").to(matrices.device)
    kept, tied = triton_transposable.exact(to_tiles(matrices, m), n)
    if bool(tied.any()):
        kept[tied] = _solve(path, to_tiles(matrices, m)[tied].cpu(), n, m, "exact").to(matrices.device)
    return from_tiles(kept, matrices)


def _solve(path: CompiledPath | None, matrices: Tensor, n: int, m: int, solver: str) -> Tensor:
    if path is not None:
        return _compiled(path, matrices, n, m, solver, torch.empty(matrices.shape, dtype=torch.bool))
    dispatch.record("transposable_mask", None)
    return from_tiles(_REFERENCES[solver](to_tiles(matrices, m), n), matrices)


def _compiled(path: CompiledPath, matrices: Tensor, n: int, m: int, solver: str, kept: Tensor) -> Tensor:
    dispatch.record("transposable_mask", path)
    matrices = matrices.contiguous()
    library().pw_transposable(
        path.index, matrices.data_ptr(), *matrices.shape, n, m, _COMPILED.index(solver), kept.data_ptr(),
        dispatch.num_threads(),
    )  # fmt: skip
    return kept
