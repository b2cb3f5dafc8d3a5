"""Checks of operator arguments: every message names the argument, its value and the way out."""

from typing import NoReturn

import torch
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.kernels.library import library

MAX_INT8_K = (1 << 31) // 128 - 1  # beyond it a sum of int8 codes could leave int32


def words_for(k: int) -> int:
    """Words that hold k bits."""
    return -(-k // 64)


def require_k(k: int, limit: int = (1 << 31) - 1) -> None:
    """A count of bits that an int32 sum can hold."""
    if not isinstance(k, int) or not 0 <= k <= limit:
        raise KernelError(f"k is {k!r}; the number of bits of a row must be an integer from 0 to {limit}")


def require_words(name: str, words: Tensor, k: int) -> None:
    """An int64 matrix of packed rows with as many words as k bits need."""
    if words.dtype != torch.int64 or words.dim() != 2:
        raise KernelError(
            f"{name} is {words.dtype} of shape {tuple(words.shape)}; packed signs are int64 of shape (rows, words): "
            "make them with ops.pack_signs"
        )
    if words.shape[1] != words_for(k):
        raise KernelError(
            f"{name} has {words.shape[1]} words a row, but k = {k} bits need {words_for(k)}: pass the k it was "
            "packed with"
        )


def require_clean_padding(name: str, words: Tensor, k: int) -> None:
    """Zero bits beyond k, which both operands must share."""
    row = library().pw_find_padding(words.data_ptr(), words.shape[0], k)
    if row >= 0:
        raise KernelError(
            f"{name} row {row} has bits set beyond k = {k}; padding bits must be 0: pack with ops.pack_signs, or mask "
            "the last word"
        )


def require_vector(name: str, values: Tensor, dtype: torch.dtype, count: int) -> None:
    """One value for each output column."""
    if values.dtype != dtype or tuple(values.shape) != (count,):
        raise KernelError(
            f"{name} is {values.dtype} of shape {tuple(values.shape)}; expected {dtype} of shape ({count},), one value "
            "an output column"
        )


def refuse_nan(name: str, x: Tensor, flat_index: int) -> NoReturn:
    """Names the place of a NaN."""
    place = []
    for size in reversed(x.shape):
        flat_index, at = divmod(flat_index, size)
        place.append(at)
    where = ", ".join(str(at) for at in reversed(place))
    raise KernelError(f"{name}[{where}] is NaN, which has no sign and no code: find where it arises before packing")
