"""The runtime of a whole packed network: every layer in one C++ call. Single operators are in binary.py."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.kernels.library import library
from pennyweight.ops import checks, dispatch, reference
from pennyweight.ops.binary import limits

First = Literal["int8", "binary"]
_PREPARED, _FLOAT = 0, 1  # what enters: codes or words as they are, or floats


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainLayer:
    """One layer of a packed network.

    Args:
        words: packed signs of the weight, int64 (N, words).
        k: bits of a row, the layer's inputs.
        threshold: int32 (N,) for a hidden layer; None for the last, whose sums are the result.
        greater: bool (N,): the output bit is z >= threshold where True, z <= threshold where False; None is all True.
    """

    words: Tensor
    k: int
    threshold: Tensor | None = None
    greater: Tensor | None = None


class PackedChain:
    """A packed multi-layer network that runs in one call.

    Weights are copied into the layout of the current backend, one bit a weight. A call needs no other memory than its
    result once it has run at a batch size, and may come from several threads at the same time.

    Args:
        layers: at least one; every layer but the last has thresholds.
        first: "int8" when the first layer multiplies int8 codes, "binary" when it multiplies signs.
        scale: the step of the codes, for float inputs of an "int8" first layer: codes are
            clamp(round_half_even(x / scale), -128, 127) in float32.

    Raises:
        KernelError: layers that do not fit each other, or a value of the wrong type, shape or range.

    Cost: one bit of memory a weight, beside the tensors handed in, which are kept for copies and pickling.

    Example:
        >>> from pennyweight import ops
        >>> w = ops.pack_signs(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        >>> hidden = ChainLayer(words=w, k=2, threshold=torch.tensor([0, 0], dtype=torch.int32))
        >>> chain = PackedChain([hidden, ChainLayer(words=w, k=2)], first="int8", scale=1.0)
        >>> chain.run(torch.tensor([[3.0, 5.0]])).tolist()
        [[-2, 0]]
    """

    def __init__(self, layers: Sequence[ChainLayer], *, first: First = "int8", scale: float | None = None) -> None:
        self._layers = tuple(layers)
        self.first, self.scale = first, scale
        self._check()
        self.in_features = self._layers[0].k
        self.out_features = self._layers[-1].words.shape[0]
        self._input_words = checks.words_for(self.in_features)
        self._scale = 1.0 if scale is None else float(torch.tensor(scale, dtype=torch.float32))
        self._path = dispatch.select()
        self._handle: int | None = None
        if self._path is not None:
            self._build(self._path.index)

    @property
    def backend(self) -> str:
        """The backend the weights were laid out for."""
        return dispatch.REFERENCE if self._path is None else self._path.name

    def run(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Runs every layer on a batch.

        Args:
            x: (M, in_features) float32; or int8 codes for an "int8" first layer; or int64 packed words
                (M, words) for a "binary" one.
            out: int32 (M, out_features), contiguous, to write into.

        Returns:
            int32 (M, out_features): the last layer's sums.

        Raises:
            KernelError: wrong type or shape, float input without a scale, or a NaN.
        """
        shape, dtype = x.shape, x.dtype
        if dtype == torch.float32:
            kind, width = _FLOAT, self.in_features
            if self.scale is None and self.first == "int8":
                raise KernelError("x is float32 but the chain has no scale: pass scale= to PackedChain, or int8 codes")
        elif dtype == torch.int8 and self.first == "int8":
            kind, width = _PREPARED, self.in_features
        elif dtype == torch.int64 and self.first == "binary":
            kind, width = _PREPARED, self._input_words
        else:
            other = "int8 codes" if self.first == "int8" else "int64 packed words"
            raise KernelError(f"x is {dtype}; a chain whose first layer is {self.first!r} takes float32 or {other}")
        if len(shape) != 2 or shape[1] != width or x.device.type != "cpu":
            raise KernelError(f"x has shape {tuple(shape)} on {x.device}; expected (M, {width}) on the CPU")
        rows = shape[0]
        if out is None:
            out = torch.empty((rows, self.out_features), dtype=torch.int32)
        elif out.dtype != torch.int32 or out.shape != (rows, self.out_features) or not out.is_contiguous():
            raise KernelError(
                f"out is {out.dtype} of shape {tuple(out.shape)}; expected contiguous int32 of shape "
                f"({rows}, {self.out_features})"
            )
        if self._handle is None:
            return out.copy_(self._reference(x))
        if not x.is_contiguous():
            x = x.contiguous()
        if kind == _PREPARED and dtype == torch.int64:
            checks.require_clean_padding("x", x, self.in_features)
        bad = self._run(self._handle, x.data_ptr(), kind, self._scale, rows, out.data_ptr(), dispatch.num_threads())
        if bad >= 0:
            checks.refuse_nan("x", x, bad)
        return out

    __call__ = run

    def _reference(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            bad = torch.isnan(x).flatten()
            if bool(bad.any()):
                checks.refuse_nan("x", x, int(bad.nonzero()[0]))
            x = reference.quantize_codes(x, self._scale) if self.first == "int8" else reference.pack_signs(x)
        for layer in self._layers:
            product = reference.int8_binary_matmul if x.dtype == torch.int8 else reference.binary_matmul
            z = product(x, layer.words, layer.k)
            if layer.threshold is None:
                return z
            x = reference.threshold_bits(z, layer.threshold, _greater(layer))
        raise AssertionError("the last layer has no threshold")

    def _check(self) -> None:
        if not self._layers:
            raise KernelError("layers is empty; a chain has at least one")
        if self.first not in ("int8", "binary"):
            raise KernelError(f"first is {self.first!r}; valid: 'int8' and 'binary'")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale >= 1.2e-38):
            raise KernelError(f"scale is {self.scale!r}; the step of the codes is a positive, normal float32 number")
        for i, layer in enumerate(self._layers):
            checks.require_k(layer.k, checks.MAX_INT8_K if i == 0 and self.first == "int8" else (1 << 31) - 1)
            checks.require_words(f"layers[{i}].words", layer.words, layer.k)
            n = layer.words.shape[0]
            if n == 0 or layer.k == 0:
                raise KernelError(f"layers[{i}] has {layer.k} inputs and {n} outputs; both must be at least 1")
            if i > 0 and layer.k != self._layers[i - 1].words.shape[0]:
                before = self._layers[i - 1].words.shape[0]
                raise KernelError(f"layers[{i}].k is {layer.k}, but layers[{i - 1}] has {before} outputs")
            last = i == len(self._layers) - 1
            if last != (layer.threshold is None):
                raise KernelError(
                    f"layers[{i}] of {len(self._layers)} {'has' if last else 'lacks'} thresholds; every layer but "
                    "the last has them, and the last returns its sums"
                )
            if layer.threshold is not None:
                checks.require_vector(f"layers[{i}].threshold", layer.threshold, torch.int32, n)
                checks.require_vector(f"layers[{i}].greater", _greater(layer), torch.bool, n)

    def _build(self, index: int) -> None:
        lib = library()
        handle = lib.pw_chain_create(index)
        if not handle:
            raise KernelError("no memory for the packed chain")
        self._handle, self._run = handle, lib.pw_chain_run
        weakref.finalize(self, lib.pw_chain_free, handle)
        for i, layer in enumerate(self._layers):
            words = layer.words.contiguous()
            checks.require_clean_padding(f"layers[{i}].words", words, layer.k)
            limit = invert = None
            if layer.threshold is not None:
                limit, invert = limits(layer.threshold, _greater(layer))
            lib.pw_chain_add(
                handle,
                int(i == 0 and self.first == "int8"),
                words.data_ptr(),
                words.shape[0],
                layer.k,
                None if limit is None else limit.data_ptr(),
                None if invert is None else invert.data_ptr(),
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._layers, self.first, self.scale)


def _greater(layer: ChainLayer) -> Tensor:
    if layer.greater is not None:
        return layer.greater
    return torch.ones(layer.words.shape[0], dtype=torch.bool)


def _rebuild(layers: tuple[ChainLayer, ...], first: First, scale: float | None) -> PackedChain:
    return PackedChain(layers, first=first, scale=scale)
