"""NaN and infinity are refused, with their place."""

import pytest
import torch

from pennyweight.errors import NumericsError
from pennyweight.numerics.checks import require_finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_names_the_tensor_the_first_index_the_value_and_the_count(bad: float, dtype: torch.dtype) -> None:
    x = torch.zeros(2, 3, 4, dtype=dtype)
    x[1, 0, 2] = x[1, 2, 0] = bad
    with pytest.raises(NumericsError, match=rf"weight of layer 'fc1' holds {bad} at index \(1, 0, 2\) \(2 of 24"):
        require_finite(x, "weight of layer 'fc1'")


def test_infinities_that_cancel_are_found() -> None:
    with pytest.raises(NumericsError, match=r"index \(0,\) \(2 of 2"):
        require_finite(torch.tensor([float("inf"), float("-inf")]), "x")


def test_a_scalar_has_an_index_too() -> None:
    with pytest.raises(NumericsError, match=r"index \(\)"):
        require_finite(torch.tensor(float("nan")), "x")


@pytest.mark.parametrize(
    "x",
    [
        torch.full((4,), 3e38),  # the sum overflows, the values do not
        torch.full((4,), 60000.0, dtype=torch.float16),
        torch.zeros(0),
        torch.zeros(0, 3),
        torch.tensor(1.0),
        torch.tensor([1, 2]),
        torch.tensor([True]),
    ],
)
def test_accepts_what_is_finite(x: torch.Tensor) -> None:
    require_finite(x, "x")
