"""Floor 0: values and arithmetic on tensors, without `torch.nn`: formats, rounding, ranges, randomness, measures."""

from pennyweight.numerics.a2q import a2q_bound_, a2q_limit
from pennyweight.numerics.accumulate import AccumulatorSpec
from pennyweight.numerics.affine import (
    AffineParameters,
    PerChannel,
    PerGroup,
    PerTensor,
    affine_parameters,
    dequantize,
    fake_quantize,
    parse_granularity,
    quantize,
)
from pennyweight.numerics.block_scaled import Blocks, dequantize_blocks, quantize_blocks, round_to_blocks
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.clipped import linear_quant, log_quant
from pennyweight.numerics.codec import decode, encode, round_to_format
from pennyweight.numerics.formats import (
    BinaryFormat,
    BlockFormat,
    FloatFormat,
    Format,
    IntFormat,
    LogFormat,
    TernaryFormat,
    parse_format,
)
from pennyweight.numerics.integer_accumulate import IntAccumulatorSpec
from pennyweight.numerics.measure import Measurement
from pennyweight.numerics.packing import pack_bits, pack_signs, unpack_bits, unpack_signs
from pennyweight.numerics.random import Key
from pennyweight.numerics.ranges import estimate_range
from pennyweight.numerics.rounding import apply_rounding
from pennyweight.numerics.shift import ap2
from pennyweight.numerics.ste import clamp_ste, round_ste, sign, sign_ste, stochastic_sign_ste, surrogate_sign

__all__ = [
    "AccumulatorSpec",
    "AffineParameters",
    "BinaryFormat",
    "BlockFormat",
    "Blocks",
    "FloatFormat",
    "Format",
    "IntAccumulatorSpec",
    "IntFormat",
    "Key",
    "LogFormat",
    "Measurement",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "TernaryFormat",
    "a2q_bound_",
    "a2q_limit",
    "affine_parameters",
    "ap2",
    "apply_rounding",
    "clamp_ste",
    "decode",
    "dequantize",
    "dequantize_blocks",
    "encode",
    "estimate_range",
    "fake_quantize",
    "linear_quant",
    "log_quant",
    "pack_bits",
    "pack_signs",
    "parse_format",
    "parse_granularity",
    "quantize",
    "quantize_blocks",
    "require_finite",
    "round_ste",
    "round_to_blocks",
    "round_to_format",
    "sign",
    "sign_ste",
    "stochastic_sign_ste",
    "surrogate_sign",
    "unpack_bits",
    "unpack_signs",
]
