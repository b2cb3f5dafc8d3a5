"""Hypothesis strategies of the whole package: append new ones at the end."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pennyweight.masks.nm import NM
from pennyweight.numerics.affine import Granularity, PerChannel, PerGroup, PerTensor
from pennyweight.numerics.formats import BinaryFormat, FloatFormat, Format, IntFormat, LogFormat, TernaryFormat

FLOAT32_MAX = torch.finfo(torch.float32).max


def shapes(min_dims: int = 0, max_dims: int = 3, max_side: int = 6) -> st.SearchStrategy[tuple[int, ...]]:
    """Small shapes, empty ones included."""
    return st.lists(st.integers(0, max_side), min_size=min_dims, max_size=max_dims).map(tuple)


def floats32(bound: float = FLOAT32_MAX) -> st.SearchStrategy[float]:
    """Finite float32 values, with the awkward ones: zeros of both signs, subnormals, the ends."""
    return st.floats(-bound, bound, width=32, allow_subnormal=True)


@st.composite
def tensors(draw: st.DrawFn, min_dims: int = 0, bound: float = FLOAT32_MAX) -> Tensor:
    """Finite float32 tensors: arbitrary, constant, or empty."""
    shape = draw(shapes(min_dims=min_dims))
    count = int(torch.Size(shape).numel())
    if draw(st.booleans()):
        return torch.full(shape, draw(floats32(bound)))
    values = draw(st.lists(floats32(bound), min_size=count, max_size=count))
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def int_formats(max_bits: int = 8, **fixed: Any) -> st.SearchStrategy[IntFormat]:
    """Integer formats; `signed` and `narrow` may be fixed."""
    signed = st.builds(IntFormat, st.integers(2, max_bits), narrow=st.booleans())
    unsigned = st.builds(IntFormat, st.integers(1, max_bits), signed=st.just(False))
    if "signed" in fixed:
        return signed if fixed["signed"] else unsigned
    return signed | unsigned


@st.composite
def float_formats(draw: st.DrawFn) -> FloatFormat:
    """Float formats that fit float32, of every kind."""
    exponent_bits, mantissa_bits = draw(st.integers(1, 5)), draw(st.integers(0, 8))
    kinds = ["none"] + ["fn"] * (mantissa_bits > 0) + ["ieee"] * (mantissa_bits > 0 and exponent_bits > 1)
    specials = draw(st.sampled_from(kinds))
    return FloatFormat(
        exponent_bits,
        mantissa_bits,
        bias=draw(st.none() | st.integers(-20, 40)),
        subnormals=draw(st.booleans()),
        specials=specials,  # type: ignore[arg-type]
        saturate=specials == "none" or draw(st.booleans()),
    )


def formats() -> st.SearchStrategy[Format]:
    """Formats of every class."""
    logarithmic = st.builds(LogFormat, st.integers(2, 6), max_exponent=st.integers(-10, 10))
    return int_formats() | float_formats() | logarithmic | st.sampled_from([BinaryFormat(), TernaryFormat()])


def granularities() -> st.SearchStrategy[Granularity]:
    """One scale a tensor, a channel, or a group."""
    return st.just(PerTensor()) | st.just(PerChannel()) | st.builds(PerGroup, st.integers(1, 8))


def seeds() -> st.SearchStrategy[int]:
    """Seeds of keys. Tests make the key: beartype samples containers, which strategies must not do."""
    return st.integers(-(2**63), 2**63)


def key_paths() -> st.SearchStrategy[list[int | str]]:
    """What is folded into a key."""
    return st.lists(st.integers(-(2**40), 2**40) | st.text(max_size=5), max_size=3)


@st.composite
def packed_codes(draw: st.DrawFn) -> tuple[list[int], int]:
    """Codes and the bits each takes."""
    bits = draw(st.integers(1, 8))
    return draw(st.lists(st.integers(0, 2**bits - 1), max_size=70)), bits


@st.composite
def matrices(draw: st.DrawFn, bound: float = FLOAT32_MAX) -> Tensor:
    """Finite float32 matrices, small, ragged or empty, with many ties and zeros among them."""
    rows, columns = draw(st.integers(0, 5)), draw(st.integers(0, 9))
    value = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0]) | floats32(bound)
    values = draw(st.lists(value, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=torch.float32).reshape(rows, columns)


@st.composite
def nm_patterns(draw: st.DrawFn) -> NM:
    """Patterns n:m, powers of two or not."""
    m = draw(st.integers(2, 9))
    return NM(draw(st.integers(1, m - 1)), m)
