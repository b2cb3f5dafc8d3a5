"""Integer products and rescaling against Python's unbounded integers and fractions."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.errors import NumericsError
from pennyweight.numerics.blocked import block_length, blocked_matmul
from pennyweight.numerics.gemmlowp import (
    affine_matmul,
    fixed_point_multiplier,
    requantize,
    rounding_right_shift,
    saturating_doubling_high_mul,
)

INT32 = st.integers(-(2**31), 2**31 - 1)


def python_matmul(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in b] for row in a]


def half_away(x: Fraction) -> int:
    """Nearest integer, halves away from zero."""
    return math.floor(x + Fraction(1, 2)) if x >= 0 else -math.floor(-x + Fraction(1, 2))


@pytest.mark.parametrize(("left", "right", "length"), [(127, 127, 1040), (255, 127, 518), (255, 255, 258)])
def test_block_lengths_are_the_longest(left: int, right: int, length: int) -> None:
    assert block_length(left, right) == length
    assert length * left * right <= 2**24 < (length + 1) * left * right


@pytest.mark.parametrize(("left", "right"), [(127, 127), (255, 127), (255, 255), (128, 128)])
@pytest.mark.parametrize("extra", [-1, 0, 1, 3000])
def test_worst_case_sums_are_exact(left: int, right: int, extra: int) -> None:
    """Every product as large as it gets, plus one odd product in the last place: the first bit that would be lost."""
    k = block_length(left, right) + extra
    a, b = torch.full((2, k), left), torch.full((3, k), right)
    a[1] *= -1
    a[0, -1], b[0, -1] = 1, 1
    assert blocked_matmul(a, b, left, right).tolist() == python_matmul(a.tolist(), b.tolist())


def test_one_more_than_the_bound_is_not_exact_in_float32() -> None:
    """The bound is needed: one block of twice the length loses the odd product."""
    k = 2 * block_length(255, 255) + 1  # the true sum is odd, and above 2^24 float32 holds no odd number
    a = torch.full((1, k), 255.0)
    a[0, -1] = 1.0
    b = torch.full((1, k), 255.0)
    b[0, -1] = 1.0
    assert int(a @ b.t()) != (k - 1) * 255 * 255 + 1


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_affine_products_are_the_plain_ones(data: st.DataObject) -> None:
    m, n, k = (data.draw(st.integers(1, limit)) for limit in (4, 4, 30))
    zero1, zero2 = data.draw(st.integers(-128, 255)), data.draw(st.integers(-128, 127))
    q1 = data.draw(st.lists(st.lists(st.integers(0, 255), min_size=k, max_size=k), min_size=m, max_size=m))
    q2 = data.draw(st.lists(st.lists(st.integers(-128, 127), min_size=k, max_size=k), min_size=n, max_size=n))
    expected = python_matmul([[q - zero1 for q in row] for row in q1], [[q - zero2 for q in row] for row in q2])
    found = affine_matmul(torch.tensor(q1), zero1, torch.tensor(q2), zero2)
    assert found.tolist() == expected
    assert found.dtype == torch.int32


def test_weights_by_channel_have_a_zero_point_a_row() -> None:
    q1, q2 = torch.tensor([[0, 255, 7], [128, 3, 9]]), torch.tensor([[-128, 127, 5], [1, 2, 3], [0, 0, -9]])
    zeros = torch.tensor([-3, 100, 0], dtype=torch.int8)
    rows = [[q - int(zero) for q in row] for row, zero in zip(q2.tolist(), zeros, strict=True)]
    expected = python_matmul([[q - 128 for q in row] for row in q1.tolist()], rows)
    assert affine_matmul(q1, 128, q2, zeros).tolist() == expected
    with pytest.raises(NumericsError, match=r"zero points of shape \(2,\) for 3 rows"):
        affine_matmul(q1, 128, q2, zeros[:2])


def test_int8_minimum_is_its_own_bound() -> None:
    a = torch.full((1, 2000), -128, dtype=torch.int8)
    assert blocked_matmul(a, a).tolist() == [[2000 * 16384]]
    assert blocked_matmul(torch.zeros(2, 0), torch.zeros(3, 0)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_what_would_be_wrong_is_refused() -> None:
    with pytest.raises(NumericsError, match="K must agree"):
        blocked_matmul(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(NumericsError, match="holds 200, beyond its bound 127"):
        blocked_matmul(torch.tensor([[200]]), torch.tensor([[1]]), 127, 127)
    with pytest.raises(NumericsError, match="can leave int32"):
        blocked_matmul(torch.full((1, 40_000), 255), torch.full((1, 40_000), 255))
    with pytest.raises(NumericsError, match="cannot hold even one"):
        block_length(5000, 5000)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(NumericsError, match="positive finite"):
            fixed_point_multiplier(bad)


@given(st.floats(1e-30, 1e30))
@settings(deadline=None)
def test_multipliers_are_within_half_a_unit(real: float) -> None:
    integer, shift = fixed_point_multiplier(real)
    assert 2**30 <= integer < 2**31
    value = Fraction(integer, 2**31) * Fraction(2) ** -shift
    assert abs(value - Fraction(real)) <= Fraction(real) / 2**31


@given(INT32, INT32)
@settings(deadline=None)
def test_the_high_product_is_rounded_half_up(a: int, b: int) -> None:
    """gemmlowp divides by 2^31, towards zero, after a nudge of 2^30 or 1 - 2^30: halves go up, for either sign."""
    assert high_mul(a, b) == (2**31 - 1 if a == b == -(2**31) else half_up(Fraction(a * b, 2**31)))


@pytest.mark.parametrize("odd", [1, 3, -1, -3, -5])
def test_halves_of_the_high_product_go_up(odd: int) -> None:
    """Values that random draws hardly meet: the multiplier 1/2 and odd sums."""
    assert high_mul(odd, 2**30) == (odd + 1) // 2


def high_mul(a: int, b: int) -> int:
    return int(saturating_doubling_high_mul(torch.tensor(a, dtype=torch.int32), b))


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


@given(INT32, st.integers(0, 31))
@settings(deadline=None)
def test_the_shift_rounds_half_away(x: int, shift: int) -> None:
    found = int(rounding_right_shift(torch.tensor(x, dtype=torch.int32), shift))
    assert found == half_away(Fraction(x, 2**shift))


@given(st.integers(-(2**24), 2**24), st.floats(1e-6, 4.0), st.integers(-10, 10))
@settings(deadline=None)
def test_requantized_codes_are_within_one_of_the_real_quotient(total: int, real: float, zero: int) -> None:
    """Two roundings of half a unit each."""
    found = int(
        requantize(torch.tensor([total], dtype=torch.int32), fixed_point_multiplier(real), zero, -(2**30), 2**30)
    )
    exact = Fraction(total) * Fraction(real) + zero
    assert abs(found - exact) <= 1 + abs(exact) / 2**29
    clamped = requantize(torch.tensor([total], dtype=torch.int32), fixed_point_multiplier(real), zero, -128, 127)
    assert int(clamped) == max(-128, min(127, found))


@given(INT32, st.floats(1e-12, 1e12), st.integers(-128, 127))
@settings(deadline=None)
def test_requantized_codes_are_python_integers_to_the_last_bit(total: int, real: float, zero: int) -> None:
    integer, shift = fixed_point_multiplier(real)
    wide = max(-(2**31), min(2**31 - 1, total * 2 ** max(0, -shift)))
    expected = half_away(Fraction(half_up(Fraction(wide * integer, 2**31)), 2 ** max(0, shift))) + zero
    found = requantize(torch.tensor([total], dtype=torch.int32), (integer, shift), zero, -128, 127)
    assert int(found) == max(-128, min(127, expected))


@pytest.mark.parametrize(("real", "expected"), [(2.0**-40, 0), (2.0**40, 127)])
def test_extreme_multipliers_saturate(real: float, expected: int) -> None:
    sums = torch.tensor([1000, -1000], dtype=torch.int32)
    found = requantize(sums, fixed_point_multiplier(real), 0, -128, 127)
    assert found.tolist() == [expected, 0 if expected == 0 else -128]
