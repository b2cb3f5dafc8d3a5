"""Batch norms that cannot be folded stay, and the model computes what it did."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.nn.folding import fold_batchnorm_


class Tied(nn.Module):
    """Two convolutions with one weight, each with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.b.weight = self.a.weight
        self.n1, self.n2, self.f = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: Any) -> Any:
        return self.f(torch.relu(self.n2(self.b(torch.relu(self.n1(self.a(x)))))).mean((2, 3)))


class ReadByForward(nn.Module):
    """The second convolution is a function on the first one's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n1, self.f = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.n1(self.a(x)))
        return self.f(torch.relu(nn.functional.conv2d(y, self.a.weight, padding=1)).mean((2, 3)))


class Tokens(nn.Module):
    """Batch norm over tokens, as many as the linear layer has outputs, or not."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.i, self.n, self.f = nn.Linear(4, outputs), nn.BatchNorm1d(7), nn.Linear(outputs, 5)

    def forward(self, x: Any) -> Any:
        return self.f(torch.relu(self.n(self.i(x))))


CASES: list[tuple[nn.Module, Tensor]] = [
    (Tied(), torch.randn(64, 4, 8, 8)),
    (ReadByForward(), torch.randn(64, 4, 8, 8)),
    (Tokens(7), torch.randn(64, 7, 4) * torch.arange(1, 8)[:, None]),
    (Tokens(8), torch.randn(64, 7, 4)),
]


def settled(model: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(x)
        model.eval()
        return model, model(x)


@pytest.mark.parametrize(("model", "x"), CASES, ids=["tied", "read by forward", "tokens", "other tokens"])
def test_the_model_computes_what_it_did(model: nn.Module, x: Tensor) -> None:
    model, y = settled(model, x)
    assert fold_batchnorm_(model, x[:2]) == []
    with torch.no_grad():
        assert model(x).equal(y)
        pw.apply_(model, pw.RoundToNearest(), data=[x])
        assert float((model(x) - y).norm() / y.norm()) < 0.05


def test_a_model_with_filled_slots_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    x = torch.randn(8, 3, 4, 4)
    model, _ = settled(model, x)
    pw.apply_(model, pw.RoundToNearest(include=("2",), fold_batchnorm=False), data=[x])
    before = model(x)
    with pytest.raises(MethodError, match="fold batch norm before filling slots"):
        fold_batchnorm_(model)
    assert model(x).equal(before)


@pytest.mark.parametrize("method", [pw.AdaQuant(weights="int4", steps=3), pw.AdaRound(steps=3), pw.QDrop(steps=3)])
def test_frozen_parameters_are_fitted_and_stay_frozen(method: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    model.requires_grad_(False)
    reference, x = copy.deepcopy(model), torch.randn(64, 8)
    applied: Any = pw.apply_(model, method, data=[x])
    assert not applied.failed
    pw.apply_(model, pw.BiasTuning(steps=2), data=[x], reference=reference)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_inference_mode_and_empty_batches_are_answered() -> None:
    model, x = nn.Sequential(nn.Linear(8, 3)).eval(), torch.randn(4, 8)
    with torch.inference_mode(), pytest.raises(MethodError, match="inference_mode"):
        pw.apply_(model, pw.RoundToNearest(), data=[x])
    for method in (pw.RoundToNearest(), pw.AdaQuant(steps=1)):
        with pytest.raises(MethodError, match="holds no sample"):
            pw.apply_(model, method, data=[x[:0]])
