"""Formats as values: their ranges, their strings, and what is refused."""

import math
from typing import Any

import ml_dtypes
import pytest

from oracles.number_formats import FloatTable
from pennyweight.errors import FormatError
from pennyweight.numerics.formats import (
    BinaryFormat,
    BlockFormat,
    FloatFormat,
    Format,
    IntFormat,
    LogFormat,
    TernaryFormat,
    parse_format,
)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("int8", -128, 127),
        ("uint8", 0, 255),
        ("int4n", -7, 7),
        ("int2", -2, 1),
        ("uint1", 0, 1),
        ("int32", -(2**31), 2**31 - 1),
    ],
)
def test_integer_ranges(text: str, low: int, high: int) -> None:
    format = parse_format(text)
    assert isinstance(format, IntFormat)
    assert (format.min, format.max, format.num_levels) == (low, high, high - low + 1)
    assert str(format) == text


@pytest.mark.parametrize(
    ("text", "format", "bits"),
    [
        ("int8", IntFormat(8), 8),
        ("uint4", IntFormat(4, signed=False), 4),
        ("int8n", IntFormat(8, narrow=True), 8),
        ("e4m3", FloatFormat(4, 3, specials="fn"), 8),
        ("e5m2", FloatFormat(5, 2, specials="ieee"), 8),
        ("e2m1", FloatFormat(2, 1), 4),
        ("m7e4", FloatFormat(4, 7, subnormals=False), 12),
        ("m7e4b10", FloatFormat(4, 7, bias=10, subnormals=False), 12),
        ("m7e4b-3", FloatFormat(4, 7, bias=-3, subnormals=False), 12),
        ("e4m3:ieee:nosub:nosat", FloatFormat(4, 3, subnormals=False, specials="ieee", saturate=False), 8),
        ("log4", LogFormat(4), 4),
        ("log4x-3", LogFormat(4, -3), 4),
        ("binary", BinaryFormat(), 1),
        ("ternary", TernaryFormat(), 2),
        ("mxfp8e4m3", BlockFormat("mxfp8e4m3"), 8),
        ("mxfp6e2m3", BlockFormat("mxfp6e2m3"), 6),
        ("nvfp4", BlockFormat("nvfp4"), 4),
    ],
)
def test_strings_parse_and_print(text: str, format: Format, bits: int) -> None:
    assert parse_format(text) == format
    assert str(format) == text
    assert format.bits == bits
    assert parse_format(format) is format
    assert {format: 1}[parse_format(text)] == 1


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("e4m3", ml_dtypes.float8_e4m3fn),
        ("e5m2", ml_dtypes.float8_e5m2),
        ("e2m1", ml_dtypes.float4_e2m1fn),
        ("e2m3", ml_dtypes.float6_e2m3fn),
        ("e3m2", ml_dtypes.float6_e3m2fn),
        ("e8m7", ml_dtypes.bfloat16),
        ("e5m10", "float16"),
        ("e8m23", "float32"),
    ],
)
def test_extremes_of_known_formats(text: str, dtype: Any) -> None:
    format = parse_format(text)
    assert isinstance(format, FloatFormat)
    info = ml_dtypes.finfo(dtype)
    assert (format.max, format.smallest) == (float(info.max), float(info.smallest_subnormal))
    assert 2.0**format.emin == float(info.smallest_normal)


@pytest.mark.parametrize(
    "text", ["m7e4", "m3e2b5", "e3m0", "e1m2", "e4m3:fn:sub:nosat", "e3m2:ieee:nosub:sat", "e2m1:fn:sub:sat"]
)
def test_extremes_are_those_of_the_table(text: str) -> None:
    format = parse_format(text)
    assert isinstance(format, FloatFormat)
    table = FloatTable(
        format.exponent_bits, format.mantissa_bits, format.exponent_bias, format.subnormals, format.specials
    ).table()
    assert (format.smallest, format.max) == (float(table[1][0]), float(table[-1][0]))
    assert format.emax == math.floor(math.log2(format.max))


@pytest.mark.parametrize(
    "text", ["", "int", "int4.5", "8", "float8", "e4", "m7", "INT8", "uint8n", "log", "binary ", "e4m3:fn"]
)
def test_unknown_strings_are_named_with_examples(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_format(text)
    assert text in str(caught.value) or text == "uint8n"
    assert "'int8'" in str(caught.value) or "narrow" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int1", "2 to 32 bits; one bit of .* is 'binary'"),
        ("uint0", "1 to 32 bits"),
        ("int33", "2 to 32 bits"),
        ("uint4n", "narrow"),
        ("e0m3", "1 to 8 bits"),
        ("e9m3", "1 to 8 bits"),
        ("e4m24", "mantissas 0 to 23"),
        ("e4m0:fn:sub:sat", "mantissa bit"),
        ("e1m2:ieee:sub:sat", "two exponent bits"),
        ("e4m3:none:sub:nosat", "saturate=True"),
        ("m7e4b2000", "bias=2000"),
        ("e4m3b-2000", "bias=-2000"),
        ("log1", "2 to 8 bits"),
        ("log9", "2 to 8 bits"),
        ("log4x5000", "range of float64"),
        ("mxfp8", "'mxfp8e4m3', 'mxfp8e5m2'"),
    ],
)
def test_impossible_parameters_are_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_format(text)
