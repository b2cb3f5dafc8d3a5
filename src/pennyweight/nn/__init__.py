"""Floor 2: modules with slots, what fills the slots, normalization, surgery and objectives."""

from pennyweight.nn.folding import fold_batchnorm_
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear, as_gemm
from pennyweight.nn.normalization import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    ghost_batch_norm,
)
from pennyweight.nn.projection import attach_projections, project_
from pennyweight.nn.surgery import match, swap_modules_

__all__ = [
    "GemmConv1d",
    "GemmConv2d",
    "GemmConv3d",
    "GemmLinear",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "as_gemm",
    "attach_projections",
    "fold_batchnorm_",
    "ghost_batch_norm",
    "match",
    "project_",
    "swap_modules_",
]
