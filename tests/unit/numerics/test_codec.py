"""Rounding, encoding and decoding against tables of fractions, gfloat and ml_dtypes."""

import math
from fractions import Fraction
from typing import Any

import gfloat
import gfloat.formats as known
import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from oracles.number_formats import FloatTable, nearest_power, powers_with_zero
from pennyweight.errors import NumericsError
from pennyweight.numerics.codec import decode, encode, round_to_format
from pennyweight.numerics.formats import BinaryFormat, FloatFormat, IntFormat, LogFormat, TernaryFormat, parse_format
from pennyweight.numerics.random import Key, normal, random_bits, uniform

INFOS = {
    "e4m3": known.format_info_ocp_e4m3,
    "e5m2": known.format_info_ocp_e5m2,
    "e2m1": known.format_info_ocp_e2m1,
    "e2m3": known.format_info_ocp_e2m3,
    "e3m2": known.format_info_ocp_e3m2,
}
DTYPES = {
    "e4m3:fn:sub:nosat": ml_dtypes.float8_e4m3fn,
    "e5m2:ieee:sub:nosat": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3:ieee:sub:nosat": ml_dtypes.float8_e4m3,
    "e3m4:ieee:sub:nosat": ml_dtypes.float8_e3m4,
    "e8m7:ieee:sub:nosat": ml_dtypes.bfloat16,
    "e5m10:ieee:sub:nosat": np.float16,
}


def float_format(text: str) -> FloatFormat:
    format = parse_format(text)
    assert isinstance(format, FloatFormat)
    return format


def awkward_values(format: FloatFormat) -> Tensor:
    """Every value, every middle between neighbours, the numbers just beside them, and some beyond the end."""
    table = FloatTable(
        format.exponent_bits, format.mantissa_bits, format.exponent_bias, format.subnormals, format.specials
    ).table()
    values = torch.tensor([float(value) for value, _ in table], dtype=torch.float64)
    points = torch.cat([values, (values[1:] + values[:-1]) / 2, format.max * torch.tensor([1.01, 1.07, 1.2, 2.0, 1e3])])
    beside = [torch.nextafter(points, torch.tensor(end, dtype=torch.float64)) for end in (0.0, math.inf)]
    points = torch.cat([points, *beside])
    return torch.cat([points, -points])


@pytest.mark.parametrize(("text", "saturate"), [*((text, True) for text in INFOS), ("e4m3", False), ("e5m2", False)])
@pytest.mark.parametrize("rounding", ["nearest_even", "toward_zero"])
def test_rounding_equals_gfloat(text: str, rounding: Any, saturate: bool) -> None:
    named = float_format(text)
    format = FloatFormat(named.exponent_bits, named.mantissa_bits, specials=named.specials, saturate=saturate)
    mode = gfloat.RoundMode.TiesToEven if rounding == "nearest_even" else gfloat.RoundMode.TowardZero
    x = awkward_values(format)
    expected = [gfloat.round_float(INFOS[text], v, mode, sat=saturate) for v in x.tolist()]
    np.testing.assert_array_equal(round_to_format(x, format, rounding).numpy(), np.array(expected))


@pytest.mark.parametrize("exponent_bits", [3, 5])
def test_without_mantissa_bits_ties_go_to_the_even_exponent_as_in_gfloat(exponent_bits: int) -> None:
    format = FloatFormat(exponent_bits, 0)
    info = gfloat.FormatInfo(
        "x",
        1 + exponent_bits,
        1,
        bias=format.exponent_bias,
        is_signed=True,
        domain=gfloat.Domain.Finite,
        has_nz=True,
        num_high_nans=0,
        has_subnormals=True,
        is_twos_complement=False,
    )
    x = awkward_values(format)
    assert round_to_format(x, format).tolist() == [gfloat.round_float(info, v, sat=True) for v in x.tolist()]


@pytest.mark.parametrize("text", DTYPES)
def test_codes_equal_ml_dtypes_bit_for_bit(text: str) -> None:
    format, dtype = float_format(text), DTYPES[text]
    spread = normal((4000,), Key(0)) * torch.exp2(uniform((4000,), Key(1)) * 40 - 20)
    table_points = awkward_values(format) if format.bits <= 12 else torch.tensor([0.0, -0.0, format.max])
    x = torch.cat([spread, table_points.float()])
    x = x[(x.abs() <= format.max) & torch.isfinite(x)]
    theirs = x.numpy().astype(dtype)
    raw = theirs.view(np.uint8 if theirs.dtype.itemsize == 1 else np.uint16).astype(np.int64)
    assert encode(x, format).tolist() == raw.tolist()
    np.testing.assert_array_equal(round_to_format(x, format).numpy(), theirs.astype(np.float32))


