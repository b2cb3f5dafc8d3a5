"""`GemmLinear` and `GemmConv`: torch's layers with slots, the one place where seventeen systems meet.

Linear and convolution are both a matrix product. Methods do not bring layer classes of their own; they fill the slots
of these (see `nn.slots.chain`). With no slot filled a layer computes exactly what torch's does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.slots.chain import Codes, GemmSlots, Matrices, Product

T = TypeVar("T", bound="_Gemm")


class _Gemm(nn.Module):
    """What the four layers share: conversion from torch's layer, and the flow through the slots."""

    slots: GemmSlots
    weight: Any  # a parameter; torch's two layers declare it differently
    bias: Any  # a parameter or None
    _held: Codes | None = None

    @classmethod
    def from_module(cls: type[T], module: nn.Module) -> T:
        """The same layer with empty slots; parameters, buffers, hooks and mode are shared with the original."""
        layer = cls.__new__(cls)
        for key, value in module.__dict__.items():
            layer.__dict__[key] = value.copy() if isinstance(value, dict) else value
        layer.slots = GemmSlots()
        layer.slots.train(module.training)
        return layer

    @property
    def _channel_shape(self) -> tuple[int, ...]:
        """What a vector of one number an output channel is reshaped to, to meet the output."""
        return (-1,)

    def _through_slots(self, multiply: Product, x: Tensor) -> Tensor:
        """product(codes of x, codes of weight) * scales + bias.

        The scales are applied after the product, so integer codes meet integer codes as they do in an integer
        engine: in float32 the sums are exact below 2^24, and a packed artifact reproduces them bit for bit.
        """
        x_codes, x_scale = self.slots.input.codes(x)
        w_codes, w_scale = self.slots.weight.codes(self.weight) if self._held is None else self._held
        if w_scale is not None and w_scale.numel() > 1:
            w_scale = w_scale.reshape(self._channel_shape)
        scales = [scale for scale in (x_scale, w_scale) if scale is not None]
        scale = scales[0] * scales[1] if len(scales) == 2 else scales[0] if scales else None
        y = self.slots.product(multiply, self._pad(x_codes), w_codes, scale)
        if self.bias is not None:
            y = y + self.bias.reshape(self._channel_shape)
        return y

    @contextmanager
    def held_weight(self) -> Iterator[None]:
        """Within, the weight's codes are computed once for all calls: a recurrence makes one a step."""
        self._held = self.slots.weight.codes(self.weight)
        try:
            yield
        finally:
            self._held = None

    def from_integers(self, z: Tensor) -> Tensor:
        """The layer's output for a given integer product of its codes: the same scales and bias, in the same order.

        Args:
            z: float, shaped as the layer's output: the product of input codes and weight codes.
        """
        scales: list[Any] = [
            content.scale
            for content in (self.slots.input.quantizer, self.slots.weight.quantizer)
            if content is not None and isinstance(getattr(content, "scale", None), Tensor)
        ]
        if scales:
            shaped = [scale.reshape(self._channel_shape) if scale.numel() > 1 else scale for scale in scales]
            z = z * (shaped[0] if len(shaped) == 1 else shaped[0] * shaped[1])
        return z if self.bias is None else z + self.bias.reshape(self._channel_shape)

    def _pad(self, x: Tensor) -> Tensor:
        return x

    def project_(self) -> None:
        """Let the weight slot's contents project the latent weights (for example clip them)."""
        for content in self.slots.weight.contents():
            content.project_(self.weight)


