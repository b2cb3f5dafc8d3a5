"""Every kind of quantized layer, in int8 and int4, for speed and for size: ONNX Runtime within a step of the module."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.artifact.onnx import OnnxExport, verify_onnx

onnx = pytest.importorskip("onnx")
GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.relu(self.conv2(self.relu(self.conv1(x))) + x)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 48)
        self.down = nn.Linear(48, 8)

    def forward(self, x: Any) -> Any:
        return self.down(torch.relu(self.up(x)))


def conv(**settings: Any) -> nn.Module:
    """A convolution between two others, so that its output is codes too."""
    first, last = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 5, 1)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 8, 3, **settings), nn.ReLU(), last)


def shapes() -> dict[str, tuple[nn.Module, Tensor]]:
    image = rand(16, 4, 9, 9)
    return {
        "conv": (conv(padding=1), image),
        "depthwise": (conv(padding=1, groups=8), image),
        "grouped": (conv(padding=1, groups=2), image),
        "strided": (conv(stride=2), image),
        "dilated": (conv(dilation=2, padding="same"), image),
        "reflect": (conv(padding=1, padding_mode="reflect"), image),
        "no bias": (conv(padding=1, bias=False), image),
        "conv1d": (nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 3)), rand(16, 4, 20)),
        "conv3d": (nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3)), rand(8, 2, 5, 5, 5)),
        "linear": (nn.Sequential(nn.Linear(33, 40), nn.ReLU(), nn.Linear(40, 7)), rand(32, 33)),
        "residual": (Residual(), image),
        "max pool": (nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 4, 1)), image),
        "avg pool": (nn.Sequential(nn.Conv2d(4, 8, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(8, 4, 1)), image),
        "tokens": (Tokens(), rand(8, 10, 16)),
    }


SHAPES = shapes()


def exported(model: nn.Module, x: Tensor, path: Path, method: pw.Method, **settings: Any) -> OnnxExport:
    pw.apply_(model.eval(), method, data=[x])
    return pw.export_onnx(model, path, example_input=x[:3], samples=x, **settings)


def copied(name: str) -> tuple[nn.Module, Tensor]:
    import copy

    model, x = SHAPES[name]
    return copy.deepcopy(model), x


@pytest.mark.parametrize(("name", "bits", "deploy"), list(product(SHAPES, (8, 4), ("exact", "size"))))
def test_within_a_step(name: str, bits: int, deploy: Any, tmp_path: Path) -> None:
    model, x = copied(name)
    method = pw.RoundToNearest(weights=f"int{bits}", activations=f"uint{bits}", granularity="channel")
    made = exported(model, x, tmp_path / "net.onnx", method, deploy=deploy)
    assert made.check is not None
    assert made.check.passed
    assert made.check.within_step == 1.0, made.check
    stored = {tensor.data_type for tensor in onnx.load(made.path).graph.initializer}
    assert (onnx.TensorProto.INT4 in stored) == (deploy == "size" and bits == 4)
    batch_of_five = verify_onnx(model, made.path, x[:5])
    assert batch_of_five.passed


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:16", "group:10"])
@pytest.mark.parametrize("activations", ["int8", "int5", None])
def test_granularities_of_linear(granularity: str, activations: str | None, tmp_path: Path) -> None:
    for name, deploy in product(("linear", "tokens"), ("exact", "size")):
        model, x = copied(name)
        method = pw.RoundToNearest(weights="int4", activations=activations, granularity=granularity)
        made = exported(model, x, tmp_path / "net.onnx", method, deploy=deploy)
        assert made.check is not None
        assert made.check.within_step == 1.0, (name, deploy, made.check)
