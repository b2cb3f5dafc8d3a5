"""The modules that run a chain of binary layers on packed words, built from the layers' own modules."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pennyweight import ops
from pennyweight.artifact.thresholds import Expression, fold_thresholds
from pennyweight.nn.gemm import GemmConv2d, GemmLinear
from pennyweight.nn.slots.integer import RunningInput
from pennyweight.ops.convolution import as_pair

Layer = GemmLinear | GemmConv2d


class PackedLayers(nn.Module):
    """A chain of binary linear layers on packed words: float input to the last layer's float output.

    Args:
        layers: the layers, with binary weights; the first takes int8 codes or signs, the others signs.
        between: for each gap, the modules that stand in it.
    """

    def __init__(self, layers: Sequence[GemmLinear], between: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        scale = _scale_of_codes(layers[0])
        packed = [_linear(layer, gap) for layer, gap in _with_gaps(layers, between)]
        self.chain = ops.PackedChain(packed, first="binary" if scale is None else "int8", scale=scale)
        self.last = layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) float32 -> (..., out_features) float32."""
        z = self.chain.run(x.reshape(-1, x.shape[-1])).to(torch.float32)
        return self.last.from_integers(z.view(*x.shape[:-1], z.shape[-1]))


class PackedConvolutions(nn.Module):
    """A chain of binary convolutions, and of linear layers after a flatten, on packed words.

    Args:
        convolutions: at least one; the first takes int8 codes or signs, the others signs.
        linears: the layers after the flatten; empty where the chain ends with a convolution.
        between: for each gap, the modules that stand in it, a flatten left out.
    """

    def __init__(
        self,
        convolutions: Sequence[GemmConv2d],
        linears: Sequence[GemmLinear],
        between: Sequence[Sequence[nn.Module]],
    ) -> None:
        super().__init__()
        scale = _scale_of_codes(convolutions[0])
        pairs = _with_gaps([*convolutions, *linears], between)
        packed = [_convolution(layer, gap) for layer, gap in pairs if isinstance(layer, GemmConv2d)]
        self.images = ops.PackedImages(packed, first="binary" if scale is None else "int8", scale=scale)
        self.chain: ops.PackedChain | None = None
        if linears:
            channels = convolutions[-1].out_channels
            tail = [_linear(layer, gap) for layer, gap in pairs if isinstance(layer, GemmLinear)]
            tail[0] = _pixel_by_pixel(tail[0], linears[0], channels)
            self.chain = ops.PackedChain(tail, first="binary")
        self.last: Layer = linears[-1] if linears else convolutions[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) float32 -> the last layer's output, float32."""
        if x.dim() == 3:  # torch's convolutions also take one image without a batch
            return self(x[None])[0]
        y = self.images.run(x, as_float=True)
        if self.chain is not None:
            y = self.chain.run(y).to(torch.float32)
        return self.last.from_integers(y)


def _with_gaps(
    layers: Sequence[Layer], between: Sequence[Sequence[nn.Module]]
) -> list[tuple[Layer, Sequence[nn.Module] | None]]:
    """Each layer with the modules that follow it; None after the last."""
    return list(zip(layers, [*between, None], strict=True))


def _scale_of_codes(layer: Layer) -> float | None:
    """The step of a first layer's int8 codes; None where it takes signs."""
    content = layer.slots.input.quantizer
    return float(content.scale) if isinstance(content, RunningInput) else None


def _linear(layer: GemmLinear | GemmConv2d, gap: Sequence[nn.Module] | None) -> ops.ChainLayer:
    assert isinstance(layer, GemmLinear)
    threshold = greater = None
    if gap is not None:
        threshold, descending = _threshold(layer, gap, 2, layer.out_features)
        greater = ~descending
    return ops.ChainLayer(
        words=ops.pack_signs(layer.weight.detach()), k=layer.in_features, threshold=threshold, greater=greater
    )


def _pixel_by_pixel(packed: ops.ChainLayer, layer: GemmLinear, channels: int) -> ops.ChainLayer:
    """The layer after a flatten with its inputs in the order of packed images: the channels of a pixel side by side."""
    weight = layer.weight.detach().reshape(layer.out_features, channels, -1).transpose(1, 2)
    words = ops.pack_signs(weight.reshape(layer.out_features, -1))
    return ops.ChainLayer(words=words, k=packed.k, threshold=packed.threshold, greater=packed.greater)


def _convolution(layer: GemmConv2d, gap: Sequence[nn.Module] | None) -> ops.ConvLayer:
    kernel, stride, dilation = (as_pair("size", v) for v in (layer.kernel_size, layer.stride, layer.dilation))
    # torch's own list, of padding="same" too: left, right, top, bottom
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    threshold = greater = all_of_window = pooling = None
    if gap is not None:
        # A border of zeros leaves odd numbers of channels out of a sum.
        odd = (layer.in_channels // layer.groups) % 2 == 1 and any((left, right, top, bottom))
        pool = next((module for module in gap if isinstance(module, nn.MaxPool2d)), None)
        elementwise = [module for module in gap if module is not pool]
        threshold, descending = _threshold(layer, elementwise, 1 if odd else 2, layer.out_channels)
        greater = ~descending
        if pool is not None:
            pooling = _pooling(pool)
            all_of_window = _falling(gap[list(gap).index(pool) + 1 :], layer.out_channels)
    return ops.ConvLayer(
        words=ops.pack_filters(layer.weight.detach()),
        channels=layer.in_channels,
        kernel_size=kernel,
        stride=stride,
        padding=(top, bottom, left, right),
        dilation=dilation,
        groups=layer.groups,
        threshold=threshold,
        greater=greater,
        pooling=pooling,
        all_of_window=all_of_window,
    )


def _pooling(pool: nn.MaxPool2d) -> ops.Pooling:
    kernel, stride, padding, dilation = (
        as_pair("pooling", value) for value in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    return ops.Pooling(
        kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(pool.ceil_mode)
    )


def _threshold(layer: Layer, gap: Sequence[nn.Module], step: int, channels: int) -> tuple[Tensor, Tensor]:
    k = layer.weight[0].numel()
    expression = _expression(layer, gap)
    if isinstance(layer.slots.input.quantizer, RunningInput):
        return fold_thresholds(expression, -128 * k, 128 * k, 1, channels)
    return fold_thresholds(expression, -k, k, step, channels)


def _expression(layer: Layer | None, gap: Sequence[nn.Module]) -> Expression:
    """What a layer makes of its integers, and the modules after it of that; (rows, channels) both ways."""

    def through(y: Tensor) -> Tensor:
        if layer is not None:
            y = layer.from_integers(y)
        for module in gap:
            y = module(y)
        return y

    def of_images(z: Tensor) -> Tensor:
        return through(z.t()[None, :, :, None].contiguous())[0, :, :, 0].t()

    return through if isinstance(layer, GemmLinear) else of_images


@torch.no_grad()
def _falling(gap: Sequence[nn.Module], channels: int) -> Tensor:
    """Where the modules after a max pooling fall: there, the largest value of a window becomes the smallest.

    Monotone float operations stay monotone when rounded, so two far ends tell; equal ends mean a constant.
    """
    low, high = _expression(None, gap)(torch.tensor([[-(2.0**100)], [2.0**100]]).expand(2, channels).contiguous())
    return high < low
