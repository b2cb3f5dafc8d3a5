"""Integer slot contents whose scale and zero point are learned by gradient, before they are frozen.

The forward values equal those of `IntegerWeight` and `IntegerInput` with the same parameters, bit for bit, so that what
a solver measured while it learned is what the frozen layer does.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pennyweight.nn.slots.chain import Codes, SlotContent, Stage
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.numerics.affine import (
    AffineParameters,
    Granularity,
    PerChannel,
    PerGroup,
    PerTensor,
    dequantize,
    expand,
    quantize,
)
from pennyweight.numerics.formats import IntFormat

_LEAST_SCALE = 1e-3  # of the starting scale: a scale must not reach zero


class _Learned(SlotContent):
    """An affine quantizer with a learned scale: scale = start + unit * offset, where the offset starts at 0.

    The unit decides what one step of an optimiser means: the starting scale makes steps relative, so that they do not
    depend on the size of the values; another unit gives other rates.

    Args:
        parameters: where learning starts.
        unit: positive, of the shape of the scale; by default the starting scale.

    Source: arXiv 2006.10518, equation 2; the gradients are those of arXiv 1902.08153 without its gradient scale.
    """

    stage: ClassVar[Stage] = "quantize"
    start_scale: Tensor
    unit: Tensor

    def __init__(self, parameters: AffineParameters, unit: Tensor | None = None) -> None:
        super().__init__()
        self.format: IntFormat = parameters.format
        self.granularity: Granularity = parameters.granularity
        self.register_buffer("start_scale", parameters.scale.detach().clone())
        self.register_buffer("unit", (parameters.scale if unit is None else unit).detach().clone())
        self.offset = nn.Parameter(torch.zeros_like(parameters.scale))

    @property
    def scale(self) -> Tensor:
        """The scale as learned so far."""
        return torch.maximum(self.start_scale + self.unit * self.offset, _LEAST_SCALE * self.start_scale)

    @property
    def zero_point(self) -> Tensor:
        """The zero point, rounded, with a straight-through gradient where it is learned."""
        raise NotImplementedError

    @property
    def affine(self) -> AffineParameters:
        """The parameters as learned so far, frozen."""
        return AffineParameters(
            scale=self.scale.detach(),
            zero_point=self.zero_point.detach(),
            format=self.format,
            granularity=self.granularity,
        )

    def forward(self, x: Tensor) -> Tensor:
        """The quantized values."""
        values, scale = self.codes(x)
        return values if scale is None else values * expand(scale, x, self.granularity)


class LearnedInput(_Learned):
    """Activations with a learned scale and zero point for the whole tensor."""

    start_zero_point: Tensor
    zero_unit: Tensor

    def __init__(
        self, parameters: AffineParameters, unit: Tensor | None = None, zero_unit: Tensor | None = None
    ) -> None:
        super().__init__(parameters, unit)
        assert isinstance(parameters.granularity, PerTensor), "a product takes one scale for its whole input"
        self.register_buffer("start_zero_point", parameters.zero_point.detach().clone())
        levels = torch.full_like(parameters.scale, parameters.format.num_levels - 1)
        self.register_buffer("zero_unit", (levels if zero_unit is None else zero_unit).detach().clone())
        self.zero_offset = nn.Parameter(torch.zeros_like(parameters.zero_point))

    @property
    def zero_point(self) -> Tensor:
        """Rounded and within the format, with a straight-through gradient."""
        zero = self.start_zero_point + self.zero_unit * self.zero_offset
        return _round(zero).clamp(self.format.min, self.format.max)

    def codes(self, x: Tensor) -> Codes:
        """Codes minus zero point, and the scale."""
        scale = self.scale
        codes: Tensor = _Codes.apply(x, scale, self.zero_point, self.format)
        return codes, scale

    def frozen(self) -> IntegerInput:
        """The content that stays when learning is over."""
        return IntegerInput(self.affine)


class LearnedWeight(_Learned):
    """Weights with learned scales; the zero point stays where it is, 0 for symmetric codes."""

    fixed_zero_point: Tensor

    def __init__(self, parameters: AffineParameters, unit: Tensor | None = None) -> None:
        super().__init__(parameters, unit)
        self.register_buffer("fixed_zero_point", parameters.zero_point.detach().clone())

    @property
    def zero_point(self) -> Tensor:
        """As it was given."""
        return self.fixed_zero_point

    def codes(self, x: Tensor) -> Codes:
        """Codes minus zero point and the scale an output channel; with groups the values themselves."""
        scale = self.scale
        zero_point = expand(self.zero_point, x, self.granularity)
        steps = _round(x / expand(scale, x, self.granularity))
        codes = steps.clamp(self.format.min - zero_point, self.format.max - zero_point)
        if isinstance(self.granularity, PerGroup):
            return codes * expand(scale, x, self.granularity), None
        assert isinstance(self.granularity, PerTensor | PerChannel)
        return codes, scale

    def frozen(self) -> IntegerWeight:
        """The content that stays when learning is over."""
        return IntegerWeight(self.affine)

    def on_grid(self, weight: Tensor) -> Tensor:
        """The weight's quantized values, which the frozen content leaves as they are."""
        return dequantize(quantize(weight.detach(), self.affine), self.affine)


class _Codes(torch.autograd.Function):
    """clamp(round(x / scale), min - zero_point, max - zero_point) with all three straight-through gradients.

    Written out because an input has many entries and one scale: what autograd would keep and visit is several times
    as much.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, format: IntFormat) -> Tensor:
        steps = x / scale
        codes = steps.round()
        low, high = format.min - zero_point, format.max - zero_point
        below, above = codes < low, codes > high
        ctx.save_for_backward(steps, scale, below | above)
        return codes.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        steps, scale, clipped = ctx.saved_tensors
        grad_x = grad_scale = grad_zero = None
        inside = g.masked_fill(clipped, 0.0)
        if ctx.needs_input_grad[0]:
            grad_x = inside / scale
        if ctx.needs_input_grad[1]:
            grad_scale = -torch.dot(inside.flatten(), steps.flatten()).reshape(scale.shape) / scale
        if ctx.needs_input_grad[2]:
            grad_zero = -(g.sum() - inside.sum()).reshape(scale.shape)
        return grad_x, grad_scale, grad_zero, None


def _round(x: Tensor) -> Tensor:
    """To the nearest integer, ties to even, with the gradient of the identity; the value is exact."""
    return x.detach().round() + (x - x.detach())
