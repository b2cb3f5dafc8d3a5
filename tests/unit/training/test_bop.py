"""Bop against scalar arithmetic, its Adam against torch's, and its place in a regime."""

import pytest
import torch
from torch import nn

import pennyweight as pw
from oracles.bop import bop
from pennyweight.errors import RecipeError
from pennyweight.nn.binary_statistics import FlipRate
from pennyweight.training.bop import Bop
from pennyweight.training.optim import build_optimizer, set_settings_
from pennyweight.training.regime import Regime


@pytest.mark.parametrize(("rate", "threshold"), [(1.0, 0.0), (0.3, 0.1), (1e-2, 1e-3)])
def test_scalar_arithmetic(rate: float, threshold: float) -> None:
    gradients = torch.randn(120, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = torch.tensor([1.0, -1.0, 0.3, -0.2, 0.0, -0.0], dtype=torch.float64)  # latents count by their sign
    weight = nn.Parameter(start.clone())
    optimizer = Bop([weight], lr=rate, threshold=threshold)
    seen = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        seen.append(torch.where(weight.detach() >= 0, 1.0, -1.0))
    for i in range(6):
        sign = 1.0 if start[i] >= 0 else -1.0
        assert [float(step[i]) for step in seen] == bop(sign, gradients[:, i].tolist(), rate, threshold)


def test_a_gradient_of_zero_and_an_absent_one_flip_nothing() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, -1.0, 0.0])) for _ in range(2)]
    weights[0].grad = torch.zeros(3)
    Bop(weights, lr=1.0, threshold=0.0).step()
    for weight in weights:
        assert weight.tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_what_does_not_flip_takes_torchs_adam(weight_decay: float) -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64)) for _ in range(2))
    group = {"params": [ours], "flips": False, "lr": 0.01, "weight_decay": weight_decay}
    optimizers = Bop([group]), torch.optim.Adam([theirs], lr=0.01, weight_decay=weight_decay)
    for step in range(20):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.sin(torch.arange(9, dtype=torch.float64) * (step + 1))
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_bad_rates_are_refused() -> None:
    with pytest.raises(RecipeError, match="threshold=-1"):
        Bop([nn.Parameter(torch.ones(1))], threshold=-1)
    with pytest.raises(RecipeError, match="flip_rate=0"):
        Regime(steps=1, lr=0.1, optimizer="bop", flip_rate=0.0)
    with pytest.raises(RecipeError, match="lr=0"):
        Regime(steps=1, lr=0.0, optimizer="bop")
    with pytest.raises(RecipeError, match="model has none: apply BNN first"):
        build_optimizer(nn.Linear(1, 1), Regime(steps=1, lr=0.1, optimizer="bop"))


def test_in_a_regime_signs_flip_and_the_flip_rate_follows_the_schedule() -> None:
    model = pw.create_model("mlp", hidden=(16,))
    pw.apply_(model, pw.BNN())
    regime = Regime.exponential(
        steps=4, lr=0.1, final_lr=0.1 / 16, optimizer="bop", flip_rate=1e-3, flip_threshold=1e-6
    )
    optimizer = build_optimizer(model, regime)
    groups = {group["flips"]: group for group in optimizer.param_groups}
    flipping = {id(p) for group in optimizer.param_groups if group["flips"] for p in group["params"]}
    assert flipping == {id(model.linear1.weight), id(model.linear2.weight)}
    for step in range(4):
        set_settings_(optimizer, regime(step))
        assert groups[False]["lr"] == pytest.approx(0.1 / 2**step)
        assert groups[True]["lr"] == pytest.approx(1e-3 / 2**step)
        assert groups[True]["threshold"] == 1e-6


def test_training_with_bop_learns_and_moves_only_signs() -> None:
    def run() -> list[float]:
        model = pw.create_model("mlp", hidden=(32,), bn_output=True)
        pw.apply_(model, pw.BNN())
        regime = Regime.cosine(steps=60, lr=0.01, batch_size=32, optimizer="bop", flip_rate=1e-2, flip_threshold=1e-6)
        flips = FlipRate(model)
        before = model.linear1.weight.detach().clone()
        result = pw.train(model, pw.load_dataset("digits"), regime, progress=False, device="cpu")
        moved = model.linear1.weight.detach() != before
        assert flips.rates()["linear1"] > 0
        assert (model.linear1.weight.detach()[moved].abs() == 1).all()
        return list(result.history)

    history = run()
    assert sum(history[-5:]) < 0.7 * sum(history[:5])
    assert history == run()
