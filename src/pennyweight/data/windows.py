"""Windows of a text as calibration batches: spread evenly, so that a few stand for the whole."""

import torch
from torch import Tensor

from pennyweight.data.dataset import TextDataset
from pennyweight.errors import DataError


def calibration_windows(dataset: TextDataset, *, count: int, context: int, batch_size: int = 16) -> list[Tensor]:
    """Batches of windows at even distances through a text; a pure function of its arguments.

    Args:
        count: windows, >= 1; they overlap where the text is short.
        context: tokens a window, >= 1.
        batch_size: windows a batch, >= 1; the last batch may be smaller.

    Returns:
        int64 tensors (batch, context), as `apply_(..., data=)` takes them.

    Raises:
        DataError: the text is shorter than a window, or a number out of range.

    Example:
        >>> text = TextDataset(tokens=torch.arange(10), vocabulary=tuple("abcdefghij"), name="x", split="train")
        >>> calibration_windows(text, count=3, context=4)[0].tolist()
        [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    """
    if count < 1 or batch_size < 1:
        raise DataError(f"count={count}, batch_size={batch_size}: must be at least 1")
    if not 1 <= context <= len(dataset):
        raise DataError(
            f"data set {dataset.name!r} ({dataset.split}) has {len(dataset)} tokens, no window of context={context}"
        )
    starts = torch.linspace(0, len(dataset) - context, count, dtype=torch.float64).round().long()
    places = (starts[:, None] + torch.arange(context)).to(dataset.tokens.device)
    return list(dataset.tokens[places].split(batch_size))
