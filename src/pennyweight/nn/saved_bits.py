"""What autograd keeps of a forward pass, stored in as few bits as hold it exactly.

Binary nets keep for their backward pass mostly signs, masks and sums of signs, as float32 or bytes. `save_bits_` lets
them be packed when they are saved and unpacked when they are needed; the values, and so the gradients, are the same to
the bit. Nothing here knows binary layers: any tensor of few integers is packed, everything else is kept as it is.
"""

import copy
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pennyweight.errors import MethodError
from pennyweight.numerics.compact import Compact, compact, restore


def save_bits_(model: nn.Module) -> None:
    """Let the model's forward pass, while training, save packed what is packable; a `forward` on the instance.

    Under `torch.compile` nothing is packed, since the compiler decides by itself what is kept.

    Raises:
        MethodError: the instance has a forward of its own already.
    """
    if "forward" in model.__dict__:
        raise MethodError(
            f"{type(model).__name__} has a forward of its own on the instance: save_bits would replace it; set "
            f"save_bits=False"
        )
    model.__dict__["forward"] = MethodType(_forward_saving_bits, model)


def _forward_saving_bits(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The module's own forward, with autograd's savings packed."""
    if not module.training or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return type(module).forward(module, *args, **kwargs)
    with saved_tensors_hooks(_packed, restore):
        return type(module).forward(module, *args, **kwargs)


def _packed(x: Tensor) -> Tensor | Compact:
    return x if x.is_leaf and x.requires_grad else compact(x)  # a parameter stays in memory anyhow


def saves_bits(model: nn.Module) -> bool:
    """Whether `save_bits_` was applied to the model."""
    own = model.__dict__.get("forward")
    return isinstance(own, MethodType) and own.__func__ is _forward_saving_bits


def saved_bytes(model: nn.Module, batch: Tensor) -> int:
    """Bytes autograd keeps of one forward pass in training mode: counted, not modelled.

    Memory shared by several saved tensors counts once; parameters, buffers and the batch itself do not count. The model
    stays as it is.

    Example:
        >>> saved_bytes(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), torch.zeros(4, 8))  # the tanh's output
        128
    """
    packs = saves_bits(model)
    model = copy.deepcopy(model).train()
    kept: dict[int, tuple[int, Any]] = {}  # by address; what is counted stays alive, so that no address comes twice
    lasting = (*model.parameters(), *model.buffers(), batch)
    known = {tensor.untyped_storage().data_ptr() for tensor in lasting}

    def count(x: Tensor) -> Tensor | Compact:
        stored = _packed(x) if packs else x
        address = x.untyped_storage().data_ptr()
        if isinstance(stored, Compact):
            kept[id(stored)] = stored.num_bytes, stored
        elif address not in known:
            kept[address] = x.untyped_storage().nbytes(), x.detach()
        return stored

    with torch.enable_grad(), saved_tensors_hooks(count, restore):
        type(model).forward(model, batch)
    return sum(size for size, _ in kept.values())
