"""Operators: each a readable torch reference and its fast backends under one name; `explain()` says which one ran."""

from pennyweight.ops import registered as _registered  # noqa: F401  (registers with torch.library)
from pennyweight.ops.accumulated import accumulated_matmul
from pennyweight.ops.binary import binary_linear_threshold, binary_matmul, int8_binary_matmul, pack_signs
from pennyweight.ops.bitplanes import (
    BitPlanes,
    PackedBitPlanes,
    bitplane_gradients,
    bitplane_matmul,
    pack_bitplanes,
    prepack_bitplanes,
    quantize_bitplanes,
)
from pennyweight.ops.chain import ChainLayer, PackedChain
from pennyweight.ops.conv_layer import ConvLayer, Pooling, pack_filters
from pennyweight.ops.convolution import binary_conv2d
from pennyweight.ops.dispatch import (
    Explanation,
    available_backends,
    current_backend,
    explain,
    num_threads,
    set_num_threads,
    use_backend,
)
from pennyweight.ops.images import PackedImages
from pennyweight.ops.prepack import PackedWeight, prepack
from pennyweight.ops.random import philox_bits
from pennyweight.ops.transposable import transposable_mask

__all__ = [
    "BitPlanes",
    "ChainLayer",
    "ConvLayer",
    "Explanation",
    "PackedBitPlanes",
    "PackedChain",
    "PackedImages",
    "PackedWeight",
    "Pooling",
    "accumulated_matmul",
    "available_backends",
    "binary_conv2d",
    "binary_linear_threshold",
    "binary_matmul",
    "bitplane_gradients",
    "bitplane_matmul",
    "current_backend",
    "explain",
    "int8_binary_matmul",
    "num_threads",
    "pack_bitplanes",
    "pack_filters",
    "pack_signs",
    "philox_bits",
    "prepack",
    "prepack_bitplanes",
    "quantize_bitplanes",
    "set_num_threads",
    "transposable_mask",
    "use_backend",
]
