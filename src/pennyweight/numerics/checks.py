"""`require_finite`: the border guard against NaN and infinity."""

import torch
from torch import Tensor

from pennyweight.errors import NumericsError


def require_finite(x: Tensor, what: str) -> None:
    """Refuse a tensor that holds NaN or infinity, naming where.

    Args:
        what: how the message calls the tensor, such as "weight of layer 'fc1'".

    Raises:
        NumericsError: with the first bad index, its value, and how many there are.
    """
    x = x.detach()
    if not x.is_floating_point() or x.numel() == 0 or bool(torch.isfinite(x.sum())):
        return  # a finite sum proves every element finite, in one cheap pass
    bad = ~torch.isfinite(x)
    count = int(bad.sum())
    if count == 0:
        return  # finite values whose sum overflows
    index = tuple(int(i) for i in bad.nonzero()[0])
    raise NumericsError(
        f"{what} holds {float(x[index])} at index {index} ({count} of {x.numel()} values are not finite): "
        f"look for a division by zero or an overflow where it was made"
    )