@pytest.mark.parametrize("text", [*DTYPES, "m7e4", "m3e2b5", "m3e2b-5", "e3m0", "e1m3", "e4m3:fn:nosub:sat"])
def test_every_code_decodes_to_the_table(text: str) -> None:
    format = float_format(text)
    half = 2 ** (format.bits - 1)
    table = FloatTable(
        format.exponent_bits, format.mantissa_bits, format.exponent_bias, format.subnormals, format.specials
    )
    values = np.array([float(table.value(code)) for code in range(half)])
    decoded = decode(torch.arange(2 * half), format)
    assert decoded.dtype == torch.float32
    np.testing.assert_array_equal(decoded.numpy(), np.concatenate([values, -values]))
    finite = decoded[torch.isfinite(decoded)]
    assert torch.equal(decode(encode(finite, format), format), finite)


def test_overflow_without_saturation() -> None:
    x = torch.tensor([1e9, -1e9])
    assert round_to_format(x, float_format("e5m2:ieee:sub:nosat")).tolist() == [math.inf, -math.inf]
    assert encode(x, float_format("e5m2:ieee:sub:nosat")).tolist() == [0x7C, 0xFC]
    assert torch.isnan(round_to_format(x, float_format("e4m3:fn:sub:nosat"))).all()
    assert (encode(x, float_format("e4m3:fn:sub:nosat")) & 0x7F).tolist() == [0x7F, 0x7F]
    assert round_to_format(x, float_format("e4m3")).tolist() == [448, -448]
    assert round_to_format(x, float_format("e4m3:fn:sub:nosat"), "toward_zero").tolist() == [448, -448]


def test_float32_passes_through_its_own_format() -> None:
    x = random_bits((5000,), Key(0)).to(torch.int32).view(torch.float32)
    x = torch.cat([x[torch.isfinite(x)], torch.tensor([0.0, -0.0, 1e-45, 3.4e38])])
    assert torch.equal(round_to_format(x, float_format("e8m23")), x)
    assert torch.equal(encode(x, float_format("e8m23")).to(torch.int32), x.view(torch.int32))


def test_formats_beyond_float32_decode_as_float64() -> None:
    format = FloatFormat(4, 3, bias=300)
    x = torch.tensor([2.0**-299, -(2.0**-290)], dtype=torch.float64)
    assert torch.equal(round_to_format(x, format), x)
    decoded = decode(encode(x, format), format)
    assert decoded.dtype == torch.float64
    assert torch.equal(decoded, x)
    assert decode(torch.tensor([2**32 - 1]), IntFormat(32)).item() == 2**31 - 1


@pytest.mark.parametrize("text", ["e4m3", "m3e2", "e2m1", "int4", "ternary"])
def test_stochastic_rounding_is_unbiased_between_neighbours(text: str) -> None:
    n = 50_000
    for value in (0.3, -0.7, 0.01):
        x = torch.full((n,), value)
        y = round_to_format(x, parse_format(text), "stochastic", Key(1).fold(text, str(value))).double()
        assert len(set(y.tolist())) <= 2
        assert abs(float(y.mean()) - float(x[0])) <= 5 * float(y.std()) / math.sqrt(n) + 1e-9


@pytest.mark.parametrize("format", [IntFormat(4), IntFormat(3, narrow=True), IntFormat(5, signed=False), IntFormat(32)])
def test_integers(format: IntFormat) -> None:
    x = torch.tensor([-1e30, -3.5, -2.5, -0.5, 0.5, 1.5, 2.49, 1e30], dtype=torch.float64)
    expected = [min(format.max, max(format.min, round(Fraction(v)))) for v in x.tolist()]
    assert round_to_format(x, format).tolist() == expected
    assert encode(x.float(), format).tolist() == [v - format.min for v in expected]
    assert decode(encode(x, format), format).tolist() == expected


@pytest.mark.parametrize(("format", "dtype"), [(IntFormat(32), torch.float32), (IntFormat(10), torch.bfloat16)])
def test_a_dtype_that_cannot_count_so_far_is_refused(format: IntFormat, dtype: torch.dtype) -> None:
    with pytest.raises(NumericsError, match="wider dtype"):
        round_to_format(torch.ones(2, dtype=dtype), format)
    assert round_to_format(torch.full((2,), 999.0, dtype=torch.bfloat16), IntFormat(8, signed=False)).tolist() == [
        255,
        255,
    ]


