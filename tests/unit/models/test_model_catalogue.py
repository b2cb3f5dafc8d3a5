"""What every model promises: names, options, tracing, initial weights."""

import math
from typing import Any

import pytest
import torch
from torch import fx, nn

from pennyweight.errors import RecipeError
from pennyweight.models import create_model, list_models
from pennyweight.nn.tracing import trace

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (16,)},
    "mobilenet-v2": {"width": 0.25},
    "vit-tiny": {"width": 8, "patch_size": 1, "depth": 2},
}
SHAPE, LEAST = (2, 9, 11), {"mobilenet-v2": (2, 33, 32)}
IMAGE_MODELS = tuple(name for name in list_models() if name not in ("decoder", "lstm"))  # others hold to the same


def small(name: str, **options: Any) -> nn.Module:
    return create_model(
        name, input_shape=LEAST.get(name, SHAPE), num_classes=5, **{**SMALL.get(name, {"width": 4}), **options}
    )


def test_the_names() -> None:
    assert list_models() == (
        *("decoder", "lstm", "mlp", "mobilenet-v2", "resnet20", "resnet32", "resnet44", "resnet56"),
        *("vgg-small", "vit-tiny"),
    )


def test_unknown_names_and_options_are_answered() -> None:
    with pytest.raises(RecipeError, match="unknown model 'resnet-20'; did you mean 'resnet20'"):
        create_model("resnet-20")
    with pytest.raises(RecipeError, match="'mlp' has no option 'hiden'; did you mean 'hidden'"):
        create_model("mlp", hiden=(3,))
    with pytest.raises(RecipeError, match="'resnet20' has no option 'depth'"):
        create_model("resnet20", depth=32)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_symbolic_trace_computes_the_same(name: str) -> None:
    model = small(name).eval()
    x = torch.rand(3, *LEAST.get(name, SHAPE))
    traced = fx.GraphModule(model, trace(model))
    assert traced(x).equal(model(x))
    assert model(x).shape == (3, 5)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_activation_has_its_own_module_and_every_call_its_own_name(name: str) -> None:
    graph = trace(small(name))
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    assert len(called) == len(set(called))
    functions = {getattr(node.target, "__name__", "") for node in graph.nodes if node.op == "call_function"}
    assert functions <= {"add", "pad", "getitem", "scaled_dot_product_attention"}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_weights_follow_the_seed_and_not_the_global_generator(name: str) -> None:
    torch.manual_seed(1)
    first = small(name, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = small(name, seed=3).state_dict(), small(name, seed=4).state_dict()
    assert all(first[key].equal(again[key]) for key in first)
    weights = [key for key in first if first[key].dim() > 1]
    assert all(not first[key].equal(other[key]) for key in weights)


def test_weights_are_he_normal() -> None:
    model = create_model("vgg-small", width=32)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.numel() > 5000:
            wanted = math.sqrt(2 / module.weight[0].numel())
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.05)
            assert abs(module.weight.mean().item()) < wanted / 10


def test_layers_of_one_shape_start_differently() -> None:
    model = create_model("resnet20")
    assert not model.get_submodule("layer1.0.conv1").weight.equal(model.get_submodule("layer1.0.conv2").weight)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = small(name)
    model(torch.rand(4, *LEAST.get(name, SHAPE))).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
