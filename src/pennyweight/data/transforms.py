"""Augmentation of whole batches: each sample has its own draw, each operation is one gather on the batch's device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pennyweight.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is varied about a training image; the default varies nothing.

    Args:
        crop_padding: pixels of black border on each side before a window of the original size is cut, >= 0.
        flip: mirror left and right with probability 1/2.
        cutout: side in pixels of a square set to the mean, >= 0; its centre is uniform over the image, so it may
            reach beyond the edge.

    Source: crop and flip as in arXiv 1512.03385, section 4.2; cutout: arXiv 1708.04552, section 3.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise DataError(f"Augment({name}={getattr(self, name)}): give a number of pixels, 0 for none")


def crop_and_flip(images: Tensor, words: Tensor, augment: Augment) -> Tensor:
    """Random windows and mirror images.

    Args:
        images: uint8 (B, C, H, W).
        words: (B, 4) int64, uniform in [0, 2^32), on the images' device: for crop y, crop x, flip, cutout. They are
            drawn whether used or not, so that one setting never shifts another's draws.
        augment: what to do.

    Returns:
        uint8 (B, C, H, W).
    """
    batch, _, height, width = images.shape
    padding = augment.crop_padding
    if padding:
        windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        top, left = (_below(2 * padding + 1, words[:, column]) for column in (0, 1))
        images = windows[torch.arange(batch, device=images.device), :, top, left]
    if augment.flip:
        mirrored = _below(2, words[:, 2]).bool().reshape(-1, 1, 1, 1)
        images = torch.where(mirrored, images.flip(3), images)
    return images


def cut_out_(inputs: Tensor, words: Tensor, augment: Augment) -> Tensor:
    """Set a square of every normalised image to 0, the mean, in place.

    Args:
        inputs: float (B, C, H, W), normalised.
        words: as in `crop_and_flip`.
    """
    if not augment.cutout:
        return inputs
    height, width = inputs.shape[2:]
    rows = _inside(height, words[:, 3] & 0xFFFF0000, augment.cutout)  # y and x share a word, half each
    columns = _inside(width, words[:, 3] << 16 & 0xFFFF0000, augment.cutout)
    return inputs.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0.0)


def resize(inputs: Tensor, size: int) -> Tensor:
    """Square images of `size` pixels a side: bilinear, antialiased where it shrinks."""
    if tuple(inputs.shape[2:]) == (size, size):
        return inputs
    return F.interpolate(inputs, size=(size, size), mode="bilinear", antialias=True)


def _below(limit: int, words: Tensor) -> Tensor:
    """Uniform in [0, limit) by fixed-point multiplication; the bias is below limit / 2^16."""
    return (words * limit) >> 32


def _inside(length: int, words: Tensor, square: int) -> Tensor:
    start = _below(length, words)[:, None] - square // 2
    place = torch.arange(length, device=words.device)
    return (place >= start) & (place < start + square)
