"""N:M masks and unbiased N:M pruning: C++ where it runs, the references of `masks` elsewhere; equal to the bit."""

import torch
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.kernels.library import library
from pennyweight.masks import mvue as pruning
from pennyweight.masks import nm
from pennyweight.masks.mvue import Pruning
from pennyweight.masks.nm import NM, require_matrix
from pennyweight.masks.packed import PackedNM, pack_mask, pack_nm, unpack_mask
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.random import Key
from pennyweight.ops import dispatch

_SINGLE = (torch.float32, torch.float16, torch.bfloat16)  # what float32 holds exactly


def nm_mask_bits(scores: Tensor, pattern: NM, axis: int = 1, out: Tensor | None = None) -> Tensor:
    """The mask of the n largest magnitudes of each group as bits, in the layout of `masks.packed.pack_mask`.

    Args:
        scores: (R, C) floating point.
        pattern: n and m.
        axis: along which groups run.
        out: (R, ceil(C / 8)) uint8, contiguous, to write into.

    Returns:
        (R, ceil(C / 8)) uint8.

    Raises:
        NumericsError: NaN or infinity, no matrix, no such axis.
        KernelError: `out` does not fit.

    Example:
        >>> nm_mask_bits(torch.tensor([[1.0, -4.0, 3.0, 1.0]]), NM(2, 4)).tolist()
        [[6]]
    """
    require_matrix(scores, axis)
    rows, columns = scores.shape
    path = dispatch.select(scores.device) if scores.dtype in _SINGLE else None
    dispatch.record("nm_mask", path)
    out = _output(out, (rows, -(-columns // 8)), torch.uint8, scores.device)
    if path is None:
        return out.copy_(pack_mask(nm.nm_mask(scores, pattern, axis)))
    x = _padded(scores, pattern.m, axis)
    bits = out if x.shape == scores.shape else torch.empty(x.shape[0], -(-x.shape[1] // 8), dtype=torch.uint8)
    finite = library().pw_nm_mask(
        x.data_ptr(), *x.shape, pattern.n, pattern.m, axis, bits.data_ptr(), dispatch.num_threads()
    )
    if not finite:
        require_finite(scores, "the scores of an N:M mask")
    if bits is not out:
        out.copy_(bits[:rows] if axis == 0 else pack_mask(unpack_mask(bits, x.shape[1])[:, :columns]))
    return out


def nm_mask(scores: Tensor, pattern: NM, axis: int = 1) -> Tensor:
    """`masks.nm.nm_mask`, sooner.

    Example:
        >>> nm_mask(torch.tensor([[1.0, -4.0, 3.0, 1.0]]), NM(2, 4)).tolist()
        [[False, True, True, False]]
    """
    if scores.device.type != "cpu":
        return nm.nm_mask(scores, pattern, axis)
    return unpack_mask(nm_mask_bits(scores, pattern, axis), scores.shape[1])


def mvue(
    x: Tensor, pattern: NM, key: Key, axis: int = 1, method: Pruning = "systematic", out: Tensor | None = None
) -> Tensor:
    """`masks.mvue.mvue`, sooner.

    Args:
        x: (R, C) floating point.
        pattern: n and m.
        key: of the draws.
        axis: along which groups run.
        method: "approximate" and "greedy" run in torch.
        out: of the shape and dtype of `x`, contiguous, to write into.

    Raises:
        NumericsError: as the reference.
        KernelError: `out` does not fit.

    Example:
        >>> mvue(torch.tensor([[0.0, 2.0, 0.0, -1.0]]), NM(2, 4), Key(0)).tolist()
        [[0.0, 2.0, 0.0, -1.0]]
    """
    require_matrix(x, axis)
    path = dispatch.select(x.device) if x.dtype in _SINGLE and method == "systematic" else None
    dispatch.record("mvue", path)
    if path is None:
        pruned = pruning.mvue(x, pattern, key, axis, method)
        return pruned if out is None else _output(out, tuple(x.shape), x.dtype, x.device).copy_(pruned)
    whole = _padded(x, pattern.m, axis)
    direct = whole.shape == x.shape and x.dtype == torch.float32
    out = _output(out, tuple(x.shape), x.dtype, x.device)
    target = out if direct else torch.empty_like(whole)
    finite = library().pw_mvue(
        whole.data_ptr(), *whole.shape, pattern.n, pattern.m, axis, *key.words, target.data_ptr(),
        dispatch.num_threads(),
    )  # fmt: skip
    if not finite:
        require_finite(x, "the matrix to prune")
    return out if direct else out.copy_(target[: x.shape[0], : x.shape[1]])


def mvue_packed(x: Tensor, pattern: NM, key: Key, axis: int = 1) -> PackedNM:
    """`mvue` as values and places in the group.

    Example:
        >>> mvue_packed(torch.tensor([[0.0, 2.0, 0.0, -1.0]]), NM(2, 4), Key(0)).values.tolist()
        [[2.0, -1.0]]
    """
    pruned = mvue(x, pattern, key, axis)
    return pack_nm(pruned, pruned != 0, pattern, axis)


def _padded(x: Tensor, m: int, axis: int) -> Tensor:
    """In float32, contiguous, with zeros up to whole groups."""
    missing = -x.shape[axis] % m
    whole = x.detach().float()
    if missing:
        whole = torch.constant_pad_nd(whole, (0, missing) if axis == 1 else (0, 0, 0, missing))
    return whole.contiguous()


def _output(out: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if out is None:
        return torch.empty(shape, dtype=dtype, device=device)
    if out.dtype != dtype or tuple(out.shape) != shape or not out.is_contiguous():
        raise KernelError(f"out is {out.dtype} of shape {tuple(out.shape)}; expected contiguous {dtype} of {shape}")
    return out
