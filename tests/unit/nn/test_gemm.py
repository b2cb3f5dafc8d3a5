"""The slots of a matrix product: neutral when empty, ordered when filled, composable all at once."""

import copy
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear, as_gemm
from pennyweight.nn.slots.chain import SlotContent

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear without bias, 3-d input": (lambda: nn.Linear(6, 4, bias=False), (2, 3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1, dilation=2), (2, 3, 8, 7)),
    "conv2d same": (lambda: nn.Conv2d(3, 4, 5, padding="same"), (2, 3, 8, 7)),
    "conv2d reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 8, 7)),
    "conv2d circular": (
        lambda: nn.Conv2d(3, 4, (3, 1), padding=(1, 0), padding_mode="circular"),
        (2, 3, 8, 7),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), (2, 2, 4, 5, 3)),
}


class Halve(SlotContent):
    """A stand-in quantizer: the values 2x with a scale of one half, counting its calls."""

    stage: ClassVar[Any] = "quantize"

    def __init__(self, scale: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.5) if scale is None else scale)
        self.calls = 0

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        self.calls += 1
        scale = self.scale.reshape(-1, *[1] * (x.dim() - 1)) if self.scale.numel() > 1 else self.scale
        return x / scale, self.scale

    def forward(self, x: Tensor) -> Tensor:
        values, scale = self.codes(x)
        return values * scale


class KeepEven(SlotContent):
    """A stand-in mask: every second weight of the flattened tensor."""

    stage: ClassVar[Any] = "mask"

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.arange(x.numel()).reshape(x.shape) % 2 == 0)


class Times(SlotContent):
    """A stand-in gradient quantizer."""

    stage: ClassVar[Any] = "quantize"

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class RoundedSum(nn.Module):
    """A stand-in accumulator: results on a grid of 1/64."""

    def forward(self, product: Any, x: Tensor, weight: Tensor) -> Tensor:
        return (product(x, weight) * 64).round() / 64


def gradients(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    x = x.clone().requires_grad_()
    y = layer(x)
    g = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    y.backward(g)
    assert x.grad is not None
    grads = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    layer.zero_grad()
    return y.detach(), x.grad, grads


@pytest.mark.parametrize("name", LAYERS)
def test_empty_slots_change_nothing(name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    twin = as_gemm(copy.deepcopy(layer))
    assert isinstance(twin, type(layer))
    for ours, theirs in zip(gradients(twin, x), gradients(layer, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert list(twin.state_dict()) == list(layer.state_dict())


@pytest.mark.parametrize("name", LAYERS)
def test_filled_slots_go_through_the_same_product(name: str) -> None:
    torch.manual_seed(1)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    twin = as_gemm(copy.deepcopy(layer))
    twin.slots.fill("weight", Halve())
    twin.slots.fill("grad_output_update", Times(1.0))  # takes the custom backward
    for ours, theirs in zip(gradients(twin, x), gradients(layer, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "conv2d", "conv1d"])
def test_six_slots_at_once(name: str) -> None:
    """Mask and quantizer on the weight, quantizer on the input, both gradients and the accumulator on one layer."""
    torch.manual_seed(2)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    out_channels = layer.weight.shape[0]
    twin = as_gemm(copy.deepcopy(layer))
    twin.slots.fill("weight", Halve(torch.linspace(0.25, 2.0, out_channels)))  # quantizer first, mask second:
    twin.slots.fill("weight", KeepEven())  # the order of work is the house's, not the caller's
    twin.slots.fill("input", Halve())
    twin.slots.fill("grad_output_input", Times(3.0))
    twin.slots.fill("grad_output_update", Times(5.0))
    twin.slots.fill("accumulator", RoundedSum())
    assert list(twin.slots.weight) == ["mask", "quantize"]

    masked = copy.deepcopy(layer)
    with torch.no_grad():
        masked.weight.copy_(KeepEven()(layer.weight))
    y, grad_x, grads = gradients(twin, x)
    want_y, want_x, want = gradients(masked, x)
    assert (y - want_y).abs().max() <= 2.0 / 64  # the accumulator's grid times the largest scale
    torch.testing.assert_close(grad_x, want_x * 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads[0], KeepEven()(want[0]) * 5, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads[1], want[1])  # the bias sees the gradient itself


def test_learnable_scale_gets_its_gradient() -> None:
    torch.manual_seed(3)
    layer = as_gemm(nn.Linear(6, 4))
    scale = torch.tensor(0.5, requires_grad=True)
    content = Halve()
    content.scale = scale
    layer.slots.fill("weight", content)
    layer.slots.fill("grad_output_update", Times(1.0))
    x = torch.randn(5, 6)
    layer(x).sum().backward()
    via_slots = scale.grad
    scale.grad = None
    plain = (F.linear(x, (layer.weight / scale)) * scale + layer.bias).sum()
    plain.backward()
    torch.testing.assert_close(via_slots, scale.grad)


def test_conflicts_name_both_sides() -> None:
    layer = as_gemm(nn.Linear(2, 2))
    layer.slots.fill("weight", Halve())
    with pytest.raises(MethodError, match=r"'weight' already holds Halve.*Times"):
        layer.slots.fill("weight", Times(1.0))
    layer.slots.fill("accumulator", RoundedSum())
    with pytest.raises(MethodError, match=r"'accumulator' already holds RoundedSum"):
        layer.slots.fill("backend", RoundedSum())
    assert layer.slots.filled == {"weight": ("Halve",), "accumulator": ("RoundedSum",)}


def test_float_checkpoint_loads_into_filled_slots_and_back() -> None:
    torch.manual_seed(4)
    float_net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net = nn.Sequential(as_gemm(nn.Linear(3, 4)), nn.ReLU(), as_gemm(nn.Linear(4, 2)))
    net[0].slots.fill("weight", Halve(torch.tensor(0.125)))
    net.load_state_dict(float_net.state_dict())
    torch.testing.assert_close(net[0].weight, float_net[0].weight)
    state = net.state_dict()
    assert state["0.slots.weight.quantize.scale"] == 0.125

    other = copy.deepcopy(net)
    other[0].slots.fill("input", Halve())
    with pytest.raises(RuntimeError, match=r"0\.slots\.input\.quantize\.scale"):
        other.load_state_dict(state)  # one of the layer's slots, but not all


def test_subclasses_are_refused_and_parameters_shared() -> None:
    class Special(nn.Linear):
        pass

    with pytest.raises(MethodError, match="Special"):
        as_gemm(Special(2, 2))
    layer = nn.Conv2d(1, 1, 1).eval()
    twin = as_gemm(layer)
    assert twin.weight is layer.weight
    assert not twin.training
    assert not twin.slots.training
    assert as_gemm(twin) is twin
    for kind in (GemmLinear, GemmConv1d, GemmConv2d, GemmConv3d):
        fresh = kind(2, 2) if kind is GemmLinear else kind(2, 2, 1)
        assert not fresh.slots.filled
