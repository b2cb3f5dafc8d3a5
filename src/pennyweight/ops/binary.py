"""Products of packed signs and the fused step of a binary layer.

The public functions check their arguments and call the C++ library directly. While torch.compile traces, they go
through operators registered with torch.library instead, which costs tens of microseconds a call but can be traced.

Bit convention: bit 1 is +1 (x >= 0, so -0.0 is +1), bit 0 is -1, 64 to an int64 word, the bits beyond K zero.
"""

import torch
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.kernels import optional_triton, triton_binary
from pennyweight.kernels.library import CompiledPath, library
from pennyweight.ops import checks, dispatch, reference
from pennyweight.ops.prepack import PackedWeight, prepack

_INT32 = torch.iinfo(torch.int32)


def pack_signs(x: Tensor) -> Tensor:
    """Packs the signs of the last dimension, 64 to an int64 word.

    Args:
        x: real numbers (..., K), of any floating or integer type.

    Returns:
        int64 (..., ceil(K / 64)); bit 1 means x >= 0.

    Raises:
        KernelError: x holds a NaN, is complex, or has no dimension.

    Source: 1602.02830, section 1.1 (deterministic binarization).
    Deviations: sign(0) is +1, and so is sign(-0.0); torch.sign would give 0.

    Example:
        >>> pack_signs(torch.tensor([[1.0, -1.0, 0.0]])).tolist()
        [[5]]
    """
    if x.dim() == 0 or x.is_complex():
        raise KernelError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; signs are packed along the last dimension of reals"
        )
    if torch.compiler.is_compiling():
        return torch.ops.pennyweight.pack_signs(x)
    return _pack_signs(x)


def _pack_signs(x: Tensor) -> Tensor:
    path = dispatch.select(x.device)
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()  # exact, and cheaper than a kernel for each
    if path is None or x.dtype != torch.float32:
        dispatch.record("pack_signs", None)
        bad = torch.isnan(x).flatten()
        if bool(bad.any()):
            checks.refuse_nan("x", x, int(bad.nonzero()[0]))
        return reference.pack_signs(x)
    dispatch.record("pack_signs", path)
    k = x.shape[-1]
    values = x.detach().contiguous()
    out = torch.empty(*x.shape[:-1], checks.words_for(k), dtype=torch.int64)
    rows = values.numel() // k if k else 0
    bad_index = library().pw_pack_signs(path.index, values.data_ptr(), rows, k, out.data_ptr(), dispatch.num_threads())
    if bad_index >= 0:
        checks.refuse_nan("x", x, bad_index)
    return out


def binary_matmul(a_words: Tensor, b_words: Tensor | PackedWeight, k: int, out: Tensor | None = None) -> Tensor:
    """Product of two matrices of packed signs: K - 2 popcount(a xor b) for each pair of rows.

    Args:
        a_words: int64 (M, words), from `pack_signs`.
        b_words: int64 (N, words), or the same laid out by `prepack`, which is faster from the second use on.
        k: bits of a row.
        out: int32 (M, N), contiguous, to write into.

    Returns:
        int32 (M, N), exact, the same on every backend and thread count.

    Raises:
        KernelError: wrong type, shape, word count or padding bits.

    Source: 1602.02830, section 1.3 and algorithm 5.

    Example:
        >>> a = pack_signs(torch.tensor([[1.0, -1.0, 1.0]]))
        >>> binary_matmul(a, a, k=3).tolist()
        [[3]]
    """
    checks.require_k(k)
    checks.require_words("a_words", a_words, k)
    if isinstance(b_words, PackedWeight):
        _require_packed(b_words, "binary", k)
        n = b_words.n
    else:
        checks.require_words("b_words", b_words, k)
        n = b_words.shape[0]
    if torch.compiler.is_compiling():
        if isinstance(b_words, PackedWeight):
            result = torch.ops.pennyweight.binary_matmul_packed(a_words, b_words.panels, n, k, _path_index(b_words))
        else:
            result = torch.ops.pennyweight.binary_matmul(a_words, b_words, k)
        return result if out is None else out.copy_(result)
    out = _output(out, a_words, n)
    if isinstance(b_words, PackedWeight):
        return _multiply_packed(a_words, b_words.panels, n, k, b_words.path, out)
    return _multiply(a_words, b_words, k, out)


