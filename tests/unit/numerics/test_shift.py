"""AP2 against its definition, on every bfloat16 and on the edges of the other dtypes."""

import math
from fractions import Fraction

import pytest
import torch

from oracles.number_formats import nearest_power
from pennyweight.numerics.random import Key, normal
from pennyweight.numerics.shift import ap2, power_of_two


def all_values(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_float(dtype: torch.dtype) -> None:
    x = all_values(dtype)
    y = ap2(x)
    assert y.dtype == dtype
    special = ~torch.isfinite(x)
    assert torch.equal(y[special].view(torch.int16), x[special].view(torch.int16)), "infinities and NaN are kept"
    largest = 2.0 ** math.floor(math.log2(torch.finfo(dtype).max))
    expected = [float(nearest_power(Fraction(v))) if v else 0.0 for v in x[~special].double().tolist()]
    assert y[~special].tolist() == [min(max(v, -largest), largest) for v in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_sides_of_sqrt_2(dtype: torch.dtype) -> None:
    below = torch.tensor(math.sqrt(2), dtype=dtype)
    if float(below) ** 2 > 2:
        below = torch.nextafter(below, torch.tensor(0.0, dtype=dtype))
    above = torch.nextafter(below, torch.tensor(9.0, dtype=dtype))
    assert Fraction(float(below)) ** 2 < 2 < Fraction(float(above)) ** 2
    for exponent in (-100, -1, 0, 1, 100):
        x = torch.stack([below, above, -below, -above]) * 2.0**exponent
        assert ap2(x).tolist() == [v * 2.0**exponent for v in (1, 2, -1, -2)]


def test_edges_of_float32() -> None:
    x = torch.tensor([3.4e38, -3.4e38, 1e-45, -1e-45, 3e-45, 4.2e-45, 1.1754942e-38, 0.0, -0.0])
    expected = [2.0**127, -(2.0**127), 2.0**-149, -(2.0**-149), 2.0**-148, 2.0**-147, 2.0**-126, 0.0, -0.0]
    assert ap2(x).tolist() == expected
    assert math.copysign(1, float(ap2(x)[-1])) == -1


def test_ratio_and_the_over_estimate_of_a_gaussian() -> None:
    x = normal((200_000,), Key(0)).double()
    ratio = ap2(x) / x
    assert float(ratio.min()) > 2**-0.5
    assert float(ratio.max()) < 2**0.5
    assert float((x * ap2(x)).mean()) == pytest.approx(1.0197, abs=0.012)


def test_shapes_strides_and_input_left_alone() -> None:
    x = normal((4, 6), Key(1)).double()
    before = x.clone()
    assert torch.equal(ap2(x.t()), ap2(x).t())
    assert torch.equal(x, before)
    assert ap2(torch.zeros(0, 3)).shape == (0, 3)
    assert ap2(torch.tensor(3.0)).shape == ()


def test_has_no_gradient() -> None:
    assert not ap2(torch.ones(2, requires_grad=True)).requires_grad


def test_powers_of_two_are_exact() -> None:
    exponents = torch.arange(-1022, 1024)
    assert power_of_two(exponents).tolist() == [2.0**e for e in range(-1022, 1024)]
    assert power_of_two(torch.tensor(-3, dtype=torch.int32)).item() == 0.125
