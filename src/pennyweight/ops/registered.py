"""The operators as torch.library sees them, so that torch.compile can trace them. People call binary.py's functions."""

import torch
from torch import Tensor

from pennyweight.kernels.library import CompiledPath, paths
from pennyweight.ops import binary, checks, convolution
from pennyweight.ops.prepack import prepack


def _path(index: int) -> CompiledPath | None:
    return None if index < 0 else paths()[index]


def _int32(left: Tensor, n: int | torch.SymInt) -> Tensor:
    return left.new_empty((left.shape[0], n), dtype=torch.int32)


@torch.library.custom_op("pennyweight::pack_signs", mutates_args=())
def pack_signs(x: Tensor) -> Tensor:
    return binary._pack_signs(x)


@pack_signs.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], checks.words_for(x.shape[-1])), dtype=torch.int64)


@torch.library.custom_op("pennyweight::binary_matmul", mutates_args=())
def binary_matmul(a_words: Tensor, b_words: Tensor, k: int) -> Tensor:
    return binary._multiply(a_words, b_words, k, _int32(a_words, b_words.shape[0]))


@binary_matmul.register_fake
def _(a_words: Tensor, b_words: Tensor, k: int) -> Tensor:
    return _int32(a_words, b_words.shape[0])


@torch.library.custom_op("pennyweight::binary_matmul_packed", mutates_args=())
def binary_matmul_packed(a_words: Tensor, panels: Tensor, n: int, k: int, path: int) -> Tensor:
    return binary._multiply_packed(a_words, panels, n, k, _path(path), _int32(a_words, n))


@binary_matmul_packed.register_fake
def _(a_words: Tensor, panels: Tensor, n: int, k: int, path: int) -> Tensor:
    return _int32(a_words, n)


@torch.library.custom_op("pennyweight::int8_binary_matmul", mutates_args=())
def int8_binary_matmul(x: Tensor, w_words: Tensor, k: int) -> Tensor:
    weight = prepack(w_words, k, "int8")
    return binary._multiply_int8(x, weight.panels, weight.n, k, weight.path, _int32(x, weight.n))


@int8_binary_matmul.register_fake
def _(x: Tensor, w_words: Tensor, k: int) -> Tensor:
    return _int32(x, w_words.shape[0])


@torch.library.custom_op("pennyweight::int8_binary_matmul_packed", mutates_args=())
def int8_binary_matmul_packed(x: Tensor, panels: Tensor, n: int, k: int, path: int) -> Tensor:
    return binary._multiply_int8(x, panels, n, k, _path(path), _int32(x, n))


@int8_binary_matmul_packed.register_fake
def _(x: Tensor, panels: Tensor, n: int, k: int, path: int) -> Tensor:
    return _int32(x, n)


@torch.library.custom_op("pennyweight::binary_linear_threshold", mutates_args=())
def binary_linear_threshold(x: Tensor, w_words: Tensor, k: int, threshold: Tensor, greater: Tensor) -> Tensor:
    weight = prepack(w_words, k)
    return binary._linear_threshold(x, weight.panels, weight.n, k, threshold, greater, weight.path)


@binary_linear_threshold.register_fake
def _(x: Tensor, w_words: Tensor, k: int, threshold: Tensor, greater: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], checks.words_for(w_words.shape[0])), dtype=torch.int64)


@torch.library.custom_op("pennyweight::binary_linear_threshold_packed", mutates_args=())
def binary_linear_threshold_packed(
    x: Tensor, panels: Tensor, n: int, k: int, threshold: Tensor, greater: Tensor, path: int
) -> Tensor:
    return binary._linear_threshold(x, panels, n, k, threshold, greater, _path(path))


@binary_linear_threshold_packed.register_fake
def _(x: Tensor, panels: Tensor, n: int, k: int, threshold: Tensor, greater: Tensor, path: int) -> Tensor:
    return x.new_empty((x.shape[0], checks.words_for(n)), dtype=torch.int64)


@torch.library.custom_op("pennyweight::binary_conv2d", mutates_args=())
def binary_conv2d(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int, pad_value: int
) -> Tensor:
    pairs = ((stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]))
    return convolution._convolve(x, weight, *pairs, groups, pad_value)


@binary_conv2d.register_fake
def _(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int, pad_value: int
) -> Tensor:
    sizes = [
        (x.shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (weight.shape[2 + axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *sizes), dtype=torch.int32)
