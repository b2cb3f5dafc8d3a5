"""timm's models by name. Where timm is not installed, a module with the functions used stands in for it."""

import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.errors import MissingDependencyError, RecipeError
from pennyweight.models import holds_weights, model_builder, model_identity

IMAGES = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def stand_in() -> types.ModuleType:
    """What is used of timm: its version, names, and `create_model` with the keywords it has."""
    timm: Any = types.ModuleType("timm")

    def create_model(name: str, *, pretrained: bool, num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
        assert name == "resnet18"
        assert not pretrained
        conv, norm = nn.Conv2d(in_chans, 8, 3, stride=4), nn.BatchNorm2d(8)
        return nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

    timm.__version__ = "1.0.0"
    timm.is_model = lambda name: name == "resnet18"
    timm.list_models = lambda: ["resnet18"]
    timm.create_model = create_model
    found: types.ModuleType = timm
    return found


@pytest.fixture(autouse=True)
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("timm") is None:
        monkeypatch.setitem(sys.modules, "timm", stand_in())


@torch.no_grad()
def test_made_for_the_data_and_quantized() -> None:
    model = pw.create_model("timm:resnet18", num_classes=10, input_shape=(1, 32, 32)).eval()
    expected = model(IMAGES)
    assert expected.shape == (4, 10)
    applied: Any = pw.apply_(model, pw.RoundToNearest(), data=[IMAGES])
    assert applied.metrics["folded_batchnorms"] >= 1
    assert float((model(IMAGES) - expected).norm() / expected.norm()) < 0.1


def test_weights_come_from_the_seed() -> None:
    one, same, other = (pw.create_model("timm:resnet18", seed=seed).eval() for seed in (0, 0, 1))
    images = IMAGES.expand(-1, 3, -1, -1)
    assert one(images).equal(same(images))
    assert not one(images).equal(other(images))


def test_names() -> None:
    assert model_identity("timm:resnet18").startswith("timm:resnet18 ")  # and the version
    assert holds_weights("timm:resnet18", {"pretrained": True})
    assert not holds_weights("timm:resnet18", {})
    with pytest.raises(RecipeError, match="has no model 'resnet81'; did you mean 'resnet18'"):
        model_builder("timm:resnet81")
    with pytest.raises(RecipeError, match=r"'timm:resnet18' cannot be made with .*'wdith': 3.*TypeError"):
        pw.create_model("timm:resnet18", wdith=3)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r"'timm' is needed .*pennyweight\[timm\]"):
        model_builder("timm:resnet18")
