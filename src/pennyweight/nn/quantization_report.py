"""`quantization_report`: what each quantizer of a model does to the tensor it meets, as rows of a table."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.chain import SlotChain, SlotContent

Row = dict[str, float | int | str]


def tensor_change(x: Tensor, q: Tensor) -> dict[str, float]:
    """How a quantized tensor differs from the tensor itself.

    Args:
        x: the values.
        q: their quantized values, of the same shape.

    Returns:
        saturated: percent of values beyond the ends of q by more than half the smallest distance of its values;
        zero: percent of zeros of q; underflow: percent of values that are not zero and became it; cosine: of the angle
        between both, which a Gaussian tensor and a grid of step d keep at (1 + d^2 / 12 sigma^2)^-1/2.

    Example:
        >>> tensor_change(torch.tensor([0.1, 1.0, -5.0]), torch.tensor([0.0, 1.0, -1.0]))["underflow"] > 33
        True
    """
    if x.numel() == 0:
        return {"saturated": 0.0, "zero": 0.0, "underflow": 0.0, "cosine": 1.0}
    a, b = x.detach().double().flatten(), q.detach().double().flatten()
    levels = b.unique()
    half = float(levels.diff().min()) / 2 if levels.numel() > 1 else 0.0
    beyond = (a > levels[-1] + half) | (a < levels[0] - half)
    norm = float(a.norm() * b.norm())
    cosine = float(a @ b) / norm if norm > 0 else float(torch.equal(a, b))
    return {
        "saturated": 100 * float(beyond.double().mean()),
        "zero": 100 * float((b == 0).double().mean()),
        "underflow": 100 * float(((b == 0) & (a != 0)).double().mean()),
        "cosine": cosine,
    }


def quantization_report(model: nn.Module, batch: Tensor, loss: Callable[[Tensor], Tensor] | None = None) -> list[Row]:
    """A row for each filled slot of each layer: bits, percent saturated, zero and underflown, and the cosine.

    The model, its gradients and its counters of random draws stay as they are.

    Args:
        batch: inputs of the model.
        loss: of the outputs, a scalar; with it, quantized gradients have rows too.

    Source: arXiv 1805.11046, section 2, for the cosine.
    """
    model = copy.deepcopy(model).eval()
    layers = {fqn: module for fqn, module in model.named_modules() if isinstance(module, GemmModule)}
    inputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def keep_input(fqn: str) -> Any:
        return lambda _layer, args: inputs.update({fqn: args[0].detach()})

    def keep_gradient(fqn: str) -> Any:
        return lambda _layer, _grads, grad_outputs: gradients.update({fqn: grad_outputs[0].detach()})

    with ExitStack() as stack, torch.enable_grad():
        for fqn, layer in layers.items():
            stack.enter_context(layer.register_forward_pre_hook(keep_input(fqn)))
            stack.enter_context(layer.register_full_backward_hook(keep_gradient(fqn)))
        y = model(batch.clone().requires_grad_(batch.is_floating_point()))
        if loss is not None:
            loss(y).backward()
    rows: list[Row] = []
    for fqn, layer in layers.items():
        tensors = {
            "weight": layer.weight.detach(),
            "input": inputs.get(fqn),
            "grad_output_input": gradients.get(fqn),
            "grad_output_update": gradients.get(fqn),
        }
        for slot, x in tensors.items():
            chain = getattr(layer.slots, slot)
            assert isinstance(chain, SlotChain)
            if x is not None and chain.quantizer is not None:
                rows.append({"layer": fqn, "slot": slot, "bits": _bits(chain.quantizer), **_change(chain, x)})
    return rows


@torch.no_grad()
def _change(chain: SlotChain, x: Tensor) -> dict[str, float]:
    return tensor_change(x, chain(x))


def _bits(content: SlotContent) -> int:
    format = getattr(content, "format", None)
    return 1 if format is None else int(format.bits)  # binary contents have no format of their own
