"""Which values of a tensor belong to real tokens: padding must not decide ranges or losses."""

from collections.abc import Mapping

from torch import Tensor

from pennyweight.nn.calling import Batch

MASK = "attention_mask"


def token_mask(batch: Batch) -> Tensor | None:
    """The (batch, tokens) mask among named inputs, true where a token is real; None where there is none."""
    mask = batch.get(MASK) if isinstance(batch, Mapping) else None
    if mask is None or mask.dim() != 2:
        return None
    return mask.bool()


def real_tokens(x: Tensor, mask: Tensor | None) -> Tensor:
    """The values of `x` that belong to real tokens, as rows; `x` itself when its shape does not show the tokens.

    Understood are (batch, tokens, width), (batch * tokens, width), and what attention works on: (batch, heads,
    tokens, width) and its transpose. A width equal to the number of tokens is read as the former.

    Args:
        mask: (batch, tokens), true where a token is real; None for no padding.
    """
    if mask is None:
        return x
    batch, tokens = mask.shape
    mask = mask.to(x.device)
    if x.dim() == 2 and x.shape[0] == batch * tokens:
        return x[mask.flatten()]
    if x.dim() < 3 or x.shape[0] != batch:
        return x
    for dim in (1, 2) if x.dim() == 3 else (2, 3):
        if x.shape[dim] == tokens:
            return x.movedim(dim, 1)[mask]
    return x
