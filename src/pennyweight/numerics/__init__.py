"""Floor 0: values and arithmetic on tensors, without `torch.nn`: formats, rounding, ranges, randomness, measures."""

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
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.codec import decode, encode, round_to_format
from pennyweight.numerics.formats import (
    BinaryFormat,
    FloatFormat,
    Format,
    IntFormat,
    LogFormat,
    TernaryFormat,
    parse_format,
)
from pennyweight.numerics.measure import Measurement
from pennyweight.numerics.packing import pack_bits, pack_signs, unpack_bits, unpack_signs
from pennyweight.numerics.random import Key
from pennyweight.numerics.ranges import estimate_range
from pennyweight.numerics.rounding import apply_rounding
from pennyweight.numerics.shift import ap2
from pennyweight.numerics.ste import clamp_ste, round_ste, sign, sign_ste, stochastic_sign_ste, surrogate_sign

__all__ = [
    "AffineParameters",
    "BinaryFormat",
    "FloatFormat",
    "Format",
    "IntFormat",
    "Key",
    "LogFormat",
    "Measurement",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "TernaryFormat",
    "affine_parameters",
    "ap2",
    "apply_rounding",
    "clamp_ste",
    "decode",
    "dequantize",
    "encode",
    "estimate_range",
    "fake_quantize",
    "pack_bits",
    "pack_signs",
    "parse_format",
    "parse_granularity",
    "quantize",
    "require_finite",
    "round_ste",
    "round_to_format",
    "sign",
    "sign_ste",
    "stochastic_sign_ste",
    "surrogate_sign",
    "unpack_bits",
    "unpack_signs",
]
