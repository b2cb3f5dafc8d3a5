"""How weights and inputs on grids of floats are stored: powers of two, and block-scaled floats with their scales."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pennyweight.nn.slots.blocks import BlockScaled
from pennyweight.nn.slots.chain import SlotContent
from pennyweight.nn.slots.clipped import ClippedInput, ClippedWeight
from pennyweight.numerics.block_scaled import Blocks, dequantize_blocks, num_blocks, quantize_blocks
from pennyweight.numerics.codec import decode, encode
from pennyweight.numerics.formats import BlockFormat, Format, LogFormat
from pennyweight.numerics.packing import pack_bits, unpack_bits

Spec = dict[str, Any]


def is_grid(format: Format) -> bool:
    """Whether values of the format are stored here."""
    return isinstance(format, LogFormat | BlockFormat)


def encode_weight(content: ClippedWeight | BlockScaled, weight: Tensor) -> tuple[Spec, dict[str, Tensor]]:
    """Packed codes of a weight, and the scales of its blocks."""
    if isinstance(content, ClippedWeight):
        assert isinstance(content.format, LogFormat)
        codes = encode(content(weight), content.format)
        return {"format": str(content.format)}, {"weight.codes": pack_bits(codes, content.format.bits)}
    blocks = quantize_blocks(weight.movedim(content.axis, -1), content.format)
    tensors = {
        "weight.codes": pack_bits(blocks.elements, content.format.bits),
        "weight.scale": blocks.scales.to(torch.uint8),
    }
    if blocks.tensor_scale is not None:
        tensors["weight.tensor.scale"] = blocks.tensor_scale
    return {"format": str(content.format), "axis": content.axis}, tensors


def decode_weight(spec: Spec, format: Format, own: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """The values of a stored weight."""
    if isinstance(format, LogFormat):
        codes = unpack_bits(own["weight.codes"], format.bits, shape.numel())
        return decode(codes, format).reshape(shape)
    assert isinstance(format, BlockFormat), format
    axis = int(spec["axis"])
    moved = torch.empty(shape, device="meta").movedim(axis, -1).shape
    scales = own["weight.scale"]
    assert scales.dtype == torch.uint8
    assert scales.shape == (*moved[:-1], num_blocks(moved[-1], format)), f"scales of shape {tuple(scales.shape)}"
    elements = unpack_bits(own["weight.codes"], format.bits, shape.numel()).reshape(moved)
    tensor_scale = None if format.scale is None else own["weight.tensor.scale"]
    assert tensor_scale is None or tensor_scale.shape == (), f"a tensor's scale of shape {tuple(tensor_scale.shape)}"
    values = dequantize_blocks(Blocks(elements.to(torch.int64), scales.to(torch.int64), tensor_scale, format))
    return values.movedim(-1, axis).contiguous()


def encode_input(content: ClippedInput | BlockScaled) -> Spec:
    """An input slot's content, which has no tensors."""
    if isinstance(content, ClippedInput):
        return {"format": str(content.format), "range": "unit"}
    return {"format": str(content.format), "range": "blocks", "axis": content.axis}


def decode_input(spec: Spec, format: Format) -> SlotContent:
    """The content that `encode_input` wrote."""
    if isinstance(format, LogFormat):
        return ClippedInput(format)
    assert isinstance(format, BlockFormat), format
    return BlockScaled(format, int(spec["axis"]), what="the activations to quantize")
