"""Weights that a quantizing method leaves as they are, so that nobody takes them for compressed."""

from collections.abc import Collection

from torch import Tensor, nn

_SCALES = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Modules whose parameters scale values: few, and no weights of products."""


def untouched_weights(
    model: nn.Module, targets: tuple[type[nn.Module], ...], known: Collection[str], method: str
) -> dict[str, str]:
    """Modules with float parameters of two dimensions and more that no method has put on a grid.

    Args:
        model: after the method.
        targets: the kinds of modules the method takes.
        known: names of modules the method accounts for itself.
        method: its name.

    Returns:
        The reason by name of the module, or of the parameter where the model itself holds it.
    """
    found = {}
    for fqn, module in model.named_modules():
        if fqn in known or "slots" in fqn.split(".") or isinstance(module, _SCALES) or _is_quantized(module):
            continue
        weights = {
            name: value.numel()
            for name, value in module._parameters.items()
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2
        }
        if weights and isinstance(module, targets):
            found[fqn] = "left out by include/exclude"
        elif weights:
            kind = type(module).__name__
            reason = f"{method} takes no {kind}: {sum(weights.values()):,} values stay in float"
            found |= dict.fromkeys([fqn] if fqn else weights, reason)
    return found


def _is_quantized(module: nn.Module) -> bool:
    """Its weight slot rounds already, by an earlier method."""
    slots = getattr(module, "slots", None)
    return isinstance(slots, nn.Module) and getattr(getattr(slots, "weight", None), "quantizer", None) is not None
