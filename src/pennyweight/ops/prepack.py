"""Weights laid out once for the backend that will read them; the product itself is in binary.py."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.kernels.library import CompiledPath, library
from pennyweight.ops import checks, dispatch

Role = Literal["binary", "int8"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedWeight:
    """Signs of a weight matrix (N, K) in the layout of one backend, still one bit a weight.

    It stays with the backend it was made for, whatever `use_backend` says later.

    Args:
        panels: the bytes of the layout; the row-major words themselves for the reference backend.
        n: rows of the weight matrix, which are columns of the product.
        k: bits of a row.
        role: "binary" for products with packed signs, "int8" for products with int8 codes.
        path: the instruction-set path, None for the reference.
    """

    panels: Tensor
    n: int
    k: int
    role: Role
    path: CompiledPath | None


def prepack(w_words: Tensor, k: int, role: Role = "binary") -> PackedWeight:
    """Lays packed signs out for the current backend, so that repeated products do not.

    Args:
        w_words: int64 (N, words), from `pack_signs`.
        k: bits of a row.
        role: what it will be multiplied with: "binary" packed signs, or "int8" codes.

    Raises:
        KernelError: wrong type, shape, word count, padding bits or role.

    Cost: reads and writes the words once.

    Example:
        >>> from pennyweight import ops
        >>> signs = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
        >>> ops.binary_matmul(ops.pack_signs(signs), ops.prepack(ops.pack_signs(signs), k=2), k=2).tolist()
        [[2, 0], [0, 2]]
    """
    if role not in ("binary", "int8"):
        raise KernelError(f"role is {role!r}; valid: 'binary' and 'int8'")
    checks.require_k(k, checks.MAX_INT8_K if role == "int8" else (1 << 31) - 1)
    checks.require_words("w_words", w_words, k)
    path = dispatch.select(w_words.device)
    n = w_words.shape[0]
    words = w_words.contiguous()
    if path is None:
        return PackedWeight(panels=words, n=n, k=k, role=role, path=None)
    checks.require_clean_padding("w_words", words, k)
    lib = library()
    threads = dispatch.num_threads()
    if role == "binary":
        panels = torch.empty(lib.pw_panels_bytes(path.index, n, words.shape[1]), dtype=torch.uint8)
        lib.pw_pack_panels(path.index, words.data_ptr(), n, words.shape[1], panels.data_ptr(), threads)
    else:
        panels = torch.empty(lib.pw_int8_panels_bytes(path.index, n, k), dtype=torch.uint8)
        lib.pw_pack_int8_panels(path.index, words.data_ptr(), n, k, panels.data_ptr(), threads)
    return PackedWeight(panels=panels, n=n, k=k, role=role, path=path)
