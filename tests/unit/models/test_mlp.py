"""The perceptron: layers, order, options."""

import pytest
import torch
from torch import nn

from pennyweight.errors import RecipeError
from pennyweight.models import MLP


def test_layers_are_linear_norm_activation() -> None:
    names = [name for name, _ in MLP(hidden=(16, 8), dropout=0.1, bn_output=True).named_children()]
    assert names == [
        "flatten",
        *("linear1", "bn1", "relu1", "dropout1"),
        *("linear2", "bn2", "relu2", "dropout2"),
        *("linear3", "bn3"),
    ]


def test_biases_are_where_no_norm_follows() -> None:
    with_norm, without = MLP(), MLP(batch_norm=False)
    assert [m.bias is not None for m in with_norm if isinstance(m, nn.Linear)] == [False, False, True]
    assert [m.bias is not None for m in without if isinstance(m, nn.Linear)] == [True, True, True]


def test_input_width_comes_from_the_shape_or_is_given() -> None:
    assert MLP(input_shape=(3, 4, 5)).linear1.in_features == 60
    assert MLP(in_features=7)(torch.zeros(2, 7)).shape == (2, 10)
    assert MLP(hidden=(), num_classes=4)(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("options", [{"hidden": (0,)}, {"num_classes": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_options(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="mlp"):
        MLP(**options)
