"""Verbs on the masks of a whole model: write them into the weights, and ask how much they still change."""

import torch
from torch import nn

from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.masked import ScheduledMask


def weight_masks(model: nn.Module) -> dict[str, ScheduledMask]:
    """The masks in the model's weight slots, by layer."""
    found = {}
    for fqn, layer in model.named_modules():
        content = layer.slots.weight["mask"] if isinstance(layer, GemmModule) and "mask" in layer.slots.weight else None
        if isinstance(content, ScheduledMask):
            found[fqn] = content
    return found


def flip_rates(model: nn.Module) -> dict[str, float]:
    """The share of each layer's mask that its last renewal changed: high where training has not settled."""
    return {fqn: float(mask.flip_rate) for fqn, mask in weight_masks(model).items()}


@torch.no_grad()
def fold_masks_(model: nn.Module) -> nn.Module:
    """Write every mask into its weights as zeros and empty its slot; the model computes as before.

    Returns:
        The model.
    """
    for fqn, mask in weight_masks(model).items():
        layer = model.get_submodule(fqn)
        assert isinstance(layer, GemmModule)
        # A parameter of its own: another layer may share the weight and not the mask.
        layer.weight = nn.Parameter(torch.where(mask.mask, layer.weight, 0.0), layer.weight.requires_grad)
        del layer.slots.weight["mask"]
    return model
