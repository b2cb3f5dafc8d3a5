"""Integer slot contents: affine codes for weights and activations, and a running range for a net's first input."""

from typing import ClassVar

import torch
from torch import Tensor

from pennyweight.nn.slots.chain import Codes, SlotContent, Stage
from pennyweight.numerics.affine import (
    AffineParameters,
    Granularity,
    PerChannel,
    PerTensor,
    dequantize,
    quantize,
)
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat


class _Affine(SlotContent):
    """round(x / scale) + zero_point clamped to the format, with frozen scale and zero point.

    What enters the product is code - zero_point, an integer; the gradient passes where the value was not clamped.
    """

    stage: ClassVar[Stage] = "quantize"
    scale: Tensor
    zero_point: Tensor

    def __init__(self, parameters: AffineParameters) -> None:
        super().__init__()
        self.format: IntFormat = parameters.format
        self.granularity: Granularity = parameters.granularity
        self.register_buffer("scale", parameters.scale.detach().clone())
        self.register_buffer("zero_point", parameters.zero_point.detach().clone())

    @property
    def affine(self) -> AffineParameters:
        """Scale, zero point, format and granularity as the plain record the numerics work on."""
        return AffineParameters(
            scale=self.scale, zero_point=self.zero_point, format=self.format, granularity=self.granularity
        )

    def forward(self, x: Tensor) -> Tensor:
        """The quantized values."""
        values, scale = self.codes(x)
        return values if scale is None else values * _over_rows(scale, x)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}, granularity={self.granularity}"


class IntegerInput(_Affine):
    """Activations as affine codes of one scale and zero point for the whole tensor."""

    def __init__(self, parameters: AffineParameters) -> None:
        assert isinstance(parameters.granularity, PerTensor), "a product takes one scale for its whole input"
        super().__init__(parameters)

    def codes(self, x: Tensor) -> Codes:
        """Codes minus zero point, and the scale."""
        return _centred_codes(x, self.scale, self.zero_point, self.format), self.scale


class IntegerWeight(_Affine):
    """Weights as affine codes, one scale a tensor, an output channel, or a group of inputs."""

    def codes(self, x: Tensor) -> Codes:
        """Codes minus zero point and the scale an output channel; with groups the values themselves."""
        if isinstance(self.granularity, PerTensor | PerChannel):
            scale, zero_point = _over_rows(self.scale, x), _over_rows(self.zero_point, x)
            return _centred_codes(x, scale, zero_point, self.format), self.scale
        # A scale that changes along the sum cannot be taken out of it.
        values = dequantize(quantize(x.detach(), self.affine), self.affine)
        return x + (values - x).detach(), None


class RunningInput(SlotContent):
    """A net's own input as signed integers, with a range that grows with what training shows it.

    The range starts at 1: inputs are expected to be normalised to about [-1, 1]. Pixels normalised as
    (u - 128) / 128 then become the codes u - 128 exactly, with nothing lost.
    """

    stage: ClassVar[Stage] = "quantize"
    absmax: Tensor

    def __init__(self, format: IntFormat) -> None:
        super().__init__()
        assert format.signed, "inputs on both sides of zero need a signed format"
        self.format = format
        self.register_buffer("absmax", torch.ones(()))

    @property
    def scale(self) -> Tensor:
        """absmax / 2^(bits - 1): the whole range of the format, its negative end included."""
        return self.absmax / 2 ** (self.format.bits - 1)

    def codes(self, x: Tensor) -> Codes:
        """Integer codes and their scale; while training the range first grows to hold `x`.

        Raises:
            NumericsError: while training `x` is not finite, which the range would never forget.
        """
        if self.training and x.numel():
            require_finite(x, "the input to quantize")
            torch.maximum(self.absmax, x.detach().abs().amax(), out=self.absmax)
        scale = self.scale
        return _centred_codes(x, scale, torch.zeros_like(scale), self.format), scale

    def forward(self, x: Tensor) -> Tensor:
        """The quantized values."""
        values, scale = self.codes(x)
        assert scale is not None
        return values * scale

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}"


def _over_rows(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter a row of `x`, shaped to multiply it; a single one as it is."""
    return parameter.reshape(-1, *[1] * (x.dim() - 1)) if parameter.numel() > 1 else parameter.reshape(())


def _centred_codes(x: Tensor, scale: Tensor, zero_point: Tensor, format: IntFormat) -> Tensor:
    """clamp(round(x / scale), min - zero_point, max - zero_point), with the straight-through gradient of x / scale."""
    steps = x / scale
    low, high = format.min - zero_point, format.max - zero_point
    codes = steps.detach().round().clamp(low, high)
    if not steps.requires_grad:
        return codes
    inside = (steps.detach() >= low - 0.5) & (steps.detach() <= high + 0.5)
    return codes + torch.where(inside, steps - steps.detach(), 0.0)
