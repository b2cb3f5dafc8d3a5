"""`execution_of` at its three levels, against nets whose flow is known."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.models import create_model
from pennyweight.nn.execution import execution_of


class Residual(nn.Module):
    """Registration order differs from execution order; one layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.twice = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.branch = nn.Conv2d(4, 4, 1)
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        y = self.twice(self.twice(x)) + self.branch(x)
        return self.head(y.mean((2, 3)))


LEVELS: tuple[Literal["fx", "export", "hooks"], ...] = ("fx", "export", "hooks")


@pytest.mark.parametrize("level", LEVELS)
def test_order_sizes_and_norms(level: Literal["fx", "export", "hooks"]) -> None:
    execution = execution_of(Residual(), torch.randn(2, 2, 8, 8), level=level)
    assert execution.level == level
    assert [layer.fqn for layer in execution.layers] == ["stem", "twice", "branch", "head"]
    stem, twice, branch, head = execution.layers
    assert (stem.macs, stem.input_numel, stem.output_numel) == (4 * 4 * 4 * 2 * 9, 2 * 64, 4 * 16)
    assert (twice.calls, twice.macs) == (2, 2 * 4 * 16 * 2 * 9)
    assert (branch.macs, head.macs) == (16 * 16, 12)
    assert execution.first == ("stem",)
    assert execution.last == ("head",)
    assert execution.norms == (("stem", "norm"),)
    assert stem.kind == "Conv2d"
    assert stem.output_shape == (2, 4, 4, 4)


@pytest.mark.parametrize("level", ["fx", "export"])
def test_what_graphs_know(level: Literal["fx", "export"]) -> None:
    execution = execution_of(Residual(), torch.randn(2, 2, 8, 8), level=level)
    by_name = {layer.fqn: layer for layer in execution.layers}
    assert by_name["stem"].rectified
    assert not by_name["branch"].rectified
    assert by_name["twice"].input_group == by_name["branch"].input_group != by_name["stem"].input_group
    assert by_name["twice"].sum_group == by_name["branch"].sum_group is not None
    assert by_name["head"].sum_group is None


def test_levels_agree_on_resnet20() -> None:
    model, x = create_model("resnet20"), torch.randn(2, 3, 32, 32)
    fx, export = (execution_of(model, x, level=level) for level in ("fx", "export"))
    assert fx.layers == export.layers
    assert fx.norms == export.norms == execution_of(model, x, level="hooks").norms
    assert execution_of(model, x) == fx
    assert sum(layer.macs for layer in fx.layers) == 40_551_040  # the well-known 40.6 M of this net


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if float(y.detach().sum()) > 0 else -y


def test_dynamic_control_flow_degrades_to_hooks() -> None:
    execution = execution_of(Branching(), torch.randn(2, 3))
    assert execution.level == "hooks"
    assert "rectified" in execution.lost
    for level in ("fx", "export"):
        with pytest.raises(MethodError, match="Branching cannot be"):
            execution_of(Branching(), torch.randn(2, 3), level=level)


class Named(nn.Module):
    """Named inputs with a default that fx takes for absent."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.layer = nn.Linear(4, 2)

    def forward(self, ids: Tensor | None = None, mask: Tensor | None = None) -> Any:
        assert ids is not None
        x = self.table(ids)
        if mask is not None:
            x = x * mask[..., None]
        return {"logits": self.layer(x)}


def test_named_inputs_and_embeddings() -> None:
    batch = {"ids": torch.zeros(2, 3, dtype=torch.long), "mask": torch.ones(2, 3)}
    execution = execution_of(Named(), batch)
    assert [layer.kind for layer in execution.layers] == ["Embedding", "Linear"]
    assert execution.layers[0].macs == 0
    assert execution.first == ("table",)


def test_refusals_and_modes(unchecked: None) -> None:
    with pytest.raises(MethodError, match="no weights yet"):
        execution_of(nn.Sequential(nn.LazyLinear(3)), torch.randn(2, 3))
    with pytest.raises(MethodError, match="runs no weighted layer"):
        execution_of(nn.Sequential(nn.ReLU()), torch.randn(2, 3))
    with pytest.raises(MethodError, match="level='jit'"):
        execution_of(nn.Linear(3, 3), torch.randn(2, 3), level="jit")
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    execution_of(model, torch.randn(2, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model[1].training
