"""Operators: each a readable torch reference and its fast backends under one name; `explain()` says which one ran."""

from pennyweight.ops import registered as _registered  # noqa: F401  (registers with torch.library)
from pennyweight.ops.accumulated import accumulated_matmul
from pennyweight.ops.binary import binary_linear_threshold, binary_matmul, int8_binary_matmul, pack_signs
from pennyweight.ops.chain import ChainLayer, PackedChain
from pennyweight.ops.dispatch import (
    Explanation,
    available_backends,
    current_backend,
    explain,
    num_threads,
    set_num_threads,
    use_backend,
)
from pennyweight.ops.prepack import PackedWeight, prepack
from pennyweight.ops.random import philox_bits
from pennyweight.ops.transposable import transposable_mask

__all__ = [
    "ChainLayer",
    "Explanation",
    "PackedChain",
    "PackedWeight",
    "accumulated_matmul",
    "available_backends",
    "binary_linear_threshold",
    "binary_matmul",
    "current_backend",
    "explain",
    "int8_binary_matmul",
    "num_threads",
    "pack_signs",
    "philox_bits",
    "prepack",
    "set_num_threads",
    "transposable_mask",
    "use_backend",
]
