"""`TorchNames`: a module whose parameters lie in children, under the names that torch's module has in a state dict."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.nn.gemm import GemmLinear
from pennyweight.nn.recurrent.gates import STEPS, Gates


class TorchNames(nn.Module):
    """A float checkpoint of torch's module loads, and `module.weight_ih_l0` is where it was.

    Parameters are named after the layers that hold them only in `named_parameters`, as methods need it.
    """

    _ours: dict[str, str]
    """Our name of a parameter by torch's."""

    def __getattr__(self, name: str) -> Any:
        ours = self.__dict__.get("_ours", {})
        if name in ours:
            return self.get_parameter(ours[name])
        return super().__getattr__(name)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state with torch's names; what slots hold keeps the names of the layers."""
        found = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for theirs, ours in self._ours.items():
            found[prefix + theirs] = found.pop(prefix + ours)
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for theirs, ours in self._ours.items():
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def gates(self) -> Iterator[tuple[str, GemmLinear]]:
        """The products by name below this module."""
        for name, module in self.named_modules():
            if isinstance(module, GemmLinear):
                yield name, module


def gates_of(mode: Any, parameters: Mapping[str, Any], suffix: str) -> tuple[Gates, dict[str, str]]:
    """A cell's parameters, as torch names them, in layers with slots; the parameters are shared, not copied.

    Args:
        mode: torch's name of the kind of cell.
        parameters: of torch's module.
        suffix: of their names, such as "_l0_reverse"; "" for a cell's.

    Returns:
        The gates, and the name within them by torch's name.
    """
    weight = parameters[f"weight_ih{suffix}"]
    assert isinstance(weight, Tensor)
    has_bias = parameters.get(f"bias_ih{suffix}") is not None
    with torch.device("meta"):
        gates = Gates(mode, weight.shape[1], weight.shape[0] // STEPS[mode][0], bias=has_bias)
    names = {}
    for kind in ("weight", "bias") if has_bias else ("weight",):  # in the order of torch's kernels
        for layer, short in (("input", "ih"), ("hidden", "hh")):
            name = f"{kind}_{short}{suffix}"
            setattr(gates.get_submodule(layer), kind, parameters[name])
            names[name] = f"{layer}.{kind}"
    return gates, names
