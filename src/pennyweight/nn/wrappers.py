"""What may stand around or in the way of a model: torch.compile, DataParallel, weights that are not made yet."""

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from pennyweight.errors import MethodError


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's and DataParallel's wrappers, whose names begin without their prefixes.

    Raises:
        MethodError: it is wrapped for several processes, which hold on to the parameters as they are.

    Example:
        >>> inner = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(inner)) is inner
        True
    """
    while True:
        inner: Any = getattr(model, "_orig_mod", None)  # torch.compile's OptimizedModule
        if isinstance(model, nn.DataParallel):
            inner = model.module
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            raise MethodError(
                "the model is wrapped in DistributedDataParallel, which has taken its parameters already: apply "
                "methods to the model first, and wrap it then"
            )
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def require_bare(model: nn.Module) -> None:
    """Hold a model to what can be changed in place.

    Raises:
        MethodError: it, or a part of it, is compiled or wrapped for several devices, or has no weights yet.
    """
    for name, module in model.named_modules():
        place = f"module {name!r}" if name else "the model"
        inside = f"model.{name}" if name else "model"
        if isinstance(getattr(module, "_orig_mod", None), nn.Module):
            raise MethodError(
                f"{place} is compiled by torch.compile, whose code would not follow: apply methods to what is inside, "
                f"{inside}._orig_mod, and compile the result"
            )
        if module._compiled_call_impl is not None:
            raise MethodError(
                f"{place} is compiled, and the compiled code would not follow: apply methods before compile()"
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise MethodError(
                f"{place} is wrapped in {type(module).__name__}: apply methods to what is inside, {inside}.module, and "
                f"wrap the result"
            )
    if lazy := lazy_modules(model):
        raise MethodError(f"module {lazy[0]!r} has no weights yet: run the model once on a batch first")


def lazy_modules(model: nn.Module) -> list[str]:
    """Names of modules whose weights wait for a first batch."""
    return [
        name
        for name, module in model.named_modules()
        if any(is_lazy(value) for value in (*module._parameters.values(), *module._buffers.values()))
    ]
