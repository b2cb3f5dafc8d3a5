"""Packed linear layers in a model: which are packed, and that they compute nearly what the rounded ones do."""

import copy

import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.models import generate
from pennyweight.nn.weight_only import WeightOnlyLinear, pack_weight_only_


@pytest.mark.parametrize(("bits", "granularity"), [(4, "group:32"), (4, "channel"), (8, "channel"), (8, "tensor")])
@torch.no_grad()
def test_it_computes_nearly_the_same(bits: int, granularity: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(70, 50), nn.ReLU(), nn.Linear(50, 9, bias=False)).eval()
    x = torch.randn(4, 70)
    pw.apply_(model, pw.RoundToNearest(weights=f"int{bits}", activations=None, granularity=granularity))
    expected = model(x)
    assert pack_weight_only_(model) == ["0", "2"]
    assert float((model(x) - expected).norm() / expected.norm()) < 0.01
    assert copy.deepcopy(model)(x).equal(model(x))


def test_only_weight_only_layers_are_packed() -> None:
    x = torch.randn(4, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    pw.apply_(model, pw.RoundToNearest(weights="int4", activations=None, include=("0",)))
    pw.apply_(model, pw.RoundToNearest(include=("1",)), data=[x])
    assert pack_weight_only_(model) == ["0"]
    assert [type(layer) is WeightOnlyLinear for layer in model] == [True, False, False]
    with pytest.raises(MethodError, match="no linear layer has weights of 4 or 8 bits"):
        pack_weight_only_(nn.Sequential(nn.Linear(3, 3)))
    other = nn.Sequential(nn.Linear(8, 8))
    pw.apply_(other, pw.RoundToNearest(weights="int4", activations=None, granularity="group:8"))
    with pytest.raises(MethodError, match="no linear layer"):
        pack_weight_only_(other)


def test_a_decoder_generates_on_packed_weights() -> None:
    model = pw.create_model("decoder", vocab_size=20, width=32, depth=1, heads=2, tied=True).eval()
    pw.apply_(model, pw.RoundToNearest(weights="int4", activations=None, granularity="group:32"))
    assert len(pack_weight_only_(model)) == 7
    tokens = generate(model, torch.tensor([[1, 2]]), 5)  # type: ignore[arg-type]
    assert tokens.shape == (1, 7)
