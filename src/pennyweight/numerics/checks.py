"""Border guards: against NaN and infinity in tensors, and against settings that are no whole numbers."""

from typing import Any

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


def require_signs(x: Tensor, what: str) -> None:
    """Refuse a tensor that holds NaN, which has no sign; infinity has one. Compiled code does not look.

    Raises:
        NumericsError: with the first index of NaN.
    """
    x = x.detach()
    if torch.compiler.is_compiling() or not bool(torch.isnan(x.sum())):
        return
    places = torch.isnan(x).nonzero()
    if len(places):  # infinities of both signs sum to NaN too
        index = tuple(places[0].tolist())
        raise NumericsError(f"{what} holds NaN at index {index}, which has no sign: find where it arises")


def require_whole(name: str, value: Any) -> None:
    """Refuse a setting that is no int; True and 7.0 are none, though they compare like one.

    Raises:
        NumericsError: naming the setting.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise NumericsError(f"{name}={value!r}: takes a whole number")
