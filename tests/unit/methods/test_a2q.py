"""`A2Q` and `IntegerAccumulator`: layers that sum codes in few bits, trained within the bound, exported alike."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from oracles import convolution
from oracles import integer_accumulate as oracle
from pennyweight.errors import MethodError, NumericsError

X = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, groups=2), nn.Flatten(), nn.Linear(16, 5)
    ).eval()


def codes_of(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return layer.slots.input.codes(x)[0], layer.slots.weight.codes(layer.weight)[0].detach()


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_a_quantized_convolution_sums_in_order(overflow: Any) -> None:
    model = net()
    pw.apply_(model, pw.RoundToNearest(weights="int4", activations="uint4"), data=[X])
    exact = model(X)
    wide = copy.deepcopy(model)
    pw.apply_(wide, pw.IntegerAccumulator(bits=16, overflow=overflow))
    assert torch.equal(wide(X), exact), "16 bits hold the sums of these codes"
    pw.apply_(model, pw.IntegerAccumulator(bits=8, overflow=overflow))
    layer: Any = model[0]
    x, weight = codes_of(layer, X[:2])
    expected = torch.zeros(2, 4, 6, 6)
    for index, seen, weights in convolution.pairs(x, weight, (1, 1), (1, 1), (1, 1), 1):
        pairs = [int(value) for value in seen], [int(value) for value in weights]
        expected[index] = oracle.dot(*pairs, 8, overflow)
    scale = layer.slots.input.codes(X)[1] * layer.slots.weight.codes(layer.weight)[1]
    expected = expected * scale.reshape(1, -1, 1, 1) + layer.bias[:, None, None]
    assert torch.equal(layer(X[:2]), expected)
    assert not torch.equal(model(X), exact)


def test_layers_without_codes_are_refused() -> None:
    model = net()
    pw.apply_(model, pw.RoundToNearest(activations=None))
    with pytest.raises(MethodError, match="layer '0' does not multiply integer codes: quantize"):
        pw.apply_(model, pw.IntegerAccumulator())
    with pytest.raises(MethodError, match="bits=1: an integer accumulator takes 2 to 32"):
        pw.IntegerAccumulator(bits=1)


def test_training_stays_within_the_bound_and_nothing_overflows() -> None:
    model = net()
    record = pw.apply_(model, pw.A2Q(accumulator_bits=14, activations="uint8"), data=[X])
    assert not isinstance(record, list)
    assert float(record.metrics["0.zero_codes"]) > 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    handle = pw.nn.attach_projections(optimizer, model)
    before = copy.deepcopy(model.state_dict())
    model.train()
    for _ in range(5):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    handle.remove()
    assert not torch.equal(before["0.weight"], model.state_dict()["0.weight"])
    for layer in model.eval():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            codes = layer.slots.weight.codes(layer.weight)[0].detach()  # type: ignore[union-attr,operator]
            assert float(codes.abs().flatten(1).sum(1).max()) * 255 <= 2**13 - 1
            assert codes.abs().sum() > 0
    free = copy.deepcopy(model)
    for layer in free:
        if hasattr(layer, "slots"):
            layer.slots.accumulator = None  # type: ignore[union-attr]
    assert torch.equal(free(X), model(X)), "no sum ever left 14 bits"


def test_a_forgotten_projection_is_told() -> None:
    model = net()
    pw.apply_(model, pw.A2Q(accumulator_bits=14), data=[X])
    with torch.no_grad():
        model[0].weight.mul_(3)
    with pytest.raises(NumericsError, match=r"call pennyweight\.nn\.project_\(model\) after each change"):
        model(X)
    pw.nn.project_(model)
    model(X)


def test_constant_and_zero_filters() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[0], model[0].weight[1] = 0.0, 5.0  # type: ignore[index,operator]
    pw.apply_(model, pw.A2Q(accumulator_bits=12), data=[torch.rand(2, 4)])
    y = model(torch.rand(2, 4))
    assert bool(torch.isfinite(y).all())


def test_an_artifact_sums_alike(tmp_path: Path) -> None:
    narrow = pw.IntegerAccumulator(bits=9, overflow="saturate")
    for methods in ([pw.A2Q(accumulator_bits=14)], [pw.RoundToNearest(weights="int4"), narrow]):
        model = net()
        pw.apply_(model, methods, data=[X])
        artifact = pw.export(model, tmp_path / "net.pw", example_input=X)
        assert torch.equal(pw.load(tmp_path / "net.pw").model()(X), model(X))
        assert ", sums int" in artifact.numerics


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"weights": "uint8"}, "signed format"), ({"accumulator_bits": 8}, "accumulator_bits=8"),
     ({"accumulator_bits": 40}, "bits=40")],
)  # fmt: skip
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        pw.A2Q(**settings)
