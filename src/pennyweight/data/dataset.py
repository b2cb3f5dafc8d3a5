"""The records of a data set in memory: `ImageDataset`, `TextDataset`. Reading files lives beside, one format a file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pennyweight.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset:
    """Labelled images, kept as bytes.

    A whole CIFAR is 150 MB this way, so it stays in memory, on the accelerator too, and a batch is one gather.

    Args:
        images: uint8, (N, C, H, W).
        labels: int64, (N,), in [0, num_classes), on the device of the images.
        num_classes: number of classes; labels need not use all of them.
        mean: per channel, in units of the full range (byte 255 is 1.0).
        std: per channel, the same unit, > 0.
        name: what the set is called in messages and reports.
        split: which part of the set this is.
        class_names: one a class, or empty where the source names none.

    Raises:
        DataError: the tensors and figures do not fit each other.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    split: str
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        what = f"data set {self.name!r} ({self.split})"
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise DataError(
                f"{what}: images must be uint8 (N, C, H, W), not {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.images.numel() == 0:
            raise DataError(f"{what} holds no images: shape {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{what}: labels must be int64 ({len(self.images)},), one an image, "
                f"not {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        low, high = (int(value) for value in self.labels.aminmax())
        if low < 0 or high >= self.num_classes:
            bad = low if low < 0 else high
            index = int((self.labels == bad).nonzero()[0])
            raise DataError(
                f"{what}: label {bad} of sample {index} is outside 0..{self.num_classes - 1}: the file is damaged, "
                f"or num_classes={self.num_classes} is wrong"
            )
        channels = self.images.shape[1]
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise DataError(
                f"{what}: mean={self.mean} and std={self.std} need {channels} entries each, one a channel, std > 0"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise DataError(f"{what}: {len(self.class_names)} class names for {self.num_classes} classes")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image, the `input_shape` of the models."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def normalize(self, batch: Tensor) -> Tensor:
        """Bytes to float32: (batch / 255 - mean) / std, per channel.

        Computed as (byte - 255 mean) * (1 / (255 std)), so that with mean = std = 128/255 the values are exactly
        (byte - 128) / 128: 8-bit codes on a power-of-two scale, which an integer first layer takes as they are.

        Args:
            batch: uint8 (B, C, H, W), on any device.
        """
        shape = (1, -1, 1, 1)
        offset = torch.tensor([255 * mean for mean in self.mean], device=batch.device).reshape(shape)
        factor = torch.tensor([1 / (255 * std) for std in self.std], device=batch.device).reshape(shape)
        return batch.to(torch.float32).sub_(offset).mul_(factor)

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageDataset":
        """The samples at these positions, in this order; the tensors are copied.

        Raises:
            DataError: an index outside -len..len-1, or none at all.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.images.device)
        outside = chosen[(chosen < -len(self)) | (chosen >= len(self))]
        if outside.numel():
            raise DataError(f"data set {self.name!r} has {len(self)} samples; there is no sample {int(outside[0])}")
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def to(self, device: torch.device | str) -> "ImageDataset":
        """The same set with its tensors on a device, where batches are then gathered and augmented."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class TextDataset:
    """One long sequence of tokens.

    Args:
        tokens: int64, (N,), indices into the vocabulary.
        vocabulary: the words or characters; token t stands for vocabulary[t].
        name: what the set is called in messages and reports.
        split: which part of the set this is.
    """

    tokens: Tensor
    vocabulary: tuple[str, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        what = f"data set {self.name!r} ({self.split})"
        if self.tokens.dtype != torch.int64 or self.tokens.dim() != 1:
            raise DataError(f"{what}: tokens must be int64 (N,), not {self.tokens.dtype} {tuple(self.tokens.shape)}")
        if self.tokens.numel() == 0:
            raise DataError(f"{what} holds no tokens: the file is empty or the split too small")
        low, high = (int(value) for value in self.tokens.aminmax())
        if low < 0 or high >= len(self.vocabulary):
            raise DataError(f"{what}: tokens in {low}..{high} for a vocabulary of {len(self.vocabulary)}")

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> "TextDataset":
        """The same set with its tokens on a device."""
        return replace(self, tokens=self.tokens.to(device))