def _without_library(op: str, left: Tensor, words: Tensor, k: int) -> Tensor:
    """Codes or packed signs times packed signs where the C++ library does not serve: by Triton, or the reference."""
    codes = left.dtype == torch.int8
    if left.is_cuda and optional_triton.AVAILABLE:
        dispatch.record(op, "triton")
        kernel = triton_binary.int8_binary_matmul if codes else triton_binary.binary_matmul
        return kernel(left, words, k)
    dispatch.record(op, None)
    return (reference.int8_binary_matmul if codes else reference.binary_matmul)(left, words, k)


def _multiply(a_words: Tensor, b_words: Tensor, k: int, out: Tensor) -> Tensor:
    path = dispatch.select(a_words.device)
    if path is None:
        return out.copy_(_without_library("binary_matmul", a_words, b_words, k))
    dispatch.record("binary_matmul", path)
    a, b = a_words.contiguous(), b_words.contiguous()
    checks.require_clean_padding("a_words", a, k)
    checks.require_clean_padding("b_words", b, k)
    library().pw_product_words(
        path.index, a.data_ptr(), a.shape[0], k, b.data_ptr(), b.shape[0], out.data_ptr(), dispatch.num_threads()
    )
    return out


def _multiply_packed(a_words: Tensor, panels: Tensor, n: int, k: int, path: CompiledPath | None, out: Tensor) -> Tensor:
    if path is None:
        return out.copy_(_without_library("binary_matmul", a_words, panels, k))
    dispatch.record("binary_matmul", path)
    a = a_words.contiguous()
    checks.require_clean_padding("a_words", a, k)
    library().pw_product(
        path.index, a.data_ptr(), a.shape[0], k, panels.data_ptr(), n, out.data_ptr(), dispatch.num_threads()
    )
    return out


def int8_binary_matmul(x: Tensor, w_words: Tensor | PackedWeight, k: int, out: Tensor | None = None) -> Tensor:
    """Exact product of int8 codes with packed signs: the first layer of a binary network.

    Args:
        x: int8 (M, K).
        w_words: int64 (N, words), or the same laid out by `prepack(..., role="int8")`.
        k: bits of a row of weights; must be x's K.
        out: int32 (M, N), contiguous, to write into.

    Returns:
        int32 (M, N), exact.

    Raises:
        KernelError: wrong type, shape, word count or padding bits, or K so large that a sum could leave int32.

    Example:
        >>> w = pack_signs(torch.tensor([[1.0, -1.0]]))
        >>> int8_binary_matmul(torch.tensor([[100, -128]], dtype=torch.int8), w, k=2).tolist()
        [[228]]
    """
    checks.require_k(k, checks.MAX_INT8_K)
    if x.dtype != torch.int8 or x.dim() != 2 or x.shape[1] != k:
        raise KernelError(f"x is {x.dtype} of shape {tuple(x.shape)}; expected int8 codes of shape (M, k = {k})")
    if isinstance(w_words, PackedWeight):
        _require_packed(w_words, "int8", k)
        n = w_words.n
    else:
        checks.require_words("w_words", w_words, k)
        n = w_words.shape[0]
    if torch.compiler.is_compiling():
        if isinstance(w_words, PackedWeight):
            result = torch.ops.pennyweight.int8_binary_matmul_packed(x, w_words.panels, n, k, _path_index(w_words))
        else:
            result = torch.ops.pennyweight.int8_binary_matmul(x, w_words, k)
        return result if out is None else out.copy_(result)
    out = _output(out, x, n)
    weight = w_words if isinstance(w_words, PackedWeight) else prepack(w_words, k, "int8")
    return _multiply_int8(x, weight.panels, n, k, weight.path, out)


def _multiply_int8(x: Tensor, panels: Tensor, n: int, k: int, path: CompiledPath | None, out: Tensor) -> Tensor:
    if path is None:
        return out.copy_(_without_library("int8_binary_matmul", x, panels, k))
    dispatch.record("int8_binary_matmul", path)
    codes = x.contiguous()
    library().pw_int8_product(
        path.index, codes.data_ptr(), codes.shape[0], k, panels.data_ptr(), n, out.data_ptr(), dispatch.num_threads()
    )
    return out


