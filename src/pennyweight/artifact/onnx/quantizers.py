"""Slot contents as QuantizeLinear and DequantizeLinear: the codes in the file are the codes of the module."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pennyweight.artifact.onnx.graph import ElementType, Graph, Value
from pennyweight.errors import ArtifactError
from pennyweight.nn.slots.chain import SlotContent
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight, RunningInput
from pennyweight.nn.slots.stored import StoredCodes
from pennyweight.numerics.affine import PerChannel, PerGroup, quantize

Deploy = Literal["speed", "exact", "size"]
"""What an .onnx file is written for; see `export_onnx`."""


@dataclass(frozen=True)
class InputCodes:
    """The affine codes of a layer's input, moved to start at 0, as QLinearConv takes them.

    Args:
        scale: of a code.
        zero_point: code of the value 0.
        most: the largest code, 2^bits - 1.
    """

    scale: float
    zero_point: int
    most: int

    def dequantized(self, graph: Graph, x: Value) -> Value:
        """The values that codes of `x` stand for."""
        return graph.node("DequantizeLinear", [self._codes(graph, x), *self._parameters(graph)], x.shape)

    def centred(self, graph: Graph, x: Value) -> Value:
        """Codes minus zero point, as whole float32 numbers: values, but for the scale.

        Where a weight has groups: ONNX Runtime (1.32) melts two DequantizeLinear and a MatMul into one operator that
        then fails, at run time, on the scales of groups.
        """
        whole = graph.node("Cast", [self._codes(graph, x)], x.shape, to="float32")
        return graph.node("Sub", [whole, graph.number(self.zero_point)], x.shape)

    def _codes(self, graph: Graph, x: Value) -> Value:
        """Codes below 8 bits are clipped as codes: between a layer and its QuantizeLinear nothing may stand, or the
        runtime would not melt the two into one.
        """
        codes = graph.node("QuantizeLinear", [x, *self._parameters(graph)], x.shape)
        if self.most < 255:
            ends = [graph.constant(np.uint8(end), name="end") for end in (0, self.most)]
            codes = graph.node("Clip", [codes, *ends], x.shape)
        return codes

    def _parameters(self, graph: Graph) -> tuple[Value, Value]:
        """Scale and zero point as stored tensors."""
        zero_point = graph.constant(np.uint8(self.zero_point), name="input_zero_point")
        return graph.constant(np.float32(self.scale), name="input_scale"), zero_point


@dataclass(frozen=True)
class WeightCodes:
    """The codes of a weight as signed integers.

    Args:
        codes: int8, of the weight's shape.
        scale: float32, () for one, (channels,), or (..., groups).
        zero_point: of the shape of `scale`; None where all are 0.
        bits: a code takes.
        group: values that share a scale along the last dimension; None where a whole channel or tensor does.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int8] | None
    bits: int
    group: int | None = None

    def dequantized(self, graph: Graph, deploy: Deploy, *, transposed: bool = False) -> Value:
        """The weight's values, from stored codes.

        Args:
            deploy: "size" stores codes of at most 4 bits as int4.
            transposed: of a matrix, dimensions exchanged.
        """
        type: ElementType = "int4" if deploy == "size" and self.bits <= 4 else "int8"
        codes, scale, zeros = self.codes, self.scale, self._zeros()
        axis = codes.ndim - 1 if self.group is not None else 0
        if transposed:
            codes, axis = codes.T, 1 - axis
            if self.group is not None:
                scale, zeros = scale.T, zeros.T
        inputs = [graph.constant(codes, type, name="weight"), graph.constant(scale, name="weight_scale")]
        inputs.append(graph.constant(zeros, type, name="weight_zero_point"))
        return graph.node(
            "DequantizeLinear",
            inputs,
            codes.shape,
            axis=axis if scale.ndim else None,
            block_size=self.group,
        )

    def _zeros(self) -> NDArray[np.int8]:
        return np.zeros(self.scale.shape, np.int8) if self.zero_point is None else self.zero_point


def input_codes(fqn: str, content: SlotContent) -> InputCodes:
    """The codes of an input slot's content.

    Raises:
        ArtifactError: it is no integer of at most 8 bits.
    """
    if isinstance(content, IntegerInput):
        scale, zero_point = float(content.scale), int(content.zero_point)
    elif isinstance(content, RunningInput):
        scale, zero_point = float(content.scale), 0
    else:
        raise _refusal(fqn, "activations", content)
    format = content.format
    _require_eight_bits(fqn, "activations", format)
    return InputCodes(scale, zero_point - format.min, format.max - format.min)


def weight_codes(fqn: str, weight: Tensor, content: SlotContent) -> WeightCodes | None:
    """The codes of a weight slot's content; None where the weight holds plain values after all.

    Raises:
        ArtifactError: it is no integer of at most 8 bits.
    """
    if isinstance(content, StoredCodes):
        if content.scale is None:
            return None
        return _stored(fqn, weight.detach().numpy(), np.asarray(content.scale, np.float32))
    if not isinstance(content, IntegerWeight):
        raise _refusal(fqn, "weights", content)
    format, granularity = content.format, content.granularity
    _require_eight_bits(fqn, "weights", format)
    shift = 0 if format.signed else 1 << (format.bits - 1)
    codes = (quantize(weight.detach(), content.affine).numpy() - shift).astype(np.int8)
    zero_point = (content.zero_point.numpy() - shift).astype(np.int8)
    scale = content.scale.numpy().astype(np.float32)
    assert isinstance(granularity, PerChannel | PerGroup) or scale.ndim == 0
    group = min(granularity.group_size, weight.shape[-1]) if isinstance(granularity, PerGroup) else None
    return WeightCodes(codes, scale, zero_point if zero_point.any() else None, format.bits, group)


def _stored(fqn: str, codes: NDArray[np.float32], scale: NDArray[np.float32]) -> WeightCodes:
    """Codes as an artifact stores them, zero point taken off."""
    low, high = float(codes.min(initial=0.0)), float(codes.max(initial=0.0))
    if low < -128 or high > 127:
        raise ArtifactError(
            f"weight codes of layer {fqn!r} lie in [{low:g}, {high:g}], beyond int8: quantize with symmetric weights"
        )
    return WeightCodes(codes.astype(np.int8), scale, None, 4 if low >= -8 and high <= 7 else 8)


def int32_bias(graph: Graph, bias: NDArray[np.float32], input_scale: float, weight_scale: NDArray[np.float32]) -> Value:
    """A bias in steps of input scale times weight scale, as integer engines add it to their sums."""
    scale = np.float32(input_scale) * weight_scale
    codes = np.round(bias.astype(np.float64) / scale).astype(np.int32)
    inputs = [graph.constant(codes, name="bias"), graph.constant(scale, name="bias_scale")]
    return graph.node("DequantizeLinear", inputs, codes.shape, axis=0 if scale.ndim else None)


def _require_eight_bits(fqn: str, role: str, format: Any) -> None:
    if format.bits > 8:
        raise ArtifactError(f"{role} of layer {fqn!r} are {format}: the .onnx file takes integers of at most 8 bits")


def _refusal(fqn: str, role: str, content: SlotContent) -> ArtifactError:
    return ArtifactError(
        f"{role} of layer {fqn!r} are quantized by {type(content).__name__}, which ONNX has no operator for: "
        f"pennyweight.export writes such nets as packed artifacts that run on kernels of their own"
    )
