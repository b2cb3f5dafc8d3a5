"""Binary convolution as a function. Padding is exact: a convolution of signs that was trained with zeros around its
images sees a third value there, and so does this one.
"""

from typing import Any

import torch
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.ops import checks
from pennyweight.ops.conv_layer import ConvLayer, Pair, pack_filters
from pennyweight.ops.images import PackedImages


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    pad_value: int = 0,
) -> Tensor:
    """Convolution of the signs of x with the signs of weight, as exact integers.

    Weights are packed anew in each call: a net that is called often is a `PackedImages`.

    Args:
        x: real numbers (batch, channels, height, width).
        weight: real numbers (N, channels / groups, rows, columns).
        stride: steps between windows; one number or two, as all settings here.
        padding: border on both sides.
        dilation: steps within a window.
        groups: of channels.
        pad_value: what the border holds. 0 is what training pads; +1 and -1 are signs like any other.

    Returns:
        int32 (batch, N, height', width'), the same on every backend and thread count.

    Raises:
        KernelError: shapes or settings that do not fit, or a NaN.

    Source: 1602.02830, section 1.3; the correction of the border is exact arithmetic on it.
    Deviations: the border of zeros is kept, which the paper's code packs as a sign at test time.

    Example:
        >>> x = torch.ones(1, 1, 2, 2)
        >>> binary_conv2d(x, torch.ones(1, 1, 3, 3), padding=1).tolist()
        [[[[4, 4], [4, 4]]]]
        >>> binary_conv2d(x, torch.ones(1, 1, 3, 3), padding=1, pad_value=-1).tolist()
        [[[[-1, -1], [-1, -1]]]]
    """
    settings = [
        as_pair(name, value) for name, value in (("stride", stride), ("padding", padding), ("dilation", dilation))
    ]
    if torch.compiler.is_compiling():
        return torch.ops.pennyweight.binary_conv2d(x, weight, *map(list, settings), groups, pad_value)
    return _convolve(x, weight, settings[0], settings[1], settings[2], groups, pad_value)


def _convolve(x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int, pad: int) -> Tensor:
    if weight.dim() != 4 or x.dim() != 4:
        raise KernelError(
            f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; expected (batch, channels, height, width) "
            "and (N, channels / groups, rows, columns)"
        )
    layer = ConvLayer(
        words=pack_filters(weight.cpu()),
        channels=weight.shape[1] * groups,
        kernel_size=(weight.shape[2], weight.shape[3]),
        stride=stride,
        padding=(padding[0], padding[0], padding[1], padding[1]),
        dilation=dilation,
        groups=groups,
        pad_value=pad,
    )
    net = PackedImages([layer], first="binary")
    if x.dtype != torch.float32:
        bad = torch.isnan(x).flatten()
        if bool(bad.any()):
            checks.refuse_nan("x", x, int(bad.nonzero()[0]))
        x = torch.where(x >= 0, 1.0, -1.0)  # as float32
    return net.run(x.detach().cpu()).to(x.device)


def as_pair(name: str, value: Any) -> Pair:
    """One number or two as two.

    Raises:
        KernelError: it is neither.
    """
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or not all(isinstance(number, int) for number in pair):
        raise KernelError(f"{name} is {value!r}; expected an integer or two of them")
    return pair[0], pair[1]
