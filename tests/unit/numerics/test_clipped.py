"""LinearQuant and LogQuant against their definition in fractions; gradients on their own scale."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from oracles.number_formats import nearest_power, powers_with_zero
from pennyweight.errors import FormatError, NumericsError
from pennyweight.numerics.clipped import linear_codes, linear_quant, log_quant, scaled_codes, unit_range, unit_step
from pennyweight.numerics.formats import BinaryFormat, IntFormat, LogFormat, parse_format
from pennyweight.numerics.random import Key

LINEAR = [
    *(IntFormat(k, narrow=narrow) for k in range(2, 9) for narrow in (False, True)),
    *(IntFormat(k, signed=False) for k in range(1, 9)),
]
LOG = [LogFormat(k) for k in range(2, 9)]


def levels(format: IntFormat) -> list[Fraction]:
    """The levels as the module's docstring spells them."""
    k = format.width
    if not format.signed:
        return [Fraction(i, 2**k - 1) for i in range(2**k)]
    if format.narrow:
        return [Fraction(i, 2 ** (k - 1) - 1) for i in range(-(2 ** (k - 1)) + 1, 2 ** (k - 1))]
    return [Fraction(i, 2 ** (k - 1)) for i in range(-(2 ** (k - 1)), 2 ** (k - 1))]


def values(seed: int = 0) -> Tensor:
    return torch.cat([torch.linspace(-1.5, 1.5, 301), torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-30, 100.0, -100.0])])


@pytest.mark.parametrize("format", LINEAR, ids=str)
def test_linear_levels_are_no_more_than_the_bits_hold_and_the_nearest_is_taken(format: IntFormat) -> None:
    expected = levels(format)
    assert len(expected) <= 2**format.width
    found = linear_quant(values(), format)
    nearest = {float(x): min(abs(Fraction(float(x)) - level) for level in expected) for x in values()}
    for x, y in zip(values().tolist(), found.tolist(), strict=True):
        level = min(expected, key=lambda level, y=y: abs(level - Fraction(y)))
        assert abs(Fraction(y) - level) < Fraction(1, 2**20)  # a level, up to the rounding of 1/3 and its like
        assert abs(Fraction(x) - level) <= nearest[x] + Fraction(1, 2**20)
    ends = [min(expected), max(expected)]
    assert [float(found.min()), float(found.max())] == pytest.approx([float(end) for end in ends])


@pytest.mark.parametrize("format", LINEAR, ids=str)
def test_linear_is_idempotent_monotone_near_and_keeps_zero(format: IntFormat) -> None:
    x = values().sort().values
    y = linear_quant(x, format)
    assert torch.equal(linear_quant(y, format), y)
    assert bool((y.diff() >= 0).all())
    low, high = unit_range(format)
    top = high if format.narrow or not format.signed else high - unit_step(format)
    inside = (x >= low) & (x <= top)
    assert bool(((y - x)[inside].abs() <= unit_step(format) / 2 + 1e-7).all())
    assert linear_quant(torch.tensor([0.0, -0.0]), format).abs().tolist() == [0, 0]


@pytest.mark.parametrize("format", LOG, ids=str)
def test_log_levels_are_powers_of_two_and_the_nearest_exponent_is_taken(format: LogFormat) -> None:
    magnitudes = powers_with_zero(format.width, 0)
    assert 2 * len(magnitudes) - 1 <= 2**format.width
    for x, y in zip(values().tolist(), log_quant(values(), format).tolist(), strict=True):
        exact = Fraction(x)
        if abs(exact) < magnitudes[1] / 2:
            assert y == 0
        else:
            clipped = max(min(abs(nearest_power(exact)), magnitudes[-1]), magnitudes[1])
            assert Fraction(y) == math.copysign(1, x) * clipped


