"""Batches as pure functions of a position: no iterator state, so resuming is asking for the next position.

`batch_at` reads the infinite stream of samples that is one permutation of the data set after another. Which samples
a batch holds depends on (seed, position) alone, and how a sample is augmented on (seed, epoch, sample, copy) alone:
neither on the number of ranks nor on what was asked before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pennyweight.data.dataset import ImageDataset, TextDataset
from pennyweight.data.transforms import Augment, crop_and_flip, cut_out_, resize
from pennyweight.errors import DataError
from pennyweight.numerics.random import Key, permutation, philox4x32


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What one step of training or evaluation sees.

    Args:
        inputs: float32 (B, C, H, W), normalised; or int64 (B, T) tokens.
        targets: int64 (B,) labels; or int64 (B, T), the tokens that follow.
        indices: int64 (B,), each row's sample in the data set (for text: its first token).
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


def batch_at(
    dataset: ImageDataset,
    *,
    first_sample: int,
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
    copies: int = 1,
    image_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str | None = None,
) -> Batch:
    """The training batch that starts at a position of the sample stream.

    Bytes are gathered where the data set lies, moved, and augmented, normalised and resized on the device, in this
    order: crop, flip, normalise, cutout, resize.

    Args:
        first_sample: position of the batch's first sample in the stream, >= 0; step * batch_size while the batch
            size is constant. Epoch e is the positions from e * len(dataset).
        batch_size: samples over all ranks, distinct within an epoch; at least one a rank. Shares may
            differ by one sample: losses are summed and divided by the global count.
        seed: of the order and of the augmentation.
        augment: what is varied; None for nothing.
        copies: how many differently augmented copies of each sample, >= 1. The batch holds copy 0 of all samples,
            then copy 1, and so on: batch_size * copies rows.
        image_size: side in pixels to resize to; None keeps the data set's.
        rank: takes the positions rank, rank + world_size, ... of the batch.
        world_size: number of ranks.
        device: where the batch is wanted; None for where the data set lies.

    Raises:
        DataError: a size, position or rank out of range.

    Source: copies: arXiv 1901.09335 (batch augmentation), section 2.

    Example:
        >>> from pennyweight.data import load_dataset
        >>> batch = batch_at(load_dataset("digits"), first_sample=0, batch_size=4, seed=0, copies=2)
        >>> batch.inputs.shape, batch.indices[:4].equal(batch.indices[4:])
        (torch.Size([8, 1, 8, 8]), True)
    """
    _check(
        batch_size=batch_size, copies=copies, world_size=world_size, image_size=1 if image_size is None else image_size
    )
    if first_sample < 0:
        raise DataError(f"first_sample={first_sample}: positions of the sample stream start at 0")
    if not 0 <= rank < world_size or batch_size < world_size:
        raise DataError(
            f"rank={rank}, world_size={world_size}, batch_size={batch_size}: rank must be below world_size, "
            "and every rank needs at least one sample"
        )
    places = torch.arange(first_sample + rank, first_sample + batch_size, world_size)
    total = len(dataset)
    epochs, offsets = places // total, places % total
    indices = torch.empty_like(places)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        indices[here] = _order(total, seed, epoch)[offsets[here]]

    home = dataset.images.device
    target = home if device is None else torch.device(device)
    at_home = indices.to(home)
    images = dataset.images.index_select(0, at_home).to(target, non_blocking=True)
    labels = dataset.labels.index_select(0, at_home).to(target, non_blocking=True)
    images, labels = images.repeat(copies, 1, 1, 1), labels.repeat(copies)
    if augment is None:
        inputs = dataset.normalize(images)
    else:
        draws = _augmentation_words(indices, epochs, copies, seed).to(target, non_blocking=True)
        inputs = cut_out_(dataset.normalize(crop_and_flip(images, draws, augment)), draws, augment)
    if image_size is not None:
        inputs = resize(inputs, image_size)
    return Batch(inputs=inputs, targets=labels, indices=indices.repeat(copies).to(target))


def eval_batches(
    dataset: ImageDataset,
    batch_size: int,
    device: torch.device | str | None = None,
    image_size: int | None = None,
) -> Iterator[Batch]:
    """The whole set once, in order, without augmentation; the last batch may be smaller.

    Args:
        batch_size: samples a batch, >= 1.
        device: where the batches are wanted; None for where the data set lies.
        image_size: side in pixels to resize to; None keeps the data set's.

    Raises:
        DataError: a size below 1.
    """
    _check(batch_size=batch_size, image_size=1 if image_size is None else image_size)
    return _eval_batches(dataset, batch_size, device, image_size)


def _eval_batches(
    dataset: ImageDataset, batch_size: int, device: torch.device | str | None, image_size: int | None
) -> Iterator[Batch]:
    target = dataset.images.device if device is None else torch.device(device)
    for start in range(0, len(dataset), batch_size):
        stop = min(start + batch_size, len(dataset))
        inputs = dataset.normalize(dataset.images[start:stop].to(target))
        yield Batch(
            inputs=inputs if image_size is None else resize(inputs, image_size),
            targets=dataset.labels[start:stop].to(target),
            indices=torch.arange(start, stop, device=target),
        )


def text_batch_at(dataset: TextDataset, *, step: int, batch_size: int, sequence_length: int) -> Batch:
    """The batch of a step in truncated back-propagation through time: row b continues row b of the step before.

    The text is cut into batch_size streams of equal length (the remainder is left out), each read in windows of
    sequence_length tokens; the targets are the tokens one further. After the last whole window it starts again.

    Args:
        step: >= 0.
        batch_size: parallel streams, >= 1.
        sequence_length: tokens a window, >= 1.

    Raises:
        DataError: the text is too short for one window, or a number out of range.

    Example:
        >>> from pennyweight.data import TextDataset
        >>> text = TextDataset(tokens=torch.arange(10), vocabulary=tuple("abcdefghij"), name="x", split="train")
        >>> text_batch_at(text, step=1, batch_size=2, sequence_length=2).inputs.tolist()
        [[2, 3], [7, 8]]
    """
    _check(batch_size=batch_size, sequence_length=sequence_length)
    if step < 0:
        raise DataError(f"step={step}: steps count from 0")
    stream = len(dataset) // batch_size
    windows = (stream - 1) // sequence_length
    if windows < 1:
        raise DataError(
            f"data set {dataset.name!r} ({dataset.split}) has {len(dataset)} tokens, too few for "
            f"batch_size={batch_size} streams of sequence_length={sequence_length} + 1: lower one of them"
        )
    start = (step % windows) * sequence_length
    streams = dataset.tokens[: stream * batch_size].reshape(batch_size, stream)
    return Batch(
        inputs=streams[:, start : start + sequence_length],
        targets=streams[:, start + 1 : start + 1 + sequence_length],
        indices=torch.arange(batch_size, device=dataset.tokens.device) * stream + start,
    )


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise DataError(f"{name}={value}: must be at least 1")


@lru_cache(maxsize=8)
def _order(total: int, seed: int, epoch: int) -> Tensor:
    return permutation(total, Key(seed).fold("order", epoch))


def _augmentation_words(indices: Tensor, epochs: Tensor, copies: int, seed: int) -> Tensor:
    """(copies * B, 4) words, copy-major: the Philox block with the counter (sample, epoch, copy, 0)."""
    counters = torch.zeros((copies, len(indices), 4), dtype=torch.int64)
    counters[..., 0] = indices
    counters[..., 1] = epochs
    counters[..., 2] = torch.arange(copies)[:, None]
    return philox4x32(counters, Key(seed).fold("augment").words).flatten(0, 1)
