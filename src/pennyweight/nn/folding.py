"""`fold_batchnorm_`: melt a trained batch norm into the weighted layer before it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from pennyweight.errors import MethodError
from pennyweight.nn.calling import Batch
from pennyweight.nn.execution import execution_of
from pennyweight.nn.execution.finders import flow_by_fx
from pennyweight.nn.execution.kinds import NORMS
from pennyweight.nn.gemm import WEIGHTED, GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear
from pennyweight.nn.surgery import swap_modules_


def fold_batchnorm_(model: nn.Module, batch: Batch | None = None) -> list[tuple[str, str]]:
    """Fold each batch norm, with its running statistics, into the layer whose output only it reads.

    The batch norm's place is taken by `nn.Identity`. The model must afterwards only be used for inference.

    Args:
        batch: an example; with it, models that torch.fx cannot trace are folded by what torch.export or hooks tell.

    Returns:
        (layer, batch norm) name pairs that were folded; a batch norm that follows no single weighted layer stays.

    Raises:
        MethodError: the model cannot be traced, or a layer's slots are filled already (fold before quantizing).
    """
    modules = dict(model.named_modules())
    if not any(isinstance(module, NORMS) for module in modules.values()):
        return []
    folded = [(layer, norm) for layer, norm in _pairs(model, batch) if _fold(layer, modules[layer], modules[norm])]
    swap_modules_(model, {norm: nn.Identity() for _, norm in folded})
    return folded


def _pairs(model: nn.Module, batch: Batch | None) -> Sequence[tuple[str, str]]:
    try:
        return flow_by_fx(model).norms()
    except MethodError:
        if batch is None:
            raise
        return execution_of(model, batch).norms


def _fold(name: str, layer: nn.Module, norm: nn.Module) -> bool:
    """Fold one pair in float64; False when the batch norm keeps no running statistics."""
    assert isinstance(norm, NORMS)
    if not isinstance(layer, WEIGHTED):
        return False  # a transposed convolution or an embedding keeps its batch norm
    if norm.running_mean is None or norm.running_var is None:
        return False
    if isinstance(layer, GemmLinear | GemmConv1d | GemmConv2d | GemmConv3d) and layer.slots.filled:
        raise MethodError(f"layer {name!r} holds {layer.slots.filled}: fold batch norm before filling slots")
    weight = layer.weight.detach().double()
    bias = None if layer.bias is None else layer.bias.detach().double()
    mean, var = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    fuse: Any = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    weight, bias = fuse(weight, bias, mean, var, norm.eps, gamma, beta)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.empty_like(norm.running_mean))
        layer.bias.copy_(bias)
    return True
