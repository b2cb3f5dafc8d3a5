"""`fold_batchnorm_`: melt a trained batch norm into the weighted layer before it."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from pennyweight.errors import MethodError
from pennyweight.nn.calling import Batch, call
from pennyweight.nn.execution import execution_of
from pennyweight.nn.execution.finders import flow_by_fx
from pennyweight.nn.execution.kinds import NORMS
from pennyweight.nn.gemm import WEIGHTED, GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear
from pennyweight.nn.modes import in_mode
from pennyweight.nn.surgery import swap_modules_
from pennyweight.nn.tracing import trace


def fold_batchnorm_(model: nn.Module, batch: Batch | None = None) -> list[tuple[str, str]]:
    """Fold each batch norm, with its running statistics, into the layer whose output only it reads.

    The batch norm's place is taken by `nn.Identity`. The model must afterwards only be used for inference.

    Args:
        batch: an example; with it, models that torch.fx cannot trace are folded by what torch.export or hooks tell,
            and linear layers over tokens are told from others.

    Returns:
        (layer, batch norm) name pairs that were folded. A batch norm stays that follows no single weighted layer, or a
        layer whose weight something else reads too, or normalizes tokens instead of a linear layer's outputs.

    Raises:
        MethodError: the model cannot be traced, or a layer's slots are filled already (fold before quantizing).
    """
    modules = dict(model.named_modules())
    if not any(isinstance(module, NORMS) for module in modules.values()):
        return []
    dims = _output_dims(model, batch)
    pairs = [
        (layer, norm)
        for layer, norm in _pairs(model, batch)
        if _can_fold(layer, modules[layer], modules[norm], dims.get(layer, 2)) and not _read_elsewhere(model, layer)
    ]
    for layer, norm in pairs:
        _fold(modules[layer], modules[norm])
    swap_modules_(model, {norm: nn.Identity() for _, norm in pairs})
    return pairs


def _pairs(model: nn.Module, batch: Batch | None) -> Sequence[tuple[str, str]]:
    try:
        return flow_by_fx(model).norms()
    except MethodError:
        if batch is None:
            raise
        return execution_of(model, batch).norms


@torch.no_grad()
def _output_dims(model: nn.Module, batch: Batch | None) -> dict[str, int]:
    """Dimensions of each linear layer's output on the example; nothing without one."""
    found: dict[str, int] = {}
    if batch is None:
        return found

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_hook(lambda _layer, _args, output: found.update({name: output.dim()}))

    with ExitStack() as stack, in_mode(model, training=False):
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear):
                stack.enter_context(watch(name, layer))
        call(model, batch)
    return found


def _can_fold(name: str, layer: nn.Module, norm: nn.Module, dims: int) -> bool:
    assert isinstance(norm, NORMS)
    if not isinstance(layer, WEIGHTED):
        return False  # a transposed convolution or an embedding keeps its batch norm
    if norm.running_mean is None or norm.running_var is None:
        return False
    if isinstance(layer, GemmLinear | GemmConv1d | GemmConv2d | GemmConv3d) and layer.slots.filled:
        raise MethodError(f"layer {name!r} holds {layer.slots.filled}: fold batch norm before filling slots")
    # Over tokens a batch norm's channels are the tokens, a linear layer's the last dimension.
    return not isinstance(layer, nn.Linear) or (dims == 2 and norm.num_features == layer.out_features)


def _read_elsewhere(model: nn.Module, name: str) -> bool:
    """Whether another module holds the layer's weight or bias, or the forward reads them itself."""
    layer = model.get_submodule(name)
    own = list(layer.parameters(recurse=False))
    for other in model.modules():
        if other is not layer and any(value is mine for value in other.parameters(recurse=False) for mine in own):
            return True
    with suppress(MethodError):
        read = {str(node.target) for node in trace(model).nodes if node.op == "get_attr"}
        return any(target.rpartition(".")[0] == name for target in read)
    return False


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """Fold one pair in float64."""
    assert isinstance(norm, NORMS)
    assert isinstance(layer, WEIGHTED)
    assert norm.running_mean is not None
    assert norm.running_var is not None
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