def _linear_grad_weight(g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return g.flatten(0, -2).t() @ x.flatten(0, -2) if g.dim() > 1 else torch.outer(g, x)


def _linear_matrices(x: Tensor, weight: Tensor) -> Matrices:
    flat = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    return [(flat, weight)], lambda products: products[0].reshape(*x.shape[:-1], len(weight))


LINEAR_PRODUCT = Product(
    forward=F.linear,
    grad_input=lambda g, x, weight: g @ weight,
    grad_weight=_linear_grad_weight,
    matrices=_linear_matrices,
)


class GemmLinear(_Gemm, nn.Linear):
    """`torch.nn.Linear` with slots; same state-dict keys, shapes and initialisation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = GemmSlots()

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if not self.slots.filled:
            return F.linear(input, self.weight, self.bias)
        return self._through_slots(LINEAR_PRODUCT, input)


def _unfolded(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Matrices:
    """A convolution as matrix products, one a group; columns in the order of the weight: channel, row, column."""
    dims = weight.dim() - 2
    if dims == 3:
        raise MethodError("convolutions of three dimensions cannot be unfolded: exclude them by name")
    plane, kernel = (x, weight) if dims == 2 else (x.unsqueeze(2), weight.unsqueeze(2))
    if dims == 1:
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    columns = F.unfold(plane, kernel.shape[2:], dilation=tuple(dilation), padding=tuple(padding), stride=tuple(stride))
    places, taps = columns.shape[2], kernel[0].numel()
    parts = columns.transpose(1, 2).reshape(len(x) * places, groups, taps)
    sides = [
        (size + 2 * pad - dil * (side - 1) - 1) // step + 1
        for size, pad, dil, side, step in zip(plane.shape[2:], padding, dilation, kernel.shape[2:], stride, strict=True)
    ]
    sides = sides if dims == 2 else sides[1:]

    def join(products: list[Tensor]) -> Tensor:
        flat = torch.cat(products, 1).reshape(len(x), places, len(weight)).transpose(1, 2)
        return flat.reshape(len(x), len(weight), *sides)

    return list(zip(parts.unbind(1), kernel.flatten(1).chunk(groups), strict=True)), join


class _GemmConv(_Gemm):
    """Convolution of any number of spatial dimensions as one product."""

    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any
    _reversed_padding_repeated_twice: list[int]

    def forward(self, input: Tensor) -> Tensor:
        """(batch, in_channels, *spatial) -> (batch, out_channels, *spatial), as torch's layer."""
        if not self.slots.filled:
            return super().forward(input)  # torch's layer is next in the order of resolution
        dims = self.weight.dim() - 2
        if input.dim() == dims + 1:  # torch's layers also take one sample without a batch
            return self.forward(input[None])[0]
        return self._through_slots(self._product(dims), input)

    @property
    def _channel_shape(self) -> tuple[int, ...]:
        return (1, -1) + (1,) * (self.weight.dim() - 2)

    @property
    def _pads_itself(self) -> bool:
        return isinstance(self.padding, str) or self.padding_mode != "zeros"

    def _pad(self, x: Tensor) -> Tensor:
        # After quantization, so that a padded zero is the value zero on every format's grid.
        if not self._pads_itself:
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self._reversed_padding_repeated_twice, mode=mode)

    def _product(self, dims: int) -> Product:
        stride, dilation, groups = list(self.stride), list(self.dilation), self.groups
        padding = [0] * dims if self._pads_itself else list(self.padding)

        def forward(x: Tensor, weight: Tensor) -> Tensor:
            return torch.convolution(x, weight, None, stride, padding, dilation, False, [0] * dims, groups)

        def backward(g: Tensor, x: Tensor, weight: Tensor, mask: list[bool]) -> Any:
            return torch.ops.aten.convolution_backward(
                g, x, weight, None, stride, padding, dilation, False, [0] * dims, groups, mask
            )

        def matrices(x: Tensor, weight: Tensor) -> Matrices:
            return _unfolded(x, weight, stride, padding, dilation, groups)

        return Product(
            forward=forward,
            grad_input=lambda g, x, weight: backward(g, x, weight, [True, False, False])[0],
            grad_weight=lambda g, x, weight: backward(g, x, weight, [False, True, False])[1],
            matrices=matrices,
        )


class GemmConv1d(_GemmConv, nn.Conv1d):
    """`torch.nn.Conv1d` with slots; same state-dict keys, shapes and initialisation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = GemmSlots()


class GemmConv2d(_GemmConv, nn.Conv2d):
    """`torch.nn.Conv2d` with slots; same state-dict keys, shapes and initialisation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = GemmSlots()


class GemmConv3d(_GemmConv, nn.Conv3d):
    """`torch.nn.Conv3d` with slots; same state-dict keys, shapes and initialisation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = GemmSlots()


GemmModule = GemmLinear | GemmConv1d | GemmConv2d | GemmConv3d

_GEMM_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: GemmLinear,
    nn.Conv1d: GemmConv1d,
    nn.Conv2d: GemmConv2d,
    nn.Conv3d: GemmConv3d,
}
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def as_gemm(module: nn.Module) -> GemmModule:
    """The module itself when it has slots already, else its twin with empty ones, sharing the parameters.

    Raises:
        MethodError: the module is a subclass of torch's layer with behaviour of its own, which a swap would lose.
    """
    if isinstance(module, GemmLinear | GemmConv1d | GemmConv2d | GemmConv3d):
        return module
    kind = _GEMM_OF.get(type(module))
    if kind is None:
        raise MethodError(
            f"cannot give slots to {type(module).__module__}.{type(module).__qualname__}: only torch's own Linear and "
            f"Conv1d/2d/3d are replaced, a subclass would lose what it adds; exclude it by name"
        )
    return kind.from_module(module)  # type: ignore[attr-defined]
