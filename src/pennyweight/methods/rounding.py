"""Rounding one layer to the nearest codes: where every post-training method starts, and the weakest one stops."""

from dataclasses import dataclass

from torch import Tensor

from pennyweight.errors import MethodError
from pennyweight.nn.embedding import SlottedEmbedding
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.blocks import BlockScaled
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.numerics.affine import (
    AffineParameters,
    Granularity,
    PerTensor,
    affine_parameters,
    dequantize,
    parse_granularity,
    quantize,
)
from pennyweight.numerics.formats import BlockFormat, IntFormat, parse_format
from pennyweight.numerics.ranges import Estimator, estimate_range
from pennyweight.numerics.statistics import sqnr_db


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How the ends of the codes are found.

    Args:
        granularity: "tensor", "channel" (an output channel) or "group:N" (N consecutive inputs) for weights.
        weights: estimator of weight ranges: "minmax", "percentile" or "mse".
        activations: the same for activations.
        percentile: share of values inside the range, for "percentile".
    """

    granularity: str = "channel"
    weights: Estimator = "mse"
    activations: Estimator = "mse"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        """Check what belongs together."""
        parse_granularity(self.granularity)
        if not 50 < self.percentile <= 100:
            raise MethodError(f"percentile={self.percentile}: the share of values covered lies in (50, 100]")
        if self.percentile != Ranges.percentile and "percentile" not in (self.weights, self.activations):
            raise MethodError(
                f"percentile={self.percentile} has no effect: give weight_range='percentile' or "
                f"activation_range='percentile'"
            )

    def of_weight(self, weight: Tensor, format: IntFormat) -> AffineParameters:
        """Symmetric codes of a weight."""
        granularity = parse_granularity(self.granularity)
        return self._parameters(weight, format, granularity, self.weights, symmetric=True)

    def of_input(self, seen: Tensor, format: IntFormat) -> AffineParameters:
        """Affine codes of a layer's input, of which `seen` are samples."""
        return self._parameters(seen, format, PerTensor(), self.activations, symmetric=False)

    def _parameters(
        self, x: Tensor, format: IntFormat, granularity: Granularity, estimator: Estimator, symmetric: bool
    ) -> AffineParameters:
        low, high = estimate_range(
            x.detach(), granularity, format, estimator=estimator, symmetric=symmetric, percentile=self.percentile
        )
        return affine_parameters(low, high, format, granularity, symmetric=symmetric)


def integer_format(role: str, value: str) -> IntFormat:
    """The integer format of 2 to 8 bits that a setting names.

    Raises:
        MethodError: it names another one.
    """
    parsed = parse_format(value)
    if not isinstance(parsed, IntFormat) or not 2 <= parsed.bits <= 8:
        raise MethodError(f"{role}={value!r}: takes integer formats of 2 to 8 bits, such as 'int8'")
    return parsed


def grid_format(role: str, value: str) -> IntFormat | BlockFormat:
    """The integer format of 2 to 8 bits, or the block format, that a setting names.

    Raises:
        MethodError: it names another one.
    """
    parsed = parse_format(value)
    return parsed if isinstance(parsed, BlockFormat) else integer_format(role, value)


def round_layer_(
    layer: GemmModule | SlottedEmbedding,
    weights: IntFormat | BlockFormat | None,
    activations: IntFormat | BlockFormat | None,
    seen: Tensor | None,
    ranges: Ranges,
) -> dict[str, float]:
    """Fill a layer's weight and input slots with the nearest codes; an embedding has only the former.

    Args:
        weights: format of the weight; None leaves it.
        activations: format of the input; None leaves it.
        seen: values the layer receives, where its input is quantized.

    Returns:
        Signal to quantization noise of each, in decibels.
    """
    metrics = {}
    axis = -1 if layer.weight.dim() == 2 else 1  # channels
    if isinstance(weights, BlockFormat):
        content = BlockScaled(weights, axis, what="the weight to quantize")
        layer.slots.fill("weight", content)
        metrics["weight_sqnr_db"] = _sqnr(layer.weight.detach(), content(layer.weight.detach()))
    elif weights is not None:
        parameters = ranges.of_weight(layer.weight, weights)
        layer.slots.fill("weight", IntegerWeight(parameters))
        metrics["weight_sqnr_db"] = _affine_sqnr(layer.weight.detach(), parameters)
    if isinstance(layer, SlottedEmbedding):
        return metrics
    if isinstance(activations, BlockFormat):  # whose scales are measured as the values come
        layer.slots.fill("input", BlockScaled(activations, axis, what="the activations to quantize"))
    elif activations is not None:
        assert seen is not None
        parameters = ranges.of_input(seen, activations)
        layer.slots.fill("input", IntegerInput(parameters))
        metrics["input_sqnr_db"] = _affine_sqnr(seen, parameters)
    return metrics


def _affine_sqnr(x: Tensor, parameters: AffineParameters) -> float:
    return _sqnr(x, dequantize(quantize(x, parameters), parameters))


def _sqnr(x: Tensor, rounded: Tensor) -> float:
    return round(float(sqnr_db(x, rounded)), 2)
