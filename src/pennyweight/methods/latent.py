"""What methods with latent weights of [-1, 1] share: their spread and learning rate, and which rectifiers must go."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pennyweight.errors import MethodError
from pennyweight.nn.tracing import trace

# Activations whose output has one sign, or a shape a sign makes pointless: the quantization takes their place.
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Tanh)
_FUNCTIONAL_RECTIFIERS = (
    F.relu,
    torch.relu,
    F.relu6,
    F.gelu,
    F.silu,
    F.leaky_relu,
    F.hardswish,
    torch.sigmoid,
)
_RECTIFIER_METHODS = ("relu", "relu_", "sigmoid")


def rectifiers(model: nn.Module) -> list[str]:
    """Names of the modules that hard tanh is to replace where activations have both signs."""
    return [fqn for fqn, module in model.named_modules() if isinstance(module, _RECTIFIERS)]


def glorot_lr_scale(weight: Tensor) -> float:
    """sqrt((fan_in + fan_out) / 1.5), the factor of a latent weight's learning rate in the papers' code."""
    fan_in = weight[0].numel()
    fan_out = weight.shape[0] * weight[0, 0].numel()
    return math.sqrt((fan_in + fan_out) / 1.5)


@torch.no_grad()
def spread_latent_(weight: nn.Parameter) -> None:
    """Scale to the standard deviation of U(-1, 1) and clip, keeping every sign.

    An initialisation of any spread thus starts as the paper's does, and a trained layer keeps the signs it learnt.
    """
    rms = weight.square().mean().sqrt()
    if rms > 0:
        weight.mul_(3**-0.5 / rms).clamp_(-1.0, 1.0)


def refuse_functional_rectifiers(model: nn.Module) -> None:
    """A rectifier called as a function cannot be swapped, and the sign of its output would always be +1.

    Raises:
        MethodError: naming the call.
    """
    try:
        graph = trace(model)
    except MethodError:
        return  # models that cannot be traced are taken on trust; their modules are still swapped
    for node in graph.nodes:
        if (node.op == "call_function" and node.target in _FUNCTIONAL_RECTIFIERS) or (
            node.op == "call_method" and node.target in _RECTIFIER_METHODS
        ):
            raise MethodError(
                f"the model calls {getattr(node.target, '__name__', node.target)}() as a function ({node.name!r}): "
                f"the sign of its output is always +1; make it a module, such as self.act = torch.nn.ReLU()"
            )
