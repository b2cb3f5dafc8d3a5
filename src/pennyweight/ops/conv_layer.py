"""What one layer of a packed convolutional net consists of; running several in one call is images.py's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.ops import binary, checks, reference

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """Max pooling of bits.

    Args:
        kernel_size: rows and columns of a window.
        stride: steps between windows.
        padding: border on each side, which never wins.
        dilation: steps within a window.
        ceil_mode: also pool windows that reach over the end.
    """

    kernel_size: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    def output_size(self, size: Pair) -> Pair:
        """Rows and columns after pooling, as `torch.nn.MaxPool2d` has them."""
        found = []
        for axis in (0, 1):
            step, pad = self.stride[axis], self.padding[axis]
            room = size[axis] + 2 * pad - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1
            windows = (room + (step - 1 if self.ceil_mode else 0)) // step + 1
            if self.ceil_mode and (windows - 1) * step >= size[axis] + pad:
                windows -= 1  # the last one would lie in the border altogether
            found.append(windows)
        return found[0], found[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvLayer:
    """One convolution of a packed network.

    Args:
        words: packed signs of the filters, int64 (N, words), from `pack_filters`.
        channels: of the images that enter.
        kernel_size: rows and columns of a filter.
        stride: steps between windows.
        padding: border at the top, the bottom, the left and the right.
        dilation: steps within a window.
        groups: of channels; each filter sees one of them.
        pad_value: what the border holds: 0, or a sign.
        threshold: int32 (N,) for a hidden layer; None for the last, whose sums may be the result.
        greater: bool (N,): the output bit is z >= threshold where True, z <= threshold where False; None is all True.
        pooling: of the bits; None for none.
        all_of_window: bool (N,): True where a pooled bit is set when all bits of its window are, False where any will
            do; None is all False. Pooling that stands before a batch norm of negative gain asks for all.
    """

    words: Tensor
    channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pad_value: int = 0
    threshold: Tensor | None = None
    greater: Tensor | None = None
    pooling: Pooling | None = None
    all_of_window: Tensor | None = None

    @property
    def group_channels(self) -> int:
        """Channels a filter sees."""
        return self.channels // self.groups

    @property
    def k(self) -> int:
        """Weights of a filter."""
        return self.group_channels * self.kernel_size[0] * self.kernel_size[1]

    def conv_size(self, size: Pair) -> Pair:
        """Rows and columns of the convolution's output."""
        found = []
        for axis in (0, 1):
            room = size[axis] + self.padding[2 * axis] + self.padding[2 * axis + 1]
            room -= self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            found.append(room // self.stride[axis] + 1)
        return found[0], found[1]

    def signs(self) -> Tensor:
        """The filters as +1 and -1, float64 (N, channels of a group, rows, columns)."""
        rows, columns = self.kernel_size
        words = self.words.reshape(len(self.words), rows, columns, checks.words_for(self.group_channels))
        return reference.unpack_signs(words, self.group_channels).permute(0, 3, 1, 2)

    def check(self, name: str) -> None:
        """Refuse settings that are none.

        Raises:
            KernelError: naming the layer and what is wrong with it.
        """
        n = len(self.words)
        pairs: dict[str, Sequence[int]] = {
            "kernel_size": self.kernel_size, "stride": self.stride, "dilation": self.dilation,
        }  # fmt: skip
        for what, pair in pairs.items():
            if len(pair) != 2 or min(pair) < 1:
                raise KernelError(f"{name}.{what} is {tuple(pair)!r}; expected two integers of at least 1")
        if len(self.padding) != 4 or min(self.padding) < 0:
            raise KernelError(f"{name}.padding is {self.padding!r}; expected (top, bottom, left, right), none negative")
        if self.groups < 1 or self.channels < 1 or n < 1 or self.channels % self.groups or n % self.groups:
            raise KernelError(
                f"{name} has {self.channels} channels, {n} filters and {self.groups} groups; groups must divide both, "
                "and none may be 0"
            )
        if self.pad_value not in (-1, 0, 1):
            raise KernelError(f"{name}.pad_value is {self.pad_value!r}; a border holds 0, 1 or -1")
        words = self.kernel_size[0] * self.kernel_size[1] * checks.words_for(self.group_channels)
        if self.words.dtype != torch.int64 or tuple(self.words.shape) != (n, words):
            raise KernelError(
                f"{name}.words is {self.words.dtype} of shape {tuple(self.words.shape)}; {n} filters of {self.k} "
                f"weights are int64 of shape ({n}, {words}): make them with ops.pack_filters"
            )
        if self.threshold is not None:
            checks.require_vector(f"{name}.threshold", self.threshold, torch.int32, n)
        for what in ("greater", "all_of_window"):
            if (vector := getattr(self, what)) is not None:
                checks.require_vector(f"{name}.{what}", vector, torch.bool, n)
        if self.pooling is not None and self.threshold is None:
            raise KernelError(f"{name} pools but has no thresholds: bits are pooled, sums are not")


def pack_filters(weight: Tensor) -> Tensor:
    """Packs the signs of convolution filters, tap by tap, each tap's channels in words of their own.

    Args:
        weight: real numbers (N, channels, rows, columns).

    Returns:
        int64 (N, rows * columns * ceil(channels / 64)).

    Raises:
        KernelError: weight is not of four dimensions, or holds a NaN.

    Example:
        >>> pack_filters(torch.tensor([[[[1.0, -1.0]], [[1.0, 1.0]]]])).tolist()
        [[3, 2]]
    """
    if weight.dim() != 4:
        raise KernelError(f"weight has shape {tuple(weight.shape)}; filters are (N, channels, rows, columns)")
    return binary.pack_signs(weight.permute(0, 2, 3, 1)).flatten(1)
