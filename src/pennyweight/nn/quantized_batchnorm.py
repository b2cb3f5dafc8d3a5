"""Batch normalization on a grid of few bits, by ranges or by squares: what 8-bit training does to its norms."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.range_batchnorm import _RangeBatchNorm
from pennyweight.nn.slots.chain import SlotContent
from pennyweight.nn.slots.measured import MeasuredGradient, MeasuredInput, MeasuredWeight
from pennyweight.numerics.affine import PerTensor, affine_parameters, dequantize, quantize
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.order_statistics import RangeScale
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding
from pennyweight.numerics.ste import straight_through

Statistic = Literal["range", "variance"]
T = TypeVar("T", bound="_QuantizedBatchNorm")


class _ShapedGradient(torch.autograd.Function):
    """The values themselves; the gradient through a slot content."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, content: SlotContent) -> Tensor:
        ctx.content = content
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.content(grads[0]), None


class _QuantizedBatchNorm(_RangeBatchNorm):
    """A batch norm whose input, scale, shift and gradient are on grids of `bits` bits; same keys for the rest.

    With `statistic="range"` the extremes lie on the input's grid already. With "variance" the squares are numbers of
    their own, and are rounded to as many bits. Statistics of a channel, of which there are few, stay in float.

    Args:
        num_features: channels.
        bits: 2 to 8.
        statistic: "range" or "variance".
        num_chunks: for "range".
        scale: for "range": "exact", "repo" or "paper".
        gradient_bits: of the gradient that arrives, 2 to 8; None for `bits`.
        grad_rounding: "stochastic" or "nearest_even".
        key: root of the gradient's draws.

    Source: arXiv 1805.11046, sections 3 and 5.
    Deviations: the published code left scale and shift in float.
    """

    def __init__(
        self,
        num_features: int,
        bits: int = 8,
        statistic: Statistic = "range",
        num_chunks: int = 16,
        scale: RangeScale = "exact",
        *,
        gradient_bits: int | None = None,
        grad_rounding: Rounding = "stochastic",
        key: Key | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, num_chunks, scale, **kwargs)
        self._set_bits(bits, statistic, gradient_bits, grad_rounding, key)

    def _set_bits(
        self, bits: int, statistic: Statistic, gradient_bits: int | None, grad_rounding: Rounding, key: Key | None
    ) -> None:
        for name, value in (("bits", bits), ("gradient_bits", gradient_bits)):
            if value is not None and not 2 <= value <= 8:
                raise MethodError(f"{name}={value}: quantized normalization takes 2 to 8 bits")
        if statistic not in ("range", "variance"):
            raise MethodError(f"statistic={statistic!r}: valid are 'range' and 'variance'")
        self.bits = bits
        self.statistic: Statistic = statistic
        gradient = IntFormat(bits if gradient_bits is None else gradient_bits)
        self.quantizers = nn.ModuleDict({
            "input": MeasuredInput(IntFormat(bits, signed=False)),
            "affine": MeasuredWeight(IntFormat(bits), PerTensor()),
            "gradient": MeasuredGradient(gradient, grad_rounding, key or Key(0).fold("norm gradient")),
        })  # fmt: skip
        self.quantizers.train(self.training)

    @classmethod
    def quantized(
        cls: type[T],
        norm: nn.modules.batchnorm._BatchNorm,
        bits: int,
        statistic: Statistic = "range",
        num_chunks: int = 16,
        scale: RangeScale = "exact",
        *,
        ghost_batch_size: int | None = None,
        gradient_bits: int | None = None,
        grad_rounding: Rounding = "stochastic",
        key: Key | None = None,
    ) -> T:
        """The same layer, sharing parameters and buffers, on a grid of `bits` bits."""
        layer = cls.from_module(norm, num_chunks, scale, ghost_batch_size)
        layer._set_bits(bits, statistic, gradient_bits, grad_rounding, key)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, *spatial), on the grid and normalized."""
        self._check_input_dim(input)
        x = self.quantizers["input"](input)
        weight, bias = (None if p is None else self.quantizers["affine"](p) for p in (self.weight, self.bias))
        by_squares = self.statistic == "variance" and (self.training or self.running_mean is None)
        y = self._by_squares(x, weight, bias) if by_squares else self._normalize(x, weight, bias)
        if self.training and y.requires_grad:
            y = _ShapedGradient.apply(y, self.quantizers["gradient"])
        return y

    def _by_squares(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Batch norm with the squares rounded to the format; gradients pass the rounding unchanged."""
        axes, shape = (0, *range(2, x.dim())), (1, -1) + (1,) * (x.dim() - 2)
        mean = x.mean(axes)
        centred = x - mean.reshape(shape)
        squares = centred.square()
        high = squares.detach().amax()
        if bool(torch.isfinite(high)):
            grid = affine_parameters(
                high.new_zeros(()), high, IntFormat(self.bits, signed=False), PerTensor(), symmetric=False
            )
            squares = straight_through(squares, dequantize(quantize(squares.detach(), grid), grid).to(squares.dtype))
        variance = squares.mean(axes)
        if self.training and self.running_mean is not None and self.running_var is not None:
            momentum = self._count()
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)
        y = centred * (variance + self.eps).rsqrt().reshape(shape)
        y = y if weight is None else y * weight.reshape(shape)
        return y if bias is None else y + bias.reshape(shape)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        is_float = not any(key.startswith(f"{prefix}quantizers.") for key in state_dict)
        for content in self.quantizers.values():
            assert isinstance(content, SlotContent)
            content._keeps_values = is_float  # as the layers' slots do
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{super().extra_repr()}, bits={self.bits}, statistic={self.statistic}"


class QuantizedBatchNorm1d(_QuantizedBatchNorm, nn.BatchNorm1d):
    """Quantized batch norm over (batch, channels) or (batch, channels, length)."""


class QuantizedBatchNorm2d(_QuantizedBatchNorm, nn.BatchNorm2d):
    """Quantized batch norm over (batch, channels, height, width)."""


QUANTIZED_OF: dict[type[nn.Module], type[_QuantizedBatchNorm]] = {
    nn.BatchNorm1d: QuantizedBatchNorm1d,
    nn.BatchNorm2d: QuantizedBatchNorm2d,
}
