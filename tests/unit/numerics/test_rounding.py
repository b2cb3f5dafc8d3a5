"""The three roundings; the law, moments and ends of the stochastic one."""

import math

import pytest
import torch

from pennyweight.errors import NumericsError
from pennyweight.numerics.codec import round_to_format
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key, uniform
from pennyweight.numerics.rounding import apply_rounding, round_nearest_even, round_stochastic, round_toward_zero


def test_nearest_even_and_toward_zero() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4, -2.6])
    assert round_nearest_even(x).tolist() == [-2, -2, 0, 0, 2, 2, 2, -3]
    assert round_toward_zero(x).tolist() == [-2, -1, 0, 0, 1, 2, 2, -2]
    assert torch.equal(apply_rounding(x), round_nearest_even(x))
    assert torch.equal(apply_rounding(x, "toward_zero"), round_toward_zero(x))


@pytest.mark.parametrize("value", [0.25, 0.5, 7.9, -0.1, -3.7])
def test_stochastic_mean_and_variance(value: float) -> None:
    n = 100_000
    x = torch.full((n,), value)
    y = round_stochastic(x, Key(3).fold("mean", str(value))).double()
    f = float(x[0]) - math.floor(value)
    assert set(y.tolist()) == {math.floor(value), math.floor(value) + 1}
    assert abs(float(y.mean()) - float(x[0])) < 5 * math.sqrt(f * (1 - f) / n)
    assert float(y.var()) == pytest.approx(f * (1 - f), rel=0.05)


def test_mean_variance_over_all_fractions_is_a_sixth() -> None:
    x = uniform((200_000,), Key(1)) * 100
    assert float((round_stochastic(x, Key(2)) - x).square().mean()) == pytest.approx(1 / 6, rel=0.02)
    assert float((round_nearest_even(x) - x).square().mean()) == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tiny_negative_values_mostly_stay_at_zero_in_every_dtype(dtype: torch.dtype) -> None:
    x = torch.full((100_000,), -0.001, dtype=dtype)
    y = round_stochastic(x, Key(5))
    assert y.dtype == dtype
    assert float(y.double().mean()) == pytest.approx(-0.001, abs=5 * math.sqrt(0.001 / 1e5))


def test_integers_are_kept_and_the_ends_never_left() -> None:
    x = torch.tensor([-8.0, 7.0, 0.0, -0.0, 3.0]).repeat(1000)
    assert torch.equal(round_stochastic(x, Key(0)), x)
    far = torch.tensor([-8.4, 7.3, 100.0, -100.0]).repeat(1000)
    y = round_to_format(far, IntFormat(4), "stochastic", Key(0))
    assert torch.equal(y, torch.tensor([-8.0, 7.0, 7.0, -8.0]).repeat(1000))


def test_a_draw_equal_to_the_fraction_rounds_down(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([3.0, 0.25, 0.25, 0.25, -0.75])
    draws = torch.tensor([0.0, 0.25, 0.25 - 2.0**-24, 0.0, 0.25])
    monkeypatch.setattr("pennyweight.numerics.rounding.uniform", lambda *_: draws)
    assert round_stochastic(x, Key(0)).tolist() == [3, 0, 1, 1, -1]


def test_the_key_decides() -> None:
    x = uniform((1000,), Key(0))
    assert torch.equal(round_stochastic(x, Key(1)), round_stochastic(x, Key(1)))
    assert not torch.equal(round_stochastic(x, Key(1)), round_stochastic(x, Key(2)))
    state = torch.get_rng_state()
    round_stochastic(x, Key(1))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"


def test_stochastic_rounding_needs_a_key() -> None:
    with pytest.raises(NumericsError, match=r"key=Key\(seed\)"):
        apply_rounding(torch.zeros(2), "stochastic")


def test_empty_and_scalar() -> None:
    assert round_stochastic(torch.zeros(0), Key(0)).shape == (0,)
    assert round_stochastic(torch.tensor(0.5), Key(0)).item() in (0.0, 1.0)
