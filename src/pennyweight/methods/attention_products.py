"""Finding the products of two activations in a model and giving them modules, for methods that fill those."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from pennyweight.errors import MethodError
from pennyweight.nn.calling import Batch
from pennyweight.nn.modes import in_mode
from pennyweight.nn.products import attach_products_, attached_products, detach_products_, find_products


@dataclass(frozen=True)
class Attention:
    """What was found.

    Args:
        owners: names of the modules that now have product modules, `products` below each.
        skipped: names of others that multiply activations, with the reason.
    """

    owners: tuple[str, ...]
    skipped: Mapping[str, str]


@contextmanager
def attached_attention(model: nn.Module, matched: Mapping[str, nn.Module], example: Batch) -> Iterator[Attention]:
    """Give product modules to every matching module that multiplies activations; on an exception they are taken away.

    Args:
        matched: modules that may be changed, by name.
        example: a batch; the model is run once on it, in evaluation mode.

    Raises:
        MethodError: no matching module multiplies activations, or the model does so in its own forward.
    """
    with in_mode(model, training=False):
        found = find_products(model, example)
    skipped = {fqn: "left out by include/exclude" for fqn in found if fqn not in matched}
    chosen = {fqn: kinds for fqn, kinds in found.items() if fqn in matched}
    if not chosen:
        seen = sorted({type(module).__name__ for module in model.modules()})
        raise MethodError(
            f"no matching module multiplies two activations by torch.matmul, bmm, @ or "
            f"scaled_dot_product_attention; the model is made of: {', '.join(seen)}"
        )
    if "" in chosen:
        raise MethodError(
            f"{type(model).__name__} multiplies activations in its own forward: move the attention into a module "
            f"of its own, or wrap the model, torch.nn.Sequential(model)"
        )
    ours: list[nn.Module] = []
    try:
        for fqn, kinds in chosen.items():
            module = model.get_submodule(fqn)
            is_new = attached_products(module) is None
            attach_products_(module, kinds)
            if is_new:
                ours.append(module)
        yield Attention(tuple(chosen), skipped)
    except BaseException:
        for module in ours:
            detach_products_(module)
        raise
