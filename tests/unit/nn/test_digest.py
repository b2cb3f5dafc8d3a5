"""Digests of models: equal for equal models in every process, different for what computes differently."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import pennyweight as pw
from pennyweight.nn.digest import model_digest


class Net(nn.Module):
    """One layer, and plain settings that its forward reads."""

    def __init__(self, power: float = 2.0, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.power, self.act = nn.Linear(4, 3), power, act
        self.names = {"b", "a", "c"}

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.act(x)) ** self.power
        return out


class Sibling(Net):
    """Another forward over the same tensors."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def conv(stride: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, stride=stride))


def test_equal_models_have_equal_digests() -> None:
    model = Net()
    assert model_digest(model) == model_digest(copy.deepcopy(model)) == model_digest(Net())
    assert model_digest(model.train()) == model_digest(copy.deepcopy(model).eval())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Net(), Net(power=3.0)),
        (Net(), Sibling()),
        (Net(), Net(act=torch.tanh)),
        (Net(act=lambda x: x + 1), Net(act=lambda x: x + 2)),
        (conv(1), conv(2)),
        (nn.Sequential(nn.ReLU()), nn.Sequential(nn.GELU())),
        (nn.Sequential(nn.GELU()), nn.Sequential(nn.GELU(approximate="tanh"))),
    ],
    ids=["setting", "forward", "function", "lambda", "stride", "class", "repr"],
)
def test_what_computes_differently_differs(one: nn.Module, other: nn.Module) -> None:
    assert model_digest(one) != model_digest(other)


def test_one_value_of_one_tensor_differs() -> None:
    model, other = Net(), Net()
    with torch.no_grad():
        other.layer.bias[0] += 1
    assert model_digest(model) != model_digest(other)


def test_graphs_are_told_apart_by_their_code() -> None:
    one, other = fx.symbolic_trace(Net()), fx.symbolic_trace(Net(power=3.0))
    assert model_digest(one) == model_digest(fx.symbolic_trace(Net()))
    assert model_digest(one) != model_digest(other)


def test_it_is_the_same_in_another_process() -> None:
    script = (
        "import pennyweight as pw; from pennyweight.nn.digest import model_digest; import torch; torch.manual_seed(0)"
    )
    script += "; print(model_digest(pw.create_model('resnet20')))"
    torch.manual_seed(0)
    expected = model_digest(pw.create_model("resnet20"))
    for seed in ("0", "7"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
        )
        assert done.stdout.strip() == expected
