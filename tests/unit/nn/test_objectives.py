"""Loss functions against scalar arithmetic."""

import math

import pytest
import torch

from pennyweight.errors import NumericsError, RecipeError
from pennyweight.nn.objectives import OBJECTIVES, cross_entropy, objective_named, squared_hinge


def scalar_squared_hinge(outputs: list[list[float]], targets: list[int]) -> list[float]:
    losses = []
    for row, target in zip(outputs, targets, strict=True):
        terms = [max(0.0, 1.0 - (1.0 if c == target else -1.0) * o) ** 2 for c, o in enumerate(row)]
        losses.append(sum(terms) / len(terms))
    return losses


def scalar_cross_entropy(outputs: list[list[float]], targets: list[int]) -> list[float]:
    return [math.log(sum(math.exp(o) for o in row)) - row[target] for row, target in zip(outputs, targets, strict=True)]


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(7, 5, generator=generator, dtype=torch.float64) * 2
    return outputs, torch.tensor([0, 4, 2, 2, 1, 3, 0])


def test_squared_hinge_is_the_papers_formula(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    outputs, targets = case
    expected = torch.tensor(scalar_squared_hinge(outputs.tolist(), targets.tolist()), dtype=torch.float64)
    torch.testing.assert_close(squared_hinge(outputs, targets), expected, rtol=1e-14, atol=0.0)


def test_squared_hinge_gradient_has_its_closed_form(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    outputs, targets = case
    outputs.requires_grad_()
    squared_hinge(outputs, targets).mean().backward()
    signs = torch.full_like(outputs, -1.0).scatter_(1, targets[:, None], 1.0)
    expected = -2.0 * signs * (1.0 - signs * outputs.detach()).clamp_min(0.0) / outputs.numel()
    torch.testing.assert_close(outputs.grad, expected, rtol=1e-14, atol=0.0)


def test_squared_hinge_is_zero_beyond_the_margin() -> None:
    loss = squared_hinge(torch.tensor([[1.0, -1.0, -7.0]]), torch.tensor([0]))
    assert loss.item() == 0.0


def test_half_precision_outputs_give_float32_losses() -> None:
    outputs, targets = torch.randn(4, 3).bfloat16(), torch.tensor([0, 1, 2, 0])
    loss = squared_hinge(outputs, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, squared_hinge(outputs.float(), targets))


def test_cross_entropy_is_log_sum_exp_minus_the_logit(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    outputs, targets = case
    expected = torch.tensor(scalar_cross_entropy(outputs.tolist(), targets.tolist()), dtype=torch.float64)
    torch.testing.assert_close(cross_entropy(outputs, targets), expected, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_shapes_that_do_not_fit_are_named(name: str) -> None:
    with pytest.raises(NumericsError, match=r"got \(2, 3, 4\) and \(2,\)"):
        objective_named(name)(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(NumericsError, match=r"got \(2, 3\) and \(3,\)"):
        objective_named(name)(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))


def test_an_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="'cross_entrpy': did you mean 'cross_entropy'"):
        objective_named("cross_entrpy")
