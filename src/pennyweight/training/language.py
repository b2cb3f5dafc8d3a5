"""What training a language model takes beside the loop: windows of a text as batches, the loss of the next token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.data.dataset import TextDataset
from pennyweight.data.loader import Batch
from pennyweight.errors import DataError
from pennyweight.training.batches import BatchSource

_STRIDE = 0x9E3779B1  # odd, near 2^32 / golden ratio: multiples of it, modulo a length, spread evenly


def text_source(dataset: TextDataset, context: int) -> BatchSource:
    """Windows of a text, one a sample of the stream, at positions that cover it evenly from the start.

    Args:
        context: tokens a window; the targets are the tokens one further.

    Returns:
        A source for `pennyweight.train`; a pure function of the position, as resuming needs.

    Raises:
        DataError: the text is shorter than a window and its last target.
    """
    room = len(dataset) - context
    if context < 1 or room < 1:
        raise DataError(
            f"data set {dataset.name!r} ({dataset.split}) has {len(dataset)} tokens, too few for windows of "
            f"context={context} and the token after"
        )

    def source(first_sample: int, batch_size: int, rank: int, world_size: int) -> Batch:
        samples = range(first_sample + rank, first_sample + batch_size, world_size)
        starts = torch.tensor([sample * _STRIDE % room for sample in samples], dtype=torch.int64)
        places = (starts[:, None] + torch.arange(context)).to(dataset.tokens.device)
        return Batch(inputs=dataset.tokens[places], targets=dataset.tokens[places + 1], indices=starts)

    return source


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy over each window's tokens, in nats: an objective for `pennyweight.train`.

    Returns:
        (batch,).
    """
    logits = model(batch.inputs)
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return losses.reshape(batch.targets.shape).mean(1)