@pytest.mark.parametrize("format", [*LINEAR, *LOG], ids=str)
def test_the_gradient_passes_inside_the_range_ends_included(format: IntFormat | LogFormat) -> None:
    low, high = unit_range(format)
    after = [math.nextafter(low, -9), math.nextafter(high, 9)]
    x = torch.tensor([low, high, 0.0, *after, 5.0], dtype=torch.float64, requires_grad=True)
    quantized = linear_quant(x, format) if isinstance(format, IntFormat) else log_quant(x, format)
    (quantized * torch.arange(1.0, 7.0)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 2, 3, 0, 0, 0], dtype=torch.float64))


def test_the_gradient_of_codes_is_that_of_steps() -> None:
    x = torch.tensor([0.2, 2.0], requires_grad=True)
    linear_codes(x, IntFormat(3, narrow=True)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3, 0]


@pytest.mark.parametrize("spec", ["int4", "uint2", "log4"])
def test_nan_and_infinity_are_refused(spec: str) -> None:
    format = parse_format(spec)
    quant: Any = linear_quant if isinstance(format, IntFormat) else log_quant
    for bad in (math.nan, math.inf):
        with pytest.raises(NumericsError, match=r"index \(1,\)"):
            quant(torch.tensor([0.0, bad]), format)


@given(
    st.lists(st.floats(-(2.0**120), 2.0**120, width=32), max_size=20),
    st.sampled_from(["int6n", "int2", "log4", "binary"]),
)
def test_gradients_stay_within_their_largest_and_zero_stays_zero(items: list[float], spec: str) -> None:
    g = torch.tensor(items)
    codes, scale = scaled_codes(g, parse_format(spec), key=Key(0))
    assert scale is not None
    largest = float(g.abs().max()) if items else 0.0
    assert bool(((codes * scale).abs() <= largest * (1 + 1e-6) + 1e-37).all())
    if largest == 0:
        assert not codes.any()
    if spec != "binary":
        assert not codes[g == 0].any()


@pytest.mark.parametrize("spec", ["int6n", "int6", "int3n", "log4", "binary"])
def test_gradients_are_rounded_without_bias(spec: str) -> None:
    g = torch.tensor([0.9, -0.31, 0.013, 1e-4, -1.0]) * 3e-5
    codes, scale = scaled_codes(g.expand(20000, -1).contiguous(), parse_format(spec), key=Key(1))
    assert scale is not None
    spacing = {"int6n": 1 / 31, "int6": 1 / 31, "int3n": 1 / 3, "log4": 0.5, "binary": 2.0}[spec] * 3e-5
    assert bool((((codes * scale).mean(0) - g).abs() <= 5 * spacing / 2 / 20000**0.5).all())


def test_gradients_of_six_bits_by_hand() -> None:
    g = torch.tensor([62.0, -62.0, 1.0, -3.0, 0.0])
    codes, scale = scaled_codes(g, IntFormat(6, narrow=True), "nearest_even")
    assert (codes.tolist(), float(scale if scale is not None else 0)) == ([31, -31, 0, -2, 0], 2.0)


@pytest.mark.parametrize("spec", ["int6n", "log4", "binary"])
def test_infinite_gradients_pass_untouched(spec: str) -> None:
    for bad in (math.nan, math.inf):
        g = torch.tensor([1.0, bad])
        codes, scale = scaled_codes(g, parse_format(spec), key=Key(0))
        assert codes is g
        assert scale is None


@pytest.mark.parametrize("spec", ["uint6", "e4m3", "ternary", "log4x3"])
def test_gradients_of_other_formats_are_refused(spec: str) -> None:
    with pytest.raises(FormatError, match=f"{spec}: a gradient on its own scale"):
        scaled_codes(torch.ones(2), parse_format(spec), "nearest_even")


def test_stochastic_gradients_need_a_key() -> None:
    for format in (IntFormat(6), LogFormat(4), BinaryFormat()):
        with pytest.raises(NumericsError, match="key"):
            scaled_codes(torch.ones(2), format)
