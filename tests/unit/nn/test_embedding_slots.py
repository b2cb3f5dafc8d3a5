"""The embedding with a weight slot: same table, rounded row by row, exported as codes."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.nn.embedding import SlottedEmbedding, as_slotted
from pennyweight.nn.slots.integer import IntegerWeight
from pennyweight.numerics.affine import affine_parameters, fake_quantize, parse_granularity
from pennyweight.numerics.formats import IntFormat, parse_format
from pennyweight.numerics.ranges import estimate_range


def table(granularity: str, bits: int = 4, rows: int = 7, width: int = 10) -> tuple[SlottedEmbedding, torch.Tensor]:
    layer = as_slotted(nn.Embedding(rows, width))
    format, parsed = parse_format(f"int{bits}"), parse_granularity(granularity)
    assert isinstance(format, IntFormat)
    weight = layer.weight.detach()
    low, high = estimate_range(weight, parsed, format, symmetric=True)
    parameters = affine_parameters(low, high, format, parsed, symmetric=True)
    layer.slots.fill("weight", IntegerWeight(parameters))
    return layer, fake_quantize(weight, parameters)


@settings(max_examples=25, deadline=None)
@given(
    granularity=st.sampled_from(["tensor", "channel", "group:4", "group:128"]),
    bits=st.integers(2, 8),
    seed=st.integers(0, 1000),
)
def test_it_looks_up_rounded_rows(granularity: str, bits: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer, rounded = table(granularity, bits)
    indices = torch.randint(0, 7, (3, 2, 5))
    torch.testing.assert_close(layer(indices), rounded[indices])


def test_empty_slots_and_the_state_dict_are_torchs() -> None:
    plain = nn.Embedding(5, 3, padding_idx=2)
    layer = as_slotted(plain)
    assert layer.weight is plain.weight
    assert list(layer.state_dict()) == ["weight"]
    indices = torch.tensor([[0, 2], [4, 1]])
    assert layer(indices).equal(plain(indices))
    assert as_slotted(layer) is layer
    assert SlottedEmbedding(5, 3).weight.shape == (5, 3)


def test_a_float_checkpoint_loads_into_a_filled_slot() -> None:
    layer, _ = table("channel")
    scale = layer.slots.weight.quantizer.scale.clone()  # type: ignore[union-attr, operator]
    layer.load_state_dict({"weight": torch.zeros(7, 10)})
    assert layer(torch.tensor([3])).equal(torch.zeros(1, 10))
    assert layer.slots.weight.quantizer.scale.equal(scale)  # type: ignore[union-attr]


def test_gradients_reach_the_rows_that_were_read() -> None:
    layer, _ = table("channel", bits=8)
    layer(torch.tensor([1, 1, 4])).sum().backward()
    grad = layer.weight.grad
    assert grad is not None
    assert grad.abs().sum(1).nonzero().flatten().tolist() == [1, 4]
    assert grad[1].mean().item() == pytest.approx(2.0, rel=1e-5)


def test_padding_takes_no_gradient() -> None:
    layer = as_slotted(nn.Embedding(4, 3, padding_idx=1))
    parameters = affine_parameters(
        -torch.ones(4), torch.ones(4), IntFormat(8), parse_granularity("channel"), symmetric=True
    )
    layer.slots.fill("weight", IntegerWeight(parameters))
    layer(torch.tensor([1, 2])).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad[1].abs().sum() == 0
    assert layer.weight.grad[2].abs().sum() > 0


def test_what_it_cannot_take() -> None:
    layer, _ = table("tensor")
    content = layer.slots.weight.quantizer
    assert content is not None
    with pytest.raises(MethodError, match="no slot 'input', only 'weight'"):
        layer.slots.fill("input", content)
    with pytest.raises(MethodError, match=r"max_norm=1\.0"):
        as_slotted(nn.Embedding(3, 2, max_norm=1.0))

    class Own(nn.Embedding):
        pass

    with pytest.raises(MethodError, match=r"cannot give a slot to .*Own"):
        as_slotted(Own(3, 2))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 8), nn.Flatten(), nn.Linear(24, 5)).eval()


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:4"])
def test_round_to_nearest_rounds_tables_and_exports_codes(granularity: str, tmp_path: Path) -> None:
    model, tokens = net(), torch.randint(0, 11, (6, 3))
    before = model(tokens)
    applied = pw.apply_(model, pw.RoundToNearest(weights="int4", activations=None, granularity=granularity))
    assert not isinstance(applied, list)
    assert applied.changed == ("0", "2")
    assert "0.weight_sqnr_db" in applied.metrics
    assert not model(tokens).equal(before)
    artifact = pw.export(model, tmp_path / "table.pw", example_input=tokens)
    assert artifact.model()(tokens).equal(model(tokens))
    row = artifact.layers[0]
    assert (row.fqn, row.kind, row.weights, row.inputs, row.shape) == ("0", "embedding", "int4", "float32", (11, 8))
    assert artifact.tensors["0.weight.codes"].numel() == 11 * 8 // 2
    assert copy.deepcopy(model)(tokens).equal(model(tokens))


def test_activations_pass_embeddings_by(tmp_path: Path) -> None:
    model, tokens = net(), torch.randint(0, 11, (6, 3))
    applied = pw.apply_(model, pw.RoundToNearest(weights=None), data=[tokens])
    assert not isinstance(applied, list)
    assert applied.changed == ("2",)
    assert "0" in applied.skipped
    assert type(model[0]) is nn.Embedding  # type: ignore[index]
    with pytest.raises(MethodError, match="only embeddings match"):
        pw.apply_(net(), pw.RoundToNearest(weights=None, include=("0",)), data=[tokens])
    float_copy = pw.export(net(), tmp_path / "float.pw", example_input=tokens)
    assert float_copy.layers[0].execution == "float"


def test_tied_weights_get_the_same_codes() -> None:
    model = pw.create_model("decoder", vocab_size=16, width=8, depth=1, heads=2, tied=True).eval()
    pw.apply_(model, pw.RoundToNearest(weights="int4", activations=None))
    table, head = model.get_submodule("embedding"), model.get_submodule("head")
    assert table.weight is head.weight
    one, two = table.slots.weight(table.weight), head.slots.weight(head.weight)  # type: ignore[operator, union-attr]
    assert one.equal(two)