@pytest.mark.parametrize("format", [LogFormat(4), LogFormat(2), LogFormat(8, 5), LogFormat(3, -7)])
def test_logarithmic(format: LogFormat) -> None:
    values = powers_with_zero(format.width, format.max_exponent)
    half = len(values)
    signed = [float(v) for v in values] + [-float(v) for v in values]
    decoded = decode(torch.arange(2 * half), format)
    assert decoded.tolist() == signed
    grid = decoded[decoded != 0]
    assert torch.equal(decode(encode(grid, format), format), grid)
    assert encode(torch.zeros(1), format).item() == 0
    x = normal((500,), Key(2)) * 2.0**format.max_exponent
    expected = []
    for v in map(Fraction, x.tolist()):
        power = min(max(abs(nearest_power(v)), values[1]), values[-1])
        expected.append(0.0 if abs(v) < values[1] / 2 else math.copysign(float(power), v))
    assert round_to_format(x, format).tolist() == expected


def test_binary_and_ternary() -> None:
    x = torch.tensor([-2.0, -0.6, -0.5, -0.0, 0.0, 0.5, 0.6, 2.0])
    assert round_to_format(x, BinaryFormat()).tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    assert encode(x, BinaryFormat()).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert decode(torch.tensor([0, 1]), BinaryFormat()).tolist() == [-1, 1]
    assert round_to_format(x, TernaryFormat()).tolist() == [-1, -1, 0, 0, 0, 0, 1, 1]
    assert encode(x, TernaryFormat()).tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert decode(torch.tensor([0, 1, 2]), TernaryFormat()).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("text", ["int4", "e4m3", "log4", "binary", "ternary"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_codes_of_any_integer_dtype(text: str, dtype: torch.dtype) -> None:
    format = parse_format(text)
    codes = torch.arange(min(2**format.bits, 128) - (text == "ternary"))
    np.testing.assert_array_equal(decode(codes.to(dtype), format), decode(codes, format))


@pytest.mark.parametrize(("text", "last"), [("int4", 15), ("int4n", 14), ("ternary", 2), ("e2m1", 15), ("binary", 1)])
def test_codes_outside_a_format_are_refused(text: str, last: int) -> None:
    for bad in (-1, last + 1):
        with pytest.raises(NumericsError, match=f"{text} has 0 to {last}"):
            decode(torch.tensor([0, bad]), parse_format(text))


@pytest.mark.parametrize("text", ["int4", "e4m3", "log4", "binary", "ternary"])
def test_awkward_tensors_and_bad_values(text: str) -> None:
    format = parse_format(text)
    for shape in ((0,), (0, 3), (), (1,)):
        x = torch.ones(shape)
        assert torch.equal(round_to_format(x, format), x)
        assert torch.equal(decode(encode(x, format), format), x)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = torch.tensor([[0.3, -0.8], [1.0, 0.0]], dtype=dtype).t()
        y = round_to_format(x, format)
        assert y.dtype == dtype
        assert torch.equal(y.float(), round_to_format(x.float(), format))
    with pytest.raises(NumericsError, match=r"index \(1,\)"):
        round_to_format(torch.tensor([1.0, math.nan]), format)
    with pytest.raises(NumericsError, match="inf"):
        encode(torch.tensor([math.inf]), format)


@pytest.mark.parametrize(("text", "rounding"), [("log4", "toward_zero"), ("binary", "stochastic")])
def test_formats_with_a_rounding_of_their_own(text: str, rounding: Any) -> None:
    with pytest.raises(NumericsError, match="its own rounding"):
        round_to_format(torch.ones(2), parse_format(text), rounding, Key(0))


def test_logarithmic_formats_round_stochastically_to_a_neighbour_without_bias() -> None:
    format = parse_format("log4")
    values = torch.tensor([0.0, 2.0**-8, 0.03, 0.3, -0.7, 1.0, 5.0])
    drawn = round_to_format(values.expand(20000, -1).contiguous(), format, "stochastic", Key(3))
    assert drawn.unique().tolist() == [-1, -0.5, 0, 2.0**-6, 2.0**-5, 0.25, 0.5, 1]
    expected = values.clamp(-1, 1)
    # the widest spacing is the value itself at most: 5 sigma of a coin of that width
    assert bool(((drawn.mean(0) - expected).abs() <= 5 * 0.5 * 0.5 / 20000**0.5).all())
    with pytest.raises(NumericsError, match="key"):
        round_to_format(values, format, "stochastic")
