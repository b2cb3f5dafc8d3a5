"""How each kind of module is written into an artifact and built again: a table, one entry a kind.

Weighted layers store their weights as packed codes of their slot's format; everything else stores plain settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.errors import ArtifactError
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear, GemmModule, as_gemm
from pennyweight.nn.normalization import GHOST_OF
from pennyweight.nn.shift_batchnorm import ShiftBatchNorm1d, ShiftBatchNorm2d
from pennyweight.nn.slots.binary import BinaryInput, BinaryWeight
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight, RunningInput
from pennyweight.numerics.affine import AffineParameters, dequantize, parse_granularity, quantize
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat, parse_format
from pennyweight.numerics.packing import pack_bits, pack_signs, unpack_bits, unpack_signs

Tensors = dict[str, Tensor]
