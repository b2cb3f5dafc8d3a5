"""`fold_batchnorm_`: melt a trained batch norm into the weighted layer before it."""

from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from pennyweight.errors import MethodError
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear
from pennyweight.nn.surgery import swap_modules_

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LeafTracer(fx.Tracer):
    """Traces a model down to torch's and our layers, which stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Our own modules are leaves like torch's."""
        return m.__module__.startswith("pennyweight.nn.") or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.Graph:
    """The model's graph of module calls.

    Raises:
        MethodError: the forward function branches on tensor values, so that there is no single graph.
    """
    try:
        return LeafTracer().trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise MethodError(
            f"{type(model).__name__} cannot be traced ({error}): its forward function branches on tensor values or "
            f"sizes; move the branch into a module of its own or write it with torch functions"
        ) from error


def fold_batchnorm_(model: nn.Module) -> list[tuple[str, str]]:
    """Fold each batch norm, with its running statistics, into the layer whose output only it reads.

    The batch norm's place is taken by `nn.Identity`. The model must afterwards only be used for inference.

    Returns:
        (layer, batch norm) name pairs that were folded; a batch norm that follows no single weighted layer stays.

    Raises:
        MethodError: the model cannot be traced, or a layer's slots are filled already (fold before quantizing).
    """
    modules = dict(model.named_modules())
    graph = trace(model)
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    folded: list[tuple[str, str]] = []
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], _BATCH_NORMS):
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        layer, norm = modules[str(source.target)], modules[node.target]
        once = calls[str(source.target)] == 1 and calls[node.target] == 1
        if isinstance(layer, _WEIGHTED) and once and _fold(str(source.target), layer, norm):
            folded.append((str(source.target), node.target))
    swap_modules_(model, {norm: nn.Identity() for _, norm in folded})
    return folded


def _fold(name: str, layer: nn.Module, norm: nn.Module) -> bool:
    """Fold one pair in float64; False when the batch norm keeps no running statistics."""
    assert isinstance(norm, _BATCH_NORMS)
    assert isinstance(layer, _WEIGHTED)
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
