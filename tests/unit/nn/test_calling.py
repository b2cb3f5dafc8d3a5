"""Batches and outputs of models of any make, and the words where a model and a batch do not fit."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import MethodError, NumericsError
from pennyweight.nn.calling import call, output_tensor

X = torch.ones(2, 4)
LABELS = torch.tensor([1, 0])


@dataclass
class Output:
    """As Hugging Face's models return."""

    logits: Tensor


@pytest.mark.parametrize("output", [X, (X, LABELS), [X], Output(X), {"logits": X}, {"last_hidden_state": X}])
def test_the_tensor_that_stands_for_an_output(output: Any) -> None:
    assert output_tensor(output) is X


@pytest.mark.parametrize(("output", "name"), [({"y": X}, "dict"), (object(), "object"), ((), "tuple"), (None, "None")])
def test_no_such_tensor(output: Any, name: str) -> None:
    with pytest.raises(MethodError, match=rf"the model returns a {name}.*, expected a tensor, logits, or a tuple with"):
        output_tensor(output)


def decoder() -> nn.Module:
    return pw.create_model("decoder", vocab_size=16, width=8, heads=2, depth=1)


@pytest.mark.parametrize(
    ("model", "batch", "error"),
    [
        (
            nn.Linear(4, 2),
            LABELS,
            r"inputs of torch\.int64, shape \(2,\): .*and it has none: pass float inputs, without lab",
        ),
        (nn.Linear(4, 2), X.byte(), r"inputs of torch\.uint8, shape \(2, 4\): .*whole numbers are for embeddings"),
        (nn.Linear(4, 2).half(), X, r"inputs of torch\.float32.*it is in torch\.float16: convert the model or"),
        (nn.Linear(5, 2), X, r"inputs of torch\.float32, shape \(2, 4\): .*cannot be multiplied \(2x4 and 5x2\)$"),
        (
            decoder(),
            X,
            ".*it has an embedding, 'embedding', as models of text have: these take whole numbers, the tokens",
        ),
        (decoder(), LABELS[None] + 98, "; embedding 'embedding' has 16 rows, and the inputs go to 99"),
        (
            nn.Linear(4, 2),
            {"pixels": X},
            r"pixels of torch\.float32.*TypeError: .*unexpected keyword argument 'pixels'",
        ),
    ],
)
def test_a_batch_that_does_not_fit(model: nn.Module, batch: Any, error: str) -> None:
    with pytest.raises(MethodError, match=error) as found:
        call(model, batch)
    assert str(found.value).startswith("the model refuses ")


def test_errors_of_our_own_stay_what_they_are() -> None:
    class Checked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise NumericsError("infinite")

    with pytest.raises(NumericsError, match=r"^infinite$"):
        call(Checked(), X)
