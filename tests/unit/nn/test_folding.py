"""Folding batch norm changes no output, and leaves alone what it may not fold."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.models import create_model
from pennyweight.nn.folding import fold_batchnorm_
from pennyweight.nn.gemm import as_gemm
from pennyweight.nn.normalization import GhostBatchNorm1d
from pennyweight.nn.slots.binary import BinaryWeight


def settled(model: nn.Module, x: Tensor) -> nn.Module:
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.uniform_(0.5, 2.0)
                module.bias.normal_()
        for _ in range(3):
            model(x)
    return model.eval()


CASES: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "mlp": (lambda: create_model("mlp"), (9, 1, 8, 8), 2),
    "resnet": (lambda: create_model("resnet20"), (4, 3, 16, 16), 19),
    "pool between": (lambda: create_model("vgg-small", width=4), (4, 3, 32, 32), 5),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3, bias=False), nn.BatchNorm1d(4), nn.ReLU()), (5, 2, 9), 1),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (3, 2, 4, 4, 4), 1),
    "not affine": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)), (7, 4), 1),
    "ghost": (lambda: nn.Sequential(nn.Linear(4, 3), GhostBatchNorm1d(3, 2)), (8, 4), 1),
    "norm before": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), (7, 4), 0),
    "activation between": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3)), (7, 4), 0),
    "no statistics": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)), (7, 4), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_outputs_stay(name: str) -> None:
    torch.manual_seed(0)
    make, shape, count = CASES[name]
    x = torch.randn(shape)
    model = settled(make(), x)
    with torch.no_grad():
        before = model(x)
        folded = fold_batchnorm_(model)
        after = model.eval()(x)
    assert len(folded) == count
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in make().modules()) - count


class Twice(nn.Module):
    """One layer called twice, with a batch norm after one of the calls; and a layer read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.tapped, self.other = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Any) -> Any:
        y = self.norm(self.shared(self.shared(x)))
        z = self.tapped(y)
        return self.other(z) + z


def test_shared_and_tapped_layers_are_left_alone() -> None:
    x = torch.randn(6, 4)
    model = settled(Twice(), x)
    before = model(x)
    assert fold_batchnorm_(model) == []
    assert torch.equal(model(x), before)


def test_refusals() -> None:
    layer = as_gemm(nn.Linear(4, 3))
    layer.slots.fill("weight", BinaryWeight())
    with pytest.raises(MethodError, match="fold batch norm before filling slots"):
        fold_batchnorm_(nn.Sequential(layer, nn.BatchNorm1d(3)))

    with pytest.raises(MethodError, match="Branching cannot be traced"):
        fold_batchnorm_(Branching())


class Branching(nn.Module):
    """No symbolic trace, and no exported program either."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Any) -> Any:
        y = self.norm(self.conv(x))
        return y if float(y.detach().sum()) > 0 else -y


def test_an_example_lets_untraceable_models_fold() -> None:
    x = torch.randn(4, 2, 6, 6)
    model = settled(Branching(), x)
    before = model(x)
    assert fold_batchnorm_(model, x) == [("conv", "norm")]
    torch.testing.assert_close(model(x), before)