def binary_linear_threshold(
    x: Tensor, weight: Tensor | PackedWeight, k: int, threshold: Tensor, greater: Tensor
) -> Tensor:
    """A whole hidden binary layer: binarize and pack, multiply, compare with folded batch-norm thresholds, pack again.

    sign(batch_norm(z)) of an integer z is one comparison: z >= threshold where the norm's gain is positive, and
    z <= threshold where it is negative. A column that is constant has a threshold at the end of int32's range.

    Args:
        x: numbers (M, K), or signs already packed, int64 (M, words).
        weight: int64 (N, words), or the same laid out by `prepack`.
        k: bits of a row.
        threshold: int32 (N,).
        greater: bool (N,); True for z >= threshold, False for z <= threshold.

    Returns:
        int64 (M, ceil(N / 64)): the packed signs of the layer's output.

    Raises:
        KernelError: wrong type, shape, word count or padding bits, or a NaN in x.

    Source: 1602.02830; the folding is arithmetic on its section 1.1.

    Example:
        >>> w = pack_signs(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        >>> t = torch.tensor([0, 0], dtype=torch.int32)
        >>> binary_linear_threshold(torch.tensor([[2.0, 3.0]]), w, 2, t, torch.tensor([True, False])).tolist()
        [[3]]
    """
    checks.require_k(k)
    if x.dtype != torch.int64:
        if x.dim() != 2 or x.shape[1] != k:
            raise KernelError(f"x is {x.dtype} of shape {tuple(x.shape)}; expected (M, k = {k}), or int64 packed words")
        x = pack_signs(x)
    checks.require_words("x", x, k)
    if isinstance(weight, PackedWeight):
        _require_packed(weight, "binary", k)
        n = weight.n
    else:
        checks.require_words("weight", weight, k)
        n = weight.shape[0]
    checks.require_vector("threshold", threshold, torch.int32, n)
    checks.require_vector("greater", greater, torch.bool, n)
    if torch.compiler.is_compiling():
        if isinstance(weight, PackedWeight):
            panels, index = weight.panels, _path_index(weight)
            return torch.ops.pennyweight.binary_linear_threshold_packed(x, panels, n, k, threshold, greater, index)
        return torch.ops.pennyweight.binary_linear_threshold(x, weight, k, threshold, greater)
    if not isinstance(weight, PackedWeight):
        weight = prepack(weight, k)
    return _linear_threshold(x, weight.panels, n, k, threshold, greater, weight.path)


def limits(threshold: Tensor, greater: Tensor) -> tuple[Tensor, Tensor]:
    """A threshold and direction as the kernels take them: bit = (z > limit) xor invert; no sum reaches int32's ends."""
    limit = torch.where(greater, threshold.clamp(min=_INT32.min + 1) - 1, threshold).contiguous()
    return limit, reference.pack_bits(~greater)


def _linear_threshold(
    x: Tensor, panels: Tensor, n: int, k: int, threshold: Tensor, greater: Tensor, path: CompiledPath | None
) -> Tensor:
    if path is None:
        return reference.threshold_bits(_without_library("binary_linear_threshold", x, panels, k), threshold, greater)
    dispatch.record("binary_linear_threshold", path)
    a = x.contiguous()
    checks.require_clean_padding("x", a, k)
    limit, invert = limits(threshold, greater)
    out = torch.empty(a.shape[0], checks.words_for(n), dtype=torch.int64)
    library().pw_product_threshold(
        path.index, a.data_ptr(), a.shape[0], k, panels.data_ptr(), n, limit.data_ptr(), invert.data_ptr(),
        out.data_ptr(), dispatch.num_threads(),
    )  # fmt: skip
    return out


def _output(out: Tensor | None, left: Tensor, n: int) -> Tensor:
    shape = (left.shape[0], n)
    if out is None:
        return torch.empty(shape, dtype=torch.int32, device=left.device)
    if out.dtype != torch.int32 or tuple(out.shape) != shape or not out.is_contiguous() or out.device != left.device:
        raise KernelError(
            f"out is {out.dtype} of shape {tuple(out.shape)} on {out.device}; expected contiguous int32 "
            f"of shape {shape} on {left.device}"
        )
    return out


def _require_packed(weight: PackedWeight, role: str, k: int) -> None:
    if weight.role != role or weight.k != k:
        raise KernelError(
            f"the prepacked weight has role {weight.role!r} and k = {weight.k}, but role {role!r} and k = {k} are "
            "needed: call ops.prepack with these"
        )


def _path_index(weight: PackedWeight) -> int:
    return -1 if weight.path is None else weight.path.index
