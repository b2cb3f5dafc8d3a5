"""Learned rounding's slot contents: where they start, their gradients, what they freeze to; dropped activations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.nn.slots.learned_rounding import (
    DroppedInput,
    RoundingWeight,
    coin_flips,
    rectified_sigmoid_inverse,
)
from pennyweight.numerics.affine import AffineParameters, affine_parameters, parse_granularity
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.ranges import estimate_range

KEY = Key(0).fold("test")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters_of(weight: Tensor, bits: int, granularity: str = "channel", estimator: str = "mse") -> AffineParameters:
    kind, format = parse_granularity(granularity), IntFormat(bits)
    low, high = estimate_range(weight, kind, format, estimator=estimator, symmetric=True)
    return affine_parameters(low, high, format, kind, symmetric=True)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:5"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_soft_it_starts_at_the_float_weight(granularity: str, bits: int) -> None:
    weight = draw(4, 12)
    parameters = parameters_of(weight, bits, granularity)
    content = RoundingWeight(parameters, weight)
    soft = content(weight).detach()
    frozen = IntegerWeight(parameters)
    low, high = frozen(torch.full_like(weight, -30.0)), frozen(torch.full_like(weight, 30.0))
    expected = torch.minimum(torch.maximum(weight, low), high)
    scale = float(parameters.scale.max())
    torch.testing.assert_close(soft, expected, rtol=0, atol=3e-6 * 2**bits * scale)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-600, 600), min_size=1, max_size=20),
    st.integers(2, 8),
    st.sampled_from([0.125, 0.03, 1.0]),
)
def test_hard_it_starts_at_the_nearest_codes_ties_included(quarters: list[int], bits: int, scale: float) -> None:
    weight = torch.tensor([quarters], dtype=torch.float32) / 4 * scale
    parameters = AffineParameters(
        scale=torch.full((1,), scale),
        zero_point=torch.zeros(1),
        format=IntFormat(bits),
        granularity=parse_granularity("channel"),
    )
    content, nearest = RoundingWeight(parameters, weight), IntegerWeight(parameters)
    content.hard = True
    assert torch.equal(content.codes(weight)[0], nearest.codes(weight)[0])
    assert torch.equal(content.on_grid(), nearest(weight))


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:5"])
def test_frozen_it_does_what_it_did_hard(granularity: str) -> None:
    weight = draw(4, 12)
    content = RoundingWeight(parameters_of(weight, 3, granularity), weight)
    with torch.no_grad():
        content.choice.copy_(draw(4, 12, seed=1))
    content.hard = True
    frozen, on_grid = content.frozen(), content.on_grid()
    for found, expected in zip(frozen.codes(on_grid), content.codes(weight), strict=True):
        assert found is None if expected is None else torch.equal(found, expected)
    assert torch.equal(frozen(on_grid), on_grid)
    assert isinstance(frozen, IntegerWeight)


def test_gradients_of_the_rectified_sigmoid_by_finite_differences() -> None:
    """In float64, away from the two kinks; at V far out it is flat."""
    weight = draw(3, 40)
    parameters = parameters_of(weight, 4)
    content = RoundingWeight(parameters, weight).double()
    with torch.no_grad():
        content.choice.copy_(torch.linspace(-5, 5, 120, dtype=torch.float64).reshape(3, 40))
    seen = draw(3, 40, seed=2).double()

    def loss() -> Tensor:
        return (content(weight.double()) * seen).sum() + 0.3 * content.undecided(3.0)

    (gradient,) = torch.autograd.grad(loss(), [content.choice])
    step = 1e-6
    for row in range(3):
        for column in range(0, 40, 3):
            with torch.no_grad():
                content.choice[row, column] += step
                above = float(loss().detach())
                content.choice[row, column] -= 2 * step
                below = float(loss().detach())
                content.choice[row, column] += step
            assert float(gradient[row, column]) == pytest.approx((above - below) / (2 * step), abs=1e-7)
    assert bool((gradient[content.choice.abs() > 2.5] == 0).all())
    assert bool((gradient[content.choice.abs() < 2.3] != 0).all())


def test_every_weight_can_move_at_the_start_those_beyond_the_range_too() -> None:
    weight = draw(2, 50) * 3
    parameters = AffineParameters(
        scale=torch.ones(2), zero_point=torch.zeros(2), format=IntFormat(2), granularity=parse_granularity("channel")
    )
    content = RoundingWeight(parameters, weight)
    content(weight).sum().backward()
    assert bool((content.choice.grad > 0).all())
    with torch.no_grad():
        content.choice.fill_(-9.0)
        assert float(content.on_grid().max()) == 0
        content.choice.fill_(9.0)
        assert float(content.on_grid().min()) == -1


def test_the_inverse_of_the_rectified_sigmoid() -> None:
    share = torch.linspace(0, 1, 21, dtype=torch.float64)
    choice = rectified_sigmoid_inverse(share)
    torch.testing.assert_close((torch.sigmoid(choice) * 1.2 - 0.1).clamp(0, 1), share)


def test_undecided_is_zero_when_all_have_decided() -> None:
    weight = draw(4, 12)
    content = RoundingWeight(parameters_of(weight, 4), weight)
    assert float(content.undecided(2.0).detach()) > 0
    with torch.no_grad():
        content.choice.copy_(torch.where(content.choice >= 0, 9.0, -9.0))
    assert float(content.undecided(2.0).detach()) == 0


# Inputs some of whose entries stay in float.


def dropped(probability: float, bits: int = 3) -> tuple[DroppedInput, Tensor]:
    x = draw(6, 40) + 0.3
    format = IntFormat(bits, signed=False)
    low, high = x.quantile(0.05), x.quantile(0.95)
    parameters = affine_parameters(low, high, format, parse_granularity("tensor"), symmetric=False)
    return DroppedInput(parameters, probability), x


def test_without_a_key_all_entries_are_quantized() -> None:
    content, x = dropped(0.5)
    assert torch.equal(content(x).detach(), IntegerInput(content.affine)(x))


def test_with_a_key_half_of_them_are_what_they_were() -> None:
    content, x = dropped(0.5)
    content.key = KEY
    mixed, codes = content(x).detach(), IntegerInput(content.affine)(x)
    kept = coin_flips(x.shape, 0.5, KEY)
    torch.testing.assert_close(mixed[kept], x[kept], rtol=1e-6, atol=1e-7)
    assert torch.equal(mixed[~kept], codes[~kept])
    assert torch.equal(content(x).detach(), mixed), "the same key leaves the same entries"
    content.key = KEY.fold(1)
    assert not torch.equal(content(x).detach(), mixed)


def test_a_dropped_entry_passes_its_gradient_and_teaches_the_scale_nothing() -> None:
    content, x = dropped(1.0)
    content.key = KEY
    x.requires_grad_(True)
    content(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    assert abs(float(content.offset.grad)) < 1e-3
    assert content.zero_offset.grad is None or float(content.zero_offset.grad) == 0


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_coins_fall_as_often_as_said(probability: float) -> None:
    flips = coin_flips(torch.Size((101, 99)), probability, KEY)
    assert float(flips.float().mean()) == pytest.approx(probability, abs=0.02)
    assert torch.equal(flips, coin_flips(torch.Size((101, 99)), probability, KEY))
    assert torch.equal(flips.flatten()[:50], coin_flips(torch.Size((50,)), probability, KEY)), "by position alone"
