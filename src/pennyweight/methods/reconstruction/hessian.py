"""The Hessian of a layer's squared output error in a row of its weight: X^T X over what the layer sees."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pennyweight.methods.reconstruction.samples import UnitSamples
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.nn.gemm import GemmLinear, GemmModule

_UNFOLDED = 1 << 24
"""Entries of unfolded inputs at a time, 64 MiB."""


@torch.no_grad()
def input_hessians(unit: Unit, layer: GemmModule, samples: UnitSamples) -> Tensor:
    """Sum of x^T x over samples and positions, up to a factor, for each group of the layer's channels.

    The layer's inputs are taken as it multiplies them: behind its quantizer, in units of the scale.

    Args:
        unit: runs on the samples as it is now.
        layer: of the unit.

    Returns:
        (groups, columns, columns) float64; columns are the entries of a row of the flattened weight.
    """
    groups = 1 if isinstance(layer, GemmLinear) else layer.groups
    columns = layer.weight[0].numel()
    total = torch.zeros(groups, columns, columns, dtype=torch.float64, device=layer.weight.device)

    def add(_module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        x, _ = layer.slots.input.codes(args[0])
        per_sample = columns * groups * max(1, args[0][0].numel())
        for part in x.split(max(1, _UNFOLDED // per_sample)):
            rows = unfolded(layer, part)
            total.add_((rows.mT @ rows).double())

    handle = layer.register_forward_pre_hook(add)
    try:
        for x, _ in samples:
            unit.module(x)
    finally:
        handle.remove()
    return total


def unfolded(layer: GemmModule, x: Tensor) -> Tensor:
    """The layer's input as rows that its flattened weight is multiplied with: (groups, rows, columns)."""
    if isinstance(layer, GemmLinear):
        return x.reshape(1, -1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), start=2
    ):
        x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    dims = len(layer.kernel_size)
    x = x.unflatten(1, (layer.groups, -1))  # samples, groups, channels, positions ..., kernel ...
    x = x.movedim(1, 0).movedim(2, 2 + dims)  # groups, samples, positions ..., channels, kernel ...
    return x.flatten(2 + dims).flatten(1, -2)
