"""Lowering of single linear layers of few bits: which of a program's run on bit planes, and the module that does it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight import ops
from pennyweight.nn.gemm import GemmLinear
from pennyweight.nn.slots.binary import BinaryInput
from pennyweight.nn.slots.integer import IntegerInput
from pennyweight.numerics.formats import BinaryFormat, IntFormat, parse_format
from pennyweight.numerics.ste import sign

_MOST_BITS = 4
_LARGEST = (2**_MOST_BITS - 1) ** 2  # of a product of centred codes
_EXACT = 1 << 24  # up to which the module's float32 sums are exact, and the two agree


def runs_on_planes(spec: Mapping[str, Any]) -> bool:
    """Whether a layer of this spec is multiplied as bit planes: linear, integers of at most 4 bits on both sides."""
    if spec["kind"] != "linear" or "accumulator" in spec or "input" not in spec:
        return False
    if str(spec["weight"].get("granularity", "")).startswith("group"):
        return False
    if spec["settings"]["in_features"] * _LARGEST >= _EXACT:
        return False
    if spec["input"].get("range", "calibrated") != "calibrated":
        return False
    return all(_is_narrow(spec[side]["format"]) for side in ("weight", "input"))


def _is_narrow(format: str) -> bool:
    if format.startswith(("float", "bfloat")):
        return False
    parsed = parse_format(format)
    return isinstance(parsed, BinaryFormat) or (isinstance(parsed, IntFormat) and parsed.bits <= _MOST_BITS)


class BitPlaneLinear(nn.Module):
    """A linear layer of few bits on packed planes: the layer's own output, to the bit.

    Args:
        layer: with codes for a weight, and an input slot that holds integers of a fixed scale, or signs.
    """

    def __init__(self, layer: GemmLinear) -> None:
        super().__init__()
        self.layer = layer
        codes = layer.weight.detach()
        if bool((codes.abs() == 1).all()):
            planes = ops.pack_bitplanes(codes, BinaryFormat())
        else:  # as many planes as the codes' own range takes
            low, high = (int(end) for end in codes.aminmax())
            format = IntFormat(max(1, (high - low).bit_length()), signed=False)
            planes = ops.pack_bitplanes(codes, format, zero_point=-low)
        self.weight = ops.prepack_bitplanes(planes)
        content = layer.slots.input.quantizer
        self.scale, self.zero_point, self.format = 1.0, 0, None
        if isinstance(content, IntegerInput):
            self.scale, self.zero_point, self.format = float(content.scale), int(content.zero_point), content.format
        else:
            assert isinstance(content, BinaryInput), content

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) float32 -> (..., out_features) float32."""
        rows = x.reshape(-1, x.shape[-1])
        if self.format is None:
            planes = ops.pack_bitplanes(sign(rows), BinaryFormat())
        else:
            planes = ops.quantize_bitplanes(rows, self.scale, self.format, self.zero_point)
        z = ops.bitplane_matmul(planes, self.weight).to(torch.float32)
        return self.layer.from_integers(z.view(*x.shape[:-1], z.shape[-1]))
