"""`apply_`: all claims checked before the first change, records kept, generators not spent."""

import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.methods import applications


def test_a_sequence_gives_a_list_and_records_in_order() -> None:
    model = pw.create_model("mlp")
    records = pw.apply_(model, [pw.GhostBatchNorm(), pw.BNN()])
    assert isinstance(records, list)
    assert [type(record.method).__name__ for record in records] == ["GhostBatchNorm", "BNN"]
    assert applications(model) == tuple(records)
    assert applications(pw.create_model("mlp")) == ()


def test_formats_by_layer_in_one_call_with_a_generator() -> None:
    x = torch.randn(32, 1, 8, 8)
    model = pw.create_model("mlp", hidden=(16, 16)).eval()
    edge, inner = ("@first", "@last"), {"weights": "int4", "activations": "uint4"}
    pw.apply_(
        model,
        [pw.RoundToNearest(include=edge), pw.RoundToNearest(exclude=edge, **inner)],  # type: ignore[arg-type]
        data=(part for part in x.split(8)),
    )
    bits = {name: str(m.slots.weight.quantizer.format) for name, m in model.named_modules() if hasattr(m, "slots")}
    assert bits == {"linear1": "int8", "linear2": "int4", "linear3": "int8"}


def test_a_collision_in_the_second_method_leaves_the_first_undone() -> None:
    model = pw.create_model("mlp")
    with pytest.raises(MethodError, match=r"BNN and BNN both want 'gemm\.input\.quantize' of module 'linear2'"):
        pw.apply_(model, [pw.BNN(include=("linear2",)), pw.BNN(include=("linear*",))])
    assert applications(model) == ()
    assert type(model.linear2) is nn.Linear


def test_weights_and_activations_may_come_from_two_methods() -> None:
    model = pw.create_model("mlp").eval()
    x = torch.randn(8, 1, 8, 8)
    pw.apply_(model, pw.RoundToNearest(activations=None))
    pw.apply_(model, pw.RoundToNearest(weights=None, activations="uint8"), data=[x])
    assert set(model.linear2.slots.filled) == {"weight", "input"}


def test_empty_sequence_does_nothing() -> None:
    assert pw.apply_(pw.create_model("mlp"), []) == []


def test_bare_layer_is_wrapped_first() -> None:
    with pytest.raises(MethodError, match="the model itself is the Linear"):
        pw.apply_(nn.Linear(2, 2), pw.BNN())
