"""Floor 2: modules with slots, what fills the slots, normalization, surgery and objectives."""

from pennyweight.nn.accumulators import accumulator_rates, set_underflow_
from pennyweight.nn.folding import fold_batchnorm_
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear, as_gemm
from pennyweight.nn.normalization import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    ghost_batch_norm,
)
from pennyweight.nn.projection import attach_projections, project_
from pennyweight.nn.quantized_batchnorm import QuantizedBatchNorm1d, QuantizedBatchNorm2d
from pennyweight.nn.range_batchnorm import (
    GhostRangeBatchNorm1d,
    GhostRangeBatchNorm2d,
    RangeBatchNorm1d,
    RangeBatchNorm2d,
)
from pennyweight.nn.range_normalize import range_batch_norm
from pennyweight.nn.surgery import match, swap_modules_

__all__ = [
    "GemmConv1d",
    "GemmConv2d",
    "GemmConv3d",
    "GemmLinear",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GhostRangeBatchNorm1d",
    "GhostRangeBatchNorm2d",
    "QuantizedBatchNorm1d",
    "QuantizedBatchNorm2d",
    "RangeBatchNorm1d",
    "RangeBatchNorm2d",
    "accumulator_rates",
    "as_gemm",
    "attach_projections",
    "fold_batchnorm_",
    "ghost_batch_norm",
    "match",
    "project_",
    "range_batch_norm",
    "set_underflow_",
    "swap_modules_",
]
