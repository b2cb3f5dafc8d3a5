"""Parameter groups, and shift-based AdaMax against scalar arithmetic."""

import copy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from oracles.shift_adamax import shift_adamax
from pennyweight.errors import RecipeError
from pennyweight.nn.gemm import as_gemm
from pennyweight.nn.slots.chain import SlotContent
from pennyweight.training.optim import ShiftAdaMax, build_optimizer, set_settings_
from pennyweight.training.regime import OPTIMIZERS, Regime

BETAS = (1.0 - 2.0**-3, 1.0 - 2.0**-10)


class Marked(SlotContent):
    """Changes nothing but what it asks of the optimiser."""

    stage: ClassVar[Any] = "mask"

    def __init__(self, lr_scale: float = 1.0, decays: bool = True) -> None:
        super().__init__()
        self.lr_scale, self.decays = lr_scale, decays

    def forward(self, x: Tensor) -> Tensor:
        return x


def run_shift_adamax(gradients: list[float], lr: float) -> tuple[list[float], list[float]]:
    weight = nn.Parameter(torch.tensor([0.25], dtype=torch.float64))
    optimizer = ShiftAdaMax([weight], lr=lr)
    weights, maxima = [], []
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        weights.append(weight.item())
        maxima.append(optimizer.state[weight]["maximum"].item())
    return weights, maxima


def test_shift_adamax_is_the_scalar_algorithm() -> None:
    generator = torch.Generator().manual_seed(5)
    gradients = (torch.randn(200, generator=generator, dtype=torch.float64) * 0.3).tolist()
    weights, maxima = run_shift_adamax(gradients, lr=2.0**-6)
    expected_weights, expected_maxima = shift_adamax(0.25, gradients, 2.0**-6, *BETAS)
    assert weights == pytest.approx(expected_weights, rel=1e-12)
    assert maxima == pytest.approx(expected_maxima, rel=1e-12)


def test_shift_adamax_forgets_an_old_maximum() -> None:
    # The paper's code stored AP2(v), and 0.999 * 2^k rounds back to 2^k: its maximum stayed 0.5 for ever.
    _, maxima = run_shift_adamax([0.5] + [1e-3] * 3000, lr=2.0**-10)
    assert maxima[-1] == pytest.approx(0.5 * BETAS[1] ** 3000, rel=1e-9)
    assert maxima[-1] < 0.03


def test_shift_adamax_survives_a_gradient_that_is_always_zero() -> None:
    weights, _ = run_shift_adamax([0.0] * 5, lr=0.1)
    assert weights == [0.25] * 5


def test_shift_adamax_refuses_bad_rates() -> None:
    with pytest.raises(RecipeError, match=r"betas=\(0.9, 1.0\)"):
        ShiftAdaMax([nn.Parameter(torch.ones(1))], betas=(0.9, 1.0))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "bop"])  # whose scale is a rate of flips
def test_lr_scale_multiplies_the_step_not_the_gradient(name: str) -> None:
    # Adaptive optimisers would cancel a scaled gradient; the scale must act on the finished step.
    plain, scaled = as_gemm(nn.Linear(3, 2, bias=False)), as_gemm(nn.Linear(3, 2, bias=False))
    scaled.load_state_dict(plain.state_dict())
    scaled.slots.fill("weight", Marked(lr_scale=8.0))
    before = plain.weight.detach().clone()
    moves = []
    for model in (plain, copy.deepcopy(scaled)):  # a copy keeps the rule
        optimizer = build_optimizer(model, Regime(steps=1, lr=2.0**-10, optimizer=name))  # type: ignore[arg-type]
        model(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
        optimizer.step()
        moves.append(model.weight.detach() - before)
    torch.testing.assert_close(moves[1], 8.0 * moves[0], rtol=1e-4, atol=1e-6)


def test_weight_decay_spares_marked_parameters() -> None:
    model = nn.Sequential(as_gemm(nn.Linear(3, 2)), nn.Linear(2, 2))
    model[0].slots.fill("weight", Marked(decays=False))
    optimizer = build_optimizer(model, Regime(steps=2, lr=0.5, weight_decay=0.1, momentum=0.0))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = list(model.parameters())
    assert torch.equal(after[0], before[0])
    for old, new in zip(before[1:], after[1:], strict=True):
        torch.testing.assert_close(new.detach(), 0.95 * old)


def test_settings_of_the_step_reach_every_group() -> None:
    model = nn.Sequential(as_gemm(nn.Linear(3, 2, bias=False)), nn.Linear(2, 2))
    model[0].slots.fill("weight", Marked(lr_scale=4.0, decays=False))
    regime = Regime.milestones(steps=3, lr=1.0, milestone_steps=(2,), weight_decay=0.2)
    optimizer = build_optimizer(model, regime)
    set_settings_(optimizer, regime(2))
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (pytest.approx(0.4), 0.0),
        (pytest.approx(0.1), 0.2),
    ]


def test_the_regimes_betas_reach_the_optimizer() -> None:
    for name in ("adam", "adamw", "shift_adamax"):
        regime = Regime(steps=1, lr=0.1, optimizer=name, betas=(0.5, 0.75))  # type: ignore[arg-type]
        assert build_optimizer(nn.Linear(1, 1), regime).param_groups[0]["betas"] == (0.5, 0.75)


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(RecipeError, match="Linear has no trainable parameters"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), Regime(steps=1, lr=0.1))
