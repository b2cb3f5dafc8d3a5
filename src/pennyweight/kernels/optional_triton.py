"""Triton where it is installed, and what lets the kernels' files import where it is not.

Kernels write `@jit` and `tl`; callers ask `AVAILABLE` first. Triton's compiler reads annotations and refuses what it
does not know, so functions under `@jit` have none but `tl.constexpr`.
"""

from types import SimpleNamespace
from typing import Any

try:
    import triton
    import triton.language as tl

    jit: Any = triton.jit
except ImportError:  # the kernels' files still import, so that their documentation can be read anywhere
    triton, tl = None, SimpleNamespace(constexpr=Any)

    def jit(function: Any) -> Any:
        return function


AVAILABLE = triton is not None

__all__ = ["AVAILABLE", "jit", "tl", "triton"]
