"""Forward values and backward slopes of the straight-through functions."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from pennyweight.numerics.random import Key
from pennyweight.numerics.ste import (
    Surrogate,
    clamp_ste,
    round_ste,
    sign,
    sign_ste,
    stochastic_sign_ste,
    straight_through,
    surrogate_sign,
)

ABOVE_1 = math.nextafter(1, 2)
EDGES = [-2.0, -ABOVE_1, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, ABOVE_1, 2.0]


def edges() -> Tensor:
    return torch.tensor(EDGES, dtype=torch.float64, requires_grad=True)


def slopes(y: Tensor, x: Tensor) -> list[float]:
    (gradient,) = torch.autograd.grad((y * 3).sum(), x)
    return (gradient / 3).tolist()


def test_sign_has_two_values() -> None:
    assert sign(torch.tensor(EDGES)).tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1, 1]
    assert sign(torch.tensor([-0.0, 2.0], dtype=torch.float16)).dtype == torch.float16


def test_clipped_slope_includes_the_boundary_and_nothing_beyond() -> None:
    x = edges()
    y = sign_ste(x)
    assert y.tolist() == sign(x).tolist()
    assert slopes(y, x) == [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]


def test_identity_slope() -> None:
    x = edges()
    y = sign_ste(x, clip=False)
    assert y.tolist() == sign(x).tolist()
    assert slopes(y, x) == [1] * len(EDGES)


def test_stochastic_sign_law_and_slope() -> None:
    n = 40_000
    for value, p in [(-1.5, 0.0), (-1.0, 0.0), (-0.5, 0.25), (0.0, 0.5), (0.9, 0.95), (1.0, 1.0), (3.0, 1.0)]:
        y = stochastic_sign_ste(torch.full((n,), value), Key(1).fold(str(value)))
        assert set(y.tolist()) <= {-1.0, 1.0}
        assert abs(float((y > 0).double().mean()) - p) <= 5 * math.sqrt(p * (1 - p) / n)
    x = edges()
    assert slopes(stochastic_sign_ste(x, Key(0)), x) == [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]
    assert torch.equal(stochastic_sign_ste(x, Key(4)), stochastic_sign_ste(x, Key(4)))


def test_round() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.2], requires_grad=True)
    y = round_ste(x)
    assert y.tolist() == [-2, 0, 0, 2, 2]
    assert slopes(y, x) == [1] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_clamp(dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, 0.25, 2.0], dtype=dtype, requires_grad=True)
    y = clamp_ste(x, -0.1, torch.tensor(1.0))
    assert y.dtype == dtype
    assert y.tolist() == [torch.tensor(-0.1, dtype=dtype).item(), 0.25, 1.0]
    assert slopes(y, x) == [1, 1, 1]


def test_straight_through_takes_any_value() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = straight_through(x, torch.tensor([5.0, 6.0]))
    assert y.tolist() == [5, 6]
    assert slopes(y, x) == [1, 1]


def test_empty() -> None:
    x = torch.zeros(0, requires_grad=True)
    for y in (sign_ste(x), sign_ste(x, clip=False), round_ste(x), clamp_ste(x, 0.0, 1.0)):
        assert y.shape == (0,)


def parabola(x: float) -> float:
    """Of which "approx" is the derivative (arXiv 1808.00278)."""
    if x < -1 or x >= 1:
        return -1.0 if x < -1 else 1.0
    return 2 * x + x * x if x < 0 else 2 * x - x * x


def sign_swish(x: float) -> float:
    """Of which "swish" is the derivative (arXiv 1812.11800), with b = 5."""
    s = 1 / (1 + math.exp(-5 * x))
    return 2 * s * (1 + 5 * x * (1 - s)) - 1


@pytest.mark.parametrize(("surrogate", "function"), [("approx", parabola), ("swish", sign_swish)])
def test_surrogate_slopes_are_derivatives_of_their_functions(
    surrogate: Surrogate, function: Callable[[float], float]
) -> None:
    points = [-3.0, -1.2, -0.7, -0.48, -0.1, 0.03, 0.3, 0.9, 1.5, 4.0]
    x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    expected = [(function(p + 1e-6) - function(p - 1e-6)) / 2e-6 for p in points]
    for y in (surrogate_sign(x, surrogate), stochastic_sign_ste(x, Key(2), surrogate)):
        assert slopes(y, x) == pytest.approx(expected, abs=1e-5)
    assert surrogate_sign(x, surrogate).tolist() == sign(x.detach()).tolist()


@pytest.mark.parametrize("surrogate", get_args(Surrogate))
def test_surrogates_at_the_edges_and_far_out(surrogate: Surrogate) -> None:
    expected = {
        "hardtanh": [0, 0, 1, 1, 1, 1, 1, 1, 0, 0], "identity": [1] * 10, "approx": [0, 0, 0, 1, 2, 2, 1, 0, 0, 0],
    }.get(surrogate)  # fmt: skip
    x = edges()
    if expected is not None:
        assert slopes(surrogate_sign(x, surrogate), x) == expected
    far = torch.tensor([-1e30, 1e30, float("inf"), -float("inf"), 100.0], requires_grad=True)
    assert slopes(surrogate_sign(far, surrogate), far) == [float(surrogate == "identity")] * 5


def test_a_masked_gradient_is_zero_even_where_it_is_not_finite() -> None:
    x = torch.tensor([5.0, 0.5], requires_grad=True)
    (gradient,) = torch.autograd.grad(sign_ste(x), x, torch.tensor([math.inf, 2.0]))
    assert gradient.tolist() == [0.0, 2.0]
