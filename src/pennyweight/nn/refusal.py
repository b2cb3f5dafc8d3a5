"""Why a model refused a batch, in words: what the batch is, what the model said, and what is likely wrong."""

from collections.abc import Mapping

from torch import Tensor, nn


def refusal(model: nn.Module, inputs: Tensor | Mapping[str, Tensor], error: Exception) -> str:
    """A message that begins with the inputs and ends with what to do, where that can be told.

    Args:
        model: that was called.
        inputs: it was called with.
        error: that it raised.

    Example:
        >>> import torch
        >>> refusal(nn.Linear(2, 2), torch.zeros(3, 2).half(), RuntimeError("no")).partition("; ")[2]
        'it is in torch.float32: convert the model or the inputs'
    """
    named = {"inputs": inputs} if isinstance(inputs, Tensor) else inputs
    shown = ", ".join(f"{name} of {x.dtype}, shape {tuple(x.shape)}" for name, x in named.items())
    kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
    reason = kind + " ".join(str(error).split())[:300]
    hint = _hint(model, list(named.values()), error)
    return f"the model refuses {shown}: {reason}{hint and '; '}{hint}"


def _hint(model: nn.Module, inputs: list[Tensor], error: Exception) -> str:
    tables = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    floating = [x for x in inputs if x.is_floating_point()]
    if not tables:
        if not floating:
            return (
                "whole numbers are for embeddings, and it has none: pass float inputs, without labels, or as a tuple "
                "with the inputs first"
            )
        own = next((p.dtype for p in model.parameters() if p.is_floating_point()), floating[0].dtype)
        return "" if own == floating[0].dtype else f"it is in {own}: convert the model or the inputs"
    name, table = next(iter(tables.items()))
    if len(floating) == len(inputs):
        return f"it has an embedding, {name!r}, as models of text have: these take whole numbers, the tokens"
    if isinstance(error, IndexError):
        return f"embedding {name!r} has {table.num_embeddings} rows, and the inputs go to {int(inputs[0].max())}"
    return ""
