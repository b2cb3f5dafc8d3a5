"""The multilayer perceptron: linear, batch norm, ReLU, over again."""

import math

from torch import nn

from pennyweight.errors import RecipeError
from pennyweight.models.initialization import initialize_


class MLP(nn.Sequential):
    """A perceptron over flattened images; the default fits the embedded digits.

    Layers are named linear1, bn1, relu1, dropout1, linear2, ...; the last linear layer gives the logits. Hidden linear
    layers have no bias where a batch norm follows, which would cancel it.

    Args:
        input_shape: (C, H, W) of the images.
        in_features: flattened width instead of input_shape, for inputs that are no images.
        hidden: widths of the hidden layers; empty for a linear classifier.
        num_classes: logits.
        batch_norm: put a batch norm after each hidden linear layer.
        dropout: probability of dropping a hidden unit, in [0, 1); 0 builds no dropout layers.
        bn_output: batch norm on the logits too, as binarized networks use.
        seed: of the initial weights; see `initialize_`.

    Raises:
        RecipeError: a width below 1, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int] = (1, 8, 8),
        in_features: int | None = None,
        hidden: tuple[int, ...] = (256, 256),
        num_classes: int = 10,
        batch_norm: bool = True,
        dropout: float = 0.0,
        bn_output: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        widths = [math.prod(input_shape) if in_features is None else in_features, *hidden, num_classes]
        if min(widths) < 1:
            raise RecipeError(f"mlp: widths {widths} (inputs, hidden, classes) must all be at least 1")
        if not 0 <= dropout < 1:
            raise RecipeError(f"mlp: dropout={dropout} is no probability in [0, 1)")
        self.add_module("flatten", nn.Flatten())
        for number in range(1, len(widths)):
            fan_in, fan_out = widths[number - 1 : number + 1]
            last = number == len(widths) - 1
            normalized = bn_output if last else batch_norm
            self.add_module(f"linear{number}", nn.Linear(fan_in, fan_out, bias=not normalized))
            if normalized:
                self.add_module(f"bn{number}", nn.BatchNorm1d(fan_out))
            if not last:
                self.add_module(f"relu{number}", nn.ReLU())
                if dropout:
                    self.add_module(f"dropout{number}", nn.Dropout(dropout))
        initialize_(self, seed)
