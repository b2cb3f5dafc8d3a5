"""The runtime of packed convolutional nets: every convolution of a run in one C++ call. A layer is conv_layer.py's.

What follows a flatten is a `PackedChain` of linear layers, which takes the packed bits this hands over.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.kernels.library import library
from pennyweight.ops import checks, dispatch, reference
from pennyweight.ops.binary import limits
from pennyweight.ops.chain import First
from pennyweight.ops.conv_layer import ConvLayer, Pair

_INT32, _FLOAT32, _WORDS = 0, 1, 2  # what comes out


class PackedImages:
    """A run of packed convolutions, from float images to the last one's sums or bits.

    Weights are copied into the layout of the current backend, one bit a weight; for each size of images the thresholds
    at their borders are worked out once. A call may come from several threads at the same time.

    Args:
        layers: at least one; every layer but the last has thresholds. If the last has them too, bits are the result.
        first: "int8" when the first layer multiplies int8 codes, "binary" when it multiplies signs.
        scale: the step of the codes of an "int8" first layer: codes are clamp(round_half_even(x / scale), -128, 127)
            in float32.

    Raises:
        KernelError: layers that do not fit each other, or a value of the wrong type, shape or range.

    Cost: one bit of memory a weight, beside the tensors handed in; int32 for each filter and kind of border.

    Example:
        >>> from pennyweight import ops
        >>> filters = ops.pack_filters(torch.ones(1, 1, 3, 3))
        >>> layer = ConvLayer(words=filters, channels=1, kernel_size=(3, 3), padding=(1, 1, 1, 1))
        >>> PackedImages([layer], first="int8", scale=0.5).run(torch.ones(1, 1, 2, 2)).tolist()
        [[[[8, 8], [8, 8]]]]
    """

    def __init__(self, layers: Sequence[ConvLayer], *, first: First = "int8", scale: float | None = None) -> None:
        self._layers = tuple(layers)
        self.first, self.scale = first, scale
        self._check()
        self.channels = self._layers[0].channels
        self.out_channels = len(self._layers[-1].words)
        self._scale = 1.0 if scale is None else float(torch.tensor(scale, dtype=torch.float32))
        self._path = dispatch.select()
        self._plans: dict[Pair, tuple[Pair, int]] = {}
        self._handle: int | None = None
        if self._path is not None:
            self._build(self._path.index)

    @property
    def backend(self) -> str:
        """The backend the weights were laid out for."""
        return dispatch.REFERENCE if self._path is None else self._path.name

    @property
    def gives_bits(self) -> bool:
        """Whether the result is packed bits rather than sums."""
        return self._layers[-1].threshold is not None

    def run(self, x: Tensor, *, as_float: bool = False) -> Tensor:
        """Runs every layer on a batch of images.

        Args:
            x: float32 (batch, channels, height, width), any size the layers leave a pixel of.
            as_float: sums as float32 instead of int32; exact below 2^24.

        Returns:
            The last layer's sums, int32 or float32 (batch, filters, height', width'); or its bits,
            int64 (batch, ceil(height' * width' * filters / 64)), the filters of a pixel side by side.

        Raises:
            KernelError: wrong type or shape, images too small, or a NaN.
        """
        if x.dtype != torch.float32 or x.dim() != 4 or x.shape[1] != self.channels or x.device.type != "cpu":
            raise KernelError(
                f"x is {x.dtype} of shape {tuple(x.shape)} on {x.device}; expected float32 "
                f"(batch, {self.channels}, height, width) on the CPU"
            )
        size = (x.shape[2], x.shape[3])
        known = self._plans.get(size)
        if known is None:
            known = self._plans[size] = self._plan(size)
        (rows, columns), plan = known
        if self._handle is None:
            return self._reference(x, as_float)
        if not x.is_contiguous():
            x = x.contiguous()
        if self.gives_bits:
            kind, words = _WORDS, checks.words_for(rows * columns * self.out_channels)
            out = torch.empty((x.shape[0], words), dtype=torch.int64)
        else:
            kind, dtype = (_FLOAT32, torch.float32) if as_float else (_INT32, torch.int32)
            out = torch.empty((x.shape[0], self.out_channels, rows, columns), dtype=dtype)
        bad = self._run(plan, x.data_ptr(), self._scale, x.shape[0], kind, out.data_ptr(), dispatch.num_threads())
        if bad >= 0:
            checks.refuse_nan("x", x, bad)
        return out

    __call__ = run

    def _sizes(self, size: Pair) -> list[tuple[Pair, Pair, Pair]]:
        """For each layer, the size that enters, of the convolution's output, and after pooling."""
        found = []
        for number, layer in enumerate(self._layers):
            conv = layer.conv_size(size)
            out = conv if layer.pooling is None or min(conv) < 1 else layer.pooling.output_size(conv)
            if min(size) < 1 or min(out) < 1:
                raise KernelError(f"images of {size[0]}x{size[1]} pixels are too small for layers[{number}]")
            found.append((size, conv, out))
            size = out
        return found

    def _plan(self, size: Pair) -> tuple[Pair, int]:
        sizes = self._sizes(size)
        if self._handle is None:
            return sizes[-1][2], 0
        numbers = torch.tensor(sizes, dtype=torch.int64)
        return sizes[-1][2], library().pw_images_plan(self._handle, numbers.data_ptr())

    def _reference(self, x: Tensor, as_float: bool) -> Tensor:
        bad = torch.isnan(x).flatten()
        if bool(bad.any()):
            checks.refuse_nan("x", x, int(bad.nonzero()[0]))
        codes = reference.quantize_codes(x, self._scale) if self.first == "int8" else torch.where(x >= 0, 1, -1)
        values = codes.to(torch.float64)
        for layer in self._layers:
            z = reference.convolve(
                values, layer.signs(), layer.stride, layer.padding, layer.dilation, layer.groups, layer.pad_value
            )
            if layer.threshold is None:
                return z.to(torch.float32 if as_float else torch.int32)
            limit, greater = layer.threshold[:, None, None], _vector(layer.greater, layer, True)[:, None, None]
            bits = torch.where(greater, z >= limit, z <= limit)
            if (pool := layer.pooling) is not None:
                flip = _vector(layer.all_of_window, layer, False)[:, None, None]
                settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
                bits = (F.max_pool2d((bits ^ flip).to(torch.float64), *settings) > 0) ^ flip
            values = torch.where(bits, 1.0, -1.0).to(torch.float64)
        return reference.pack_signs(values.permute(0, 2, 3, 1).reshape(len(x), -1))

    def _check(self) -> None:
        if not self._layers:
            raise KernelError("layers is empty; a packed network has at least one")
        if self.first not in ("int8", "binary"):
            raise KernelError(f"first is {self.first!r}; valid: 'int8' and 'binary'")
        if self.first == "int8" and self.scale is None:
            raise KernelError("scale is None, but an 'int8' first layer turns floats into codes: give their step")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale >= 1.2e-38):
            raise KernelError(f"scale is {self.scale!r}; the step of the codes is a positive, normal float32 number")
        channels = self._layers[0].channels
        for i, layer in enumerate(self._layers):
            layer.check(f"layers[{i}]")
            codes = i == 0 and self.first == "int8"
            checks.require_k(layer.k, checks.MAX_INT8_K if codes else (1 << 31) - 1)
            if codes and layer.pad_value != 0:
                raise KernelError(f"layers[0].pad_value is {layer.pad_value}; around int8 codes the border holds 0")
            if layer.channels != channels:
                raise KernelError(
                    f"layers[{i}].channels is {layer.channels}, but {channels} come from the layer before"
                )
            if layer.threshold is None and i < len(self._layers) - 1:
                raise KernelError(f"layers[{i}] of {len(self._layers)} lacks thresholds; only the last may")
            channels = len(layer.words)

    def _build(self, index: int) -> None:
        lib = library()
        handle = lib.pw_images_create(index)
        if not handle:
            raise KernelError("no memory for the packed network")
        self._handle, self._run = handle, lib.pw_images_run
        weakref.finalize(self, lib.pw_images_free, handle)
        for i, layer in enumerate(self._layers):
            checks.require_clean_padding(
                f"layers[{i}].words", layer.words.reshape(-1, checks.words_for(layer.group_channels)).contiguous(),
                layer.group_channels,
            )  # fmt: skip
            codes = i == 0 and self.first == "int8"
            words = layer.words.contiguous()
            if codes:  # a row of codes has no gaps between taps
                words = reference.pack_signs(layer.signs().permute(0, 2, 3, 1).reshape(len(words), -1))
            shape = torch.tensor(_shape(layer, codes), dtype=torch.int64)
            if layer.threshold is None:
                lib.pw_images_add(handle, shape.data_ptr(), words.data_ptr(), None, None, None)
                continue
            limit, invert = limits(layer.threshold, _vector(layer.greater, layer, True))
            flip = torch.zeros_like(invert)
            if layer.pooling is not None:
                flip = reference.pack_bits(_vector(layer.all_of_window, layer, False))
            invert = invert ^ flip
            lib.pw_images_add(
                handle, shape.data_ptr(), words.data_ptr(), limit.data_ptr(), invert.data_ptr(), flip.data_ptr()
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._layers, self.first, self.scale)


def _vector(values: Tensor | None, layer: ConvLayer, default: bool) -> Tensor:
    return torch.full((len(layer.words),), default) if values is None else values


def _shape(layer: ConvLayer, codes: bool) -> list[int]:
    """The numbers of a layer in the order of the library's `Shape`."""
    top, bottom, left, right = layer.padding
    numbers = [int(codes), layer.channels, len(layer.words), layer.groups, layer.pad_value]
    numbers += [*layer.kernel_size, *layer.stride, *layer.dilation, top, left, bottom, right]
    if (pool := layer.pooling) is None:
        return numbers + [0] * 9
    return [*numbers, 1, *pool.kernel_size, *pool.stride, *pool.dilation, *pool.padding]


def _rebuild(layers: tuple[ConvLayer, ...], first: First, scale: float | None) -> PackedImages:
    return PackedImages(layers, first=first, scale=scale)
