"""Small units and nets that solvers are tried on."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.methods import Method
from pennyweight.methods.reconstruction.samples import StoredSamples
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.methods.rounding import Ranges, round_layer_
from pennyweight.nn.gemm import GemmModule, as_gemm
from pennyweight.nn.slots.integer import IntegerWeight
from pennyweight.numerics.affine import quantize
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key

KEY = Key(0).fold("test")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(n: int, features: int, seed: int = 0) -> Tensor:
    """Inputs whose features depend on each other, as those of layers do; for white ones round to nearest is best."""
    return draw(n, features, seed=seed) @ draw(features, features, seed=seed + 7) + 0.5 * draw(n, 1, seed=seed + 8)


def unit_of(
    layer: nn.Module, x: Tensor, *, bits: int = 4, input_bits: int | None = 4, ranges: Ranges | None = None
) -> tuple[Unit, StoredSamples]:
    """A layer rounded to nearest, and what it should give in float."""
    with torch.no_grad():
        targets = layer(x)
    gemm = as_gemm(layer)
    input = None if input_bits is None else IntFormat(input_bits)
    round_layer_(gemm, IntFormat(bits), input, x, ranges or Ranges())
    return Unit(name="layer", module=gemm, layers={"layer": gemm}), StoredSamples([(x, targets)])


def linear_unit(x: Tensor, weight: Tensor, *, bias: bool = True, **settings: Any) -> tuple[Unit, StoredSamples]:
    torch.manual_seed(0)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return unit_of(layer, x, **settings)


def codes_of(layer: GemmModule) -> Tensor:
    """Integer codes of the layer's weight as it is now."""
    content = layer.slots.weight.quantizer
    assert isinstance(content, IntegerWeight)
    return quantize(layer.weight.detach(), content.affine)


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv2(self.conv1(x).relu())).relu()


class BlockNet(nn.Module):
    """A stem, two residual blocks and a head: four units of blocks, six of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.block1, self.block2 = Block(6), Block(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.stem(x).relu()))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def block_net() -> nn.Module:
    torch.manual_seed(0)
    return BlockNet().eval()


IMAGES = draw(12, 3, 8, 8, seed=5)


def state_after(model: nn.Module, method: Method, folder: Path | None = None) -> dict[str, Tensor]:
    """What the method makes of a copy of the model."""
    model = copy.deepcopy(model)
    pw.apply_(model, method, data=[IMAGES], folder=folder)
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key
