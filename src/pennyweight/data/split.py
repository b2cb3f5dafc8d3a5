"""A fixed division into training and test samples for sets that come without one."""

import torch
from torch import Tensor


def stratified_test_mask(labels: Tensor, num_test: int) -> Tensor:
    """True for the test samples: every class gives its share, evenly spread over its samples in file order.

    No randomness is involved, so everyone has the same split: sort the samples by label (stable), and walk down the
    sorted list with a counter that rises by num_test / N; each time it passes a whole number, that sample is taken.

    Args:
        labels: int64 (N,).
        num_test: how many samples to take, in 0..N.

    Example:
        >>> stratified_test_mask(torch.tensor([0, 1, 0, 1, 0, 1]), 2).tolist()
        [False, False, False, False, True, True]
    """
    total = len(labels)
    position = torch.arange(total)
    taken = (position + 1) * num_test // total > position * num_test // total
    mask = torch.zeros(total, dtype=torch.bool)
    mask[torch.argsort(labels, stable=True)] = taken
    return mask
