"""A quantized layer's state as a plain record, to switch layers between solutions found earlier."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.numerics.affine import AffineParameters


@dataclass(frozen=True, eq=False)
class LayerState:
    """All that a solver decides about a layer.

    Args:
        weight: float, on the grid where there is one.
        bias: float, or None where the layer has none.
        weight_parameters: of its codes; None for a float weight.
        input_parameters: of its input's codes; None for a float input.
    """

    weight: Tensor
    bias: Tensor | None
    weight_parameters: AffineParameters | None
    input_parameters: AffineParameters | None


def state_of(layer: GemmModule) -> LayerState:
    """A copy of what the layer holds."""
    weight, input = layer.slots.weight.quantizer, layer.slots.input.quantizer
    assert weight is None or isinstance(weight, IntegerWeight)
    assert input is None or isinstance(input, IntegerInput)
    return LayerState(
        weight=layer.weight.detach().clone(),
        bias=None if layer.bias is None else layer.bias.detach().clone(),
        weight_parameters=None if weight is None else weight.affine,
        input_parameters=None if input is None else input.affine,
    )


@torch.no_grad()
def apply_state_(layer: GemmModule, state: LayerState) -> None:
    """Put a state into the layer, in the place of what its slots hold."""
    layer.weight.copy_(state.weight)
    if state.bias is not None:
        layer.bias.copy_(state.bias)
    for slot in (layer.slots.weight, layer.slots.input):
        if "quantize" in slot:
            slot.pop("quantize")
    if state.weight_parameters is not None:
        layer.slots.fill("weight", IntegerWeight(state.weight_parameters))
    if state.input_parameters is not None:
        layer.slots.fill("input", IntegerInput(state.input_parameters))
