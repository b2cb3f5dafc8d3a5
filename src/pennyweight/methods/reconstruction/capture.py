"""Recording what units receive and give, batch by batch, without running more of the model than needed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.calling import Batch, call
from pennyweight.nn.modes import in_mode


@dataclass
class Recorded:
    """Tensors by unit, one a call of its module in the forward."""

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)


class EnoughSeenError(Exception):
    """Ends a forward when everything wanted has been seen."""


@torch.no_grad()
def record(model: nn.Module, batch: Batch, *, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Recorded:
    """Run a batch through the model, in evaluation mode, up to the last thing wanted.

    Args:
        inputs: calls to expect, by name of the modules whose first input is wanted.
        outputs: the same for outputs.

    Raises:
        MethodError: a module handles something else than one tensor, or is called too rarely.
    """
    seen = Recorded({name: [] for name in inputs}, {name: [] for name in outputs})

    def note(store: dict[str, list[Tensor]], name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise MethodError(f"module {name!r} is called with or gives a {type(value).__name__}, not one tensor")
        store[name].append(value.detach().clone())
        if _missing(seen, inputs, outputs) is None:
            raise EnoughSeenError

    def before(name: str) -> Any:
        return lambda _module, args: note(seen.inputs, name, args[0] if args else None)

    def after(name: str) -> Any:
        return lambda _module, _args, output: note(seen.outputs, name, output)

    handles = [model.get_submodule(name).register_forward_pre_hook(before(name)) for name in inputs]
    handles += [model.get_submodule(name).register_forward_hook(after(name)) for name in outputs]
    try:
        with in_mode(model, training=False):
            call(model, batch)
    except EnoughSeenError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if (name := _missing(seen, inputs, outputs)) is not None:
        raise MethodError(f"module {name!r} is called fewer times than in the example: does forward branch on data?")
    return seen


def _missing(seen: Recorded, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> str | None:
    for wanted, found in ((inputs, seen.inputs), (outputs, seen.outputs)):
        for name, count in wanted.items():
            if len(found[name]) < count:
                return name
    return None
