"""What a stage works with: the model as the stages before left it, the data, a folder of its own, the seed."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pennyweight.data import ImageDataset, TextDataset, batch_at, load_dataset
from pennyweight.data.catalogue import is_text
from pennyweight.data.windows import calibration_windows
from pennyweight.errors import DataError, PennyweightError, RecipeError

Record = dict[str, Any]
"""What a stage found: plain JSON values."""

CALIBRATION_BATCH = 128
CALIBRATION_WINDOWS = 512
CONTEXT = 35
IMAGES = "images.safetensors"
"""File of synthesized images and the labels the net gives them."""


class Interrupted(KeyboardInterrupt):
    """The user asked to stop, and what was at work has written all that is needed to go on."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The recipe's data set, read when it is first needed.

    Args:
        name: as `load_dataset` knows it.
        root: folder of the data sets, or None for the usual places.
        options: of the loader.
        context: of a text, tokens a window: language models are trained on windows, and read the test text by them.
    """

    name: str
    root: str | None
    options: tuple[tuple[str, Any], ...] = ()
    context: int = CONTEXT

    @property
    def is_text(self) -> bool:
        """A text, for language models; otherwise images, for classifiers."""
        return is_text(self.name)

    @cached_property
    def train(self) -> ImageDataset:
        """The training split of images."""
        return self._images("train")

    @cached_property
    def test(self) -> ImageDataset:
        """The test split of images."""
        return self._images("test")

    @cached_property
    def train_text(self) -> TextDataset:
        """The training split of a text."""
        return self._text("train")

    @cached_property
    def test_text(self) -> TextDataset:
        """The test split of a text."""
        return self._text("test")

    @cached_property
    def digest(self) -> str:
        """Of all images and labels, or tokens, so that a data set changed on disk is another one."""
        digest = hashlib.blake2b(digest_size=16)
        if self.is_text:
            tensors = [self.train_text.tokens, self.test_text.tokens]
        else:
            tensors = [tensor for part in (self.train, self.test) for tensor in (part.images, part.labels)]
        for tensor in tensors:
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def _images(self, split: str) -> ImageDataset:
        loaded = load_dataset(self.name, split, self.root, **dict(self.options))
        if not isinstance(loaded, ImageDataset):
            raise DataError(f"data set {self.name!r} is a text, and this is for classifiers of images")
        return loaded

    def _text(self, split: str) -> TextDataset:
        loaded = load_dataset(self.name, split, self.root, **dict(self.options))
        assert isinstance(loaded, TextDataset), self.name
        return loaded


class CalibrationBatches(Sequence[Tensor]):
    """Training images without labels, in the seed's order; each batch is drawn when a method asks for it.

    Args:
        data: the training split.
        seed: of the order.
        limit: samples at most; None for one epoch.
    """

    def __init__(self, data: ImageDataset, seed: int, limit: int | None = None) -> None:
        self._data = data
        self._seed = seed
        self._total = len(data) if limit is None else min(limit, len(data))

    def __len__(self) -> int:
        return -(-self._total // CALIBRATION_BATCH)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start = (index % len(self)) * CALIBRATION_BATCH
        size = min(CALIBRATION_BATCH, self._total - start)
        return batch_at(self._data, first_sample=start, batch_size=size, seed=self._seed).inputs


@dataclass(kw_only=True)
class Work:
    """One stage's surroundings.

    Args:
        make_model: gives the model as the stages before left it.
        make_reference: gives the float model: as it was before the first stage that quantizes.
        data: the recipe's data.
        folder: the stage's own, empty but for what an interrupted attempt of a resumable stage left.
        seed: of this pass of the recipe.
        trained: whether the model has learnt anything, from a train stage or from given weights.
        reference_trained: the same of the float model.
        artifact: what the nearest export before wrote; None where there is none, or the model was changed since.
        onnx: whether that export wrote an .onnx file beside it.
        images: what the nearest synthesize stage before wrote; None where there is none.
        calibration_limit: samples methods may see at most; None for all.
        progress: whether to show bars.
    """

    make_model: Callable[[], nn.Module]
    make_reference: Callable[[], nn.Module]
    data: Data
    folder: Path
    seed: int
    trained: bool = False
    reference_trained: bool = False
    artifact: Path | None = None
    onnx: bool = False
    images: Path | None = None
    calibration_limit: int | None = None
    progress: bool = True

    @cached_property
    def model(self) -> nn.Module:
        """The model, to be changed in place by stages that say so."""
        return self.make_model()

    @cached_property
    def reference(self) -> nn.Module:
        """The float model that methods compare with, in evaluation mode.

        Raises:
            RecipeError: it has learnt nothing.
        """
        if not self.reference_trained:
            raise RecipeError(
                "the float model to compare with has learnt nothing: put a train stage before the first method that "
                "quantizes, or give the model weights"
            )
        return self.make_reference().eval()

    @property
    def calibration(self) -> Sequence[Tensor]:
        """Batches for methods that need data; of a text, windows at even distances."""
        if self.data.is_text:
            count = min(self.calibration_limit or CALIBRATION_WINDOWS, CALIBRATION_WINDOWS)
            return calibration_windows(self.data.train_text, count=count, context=self.data.context)
        return CalibrationBatches(self.train, self.seed, self.calibration_limit)

    @cached_property
    def train(self) -> ImageDataset:
        """What to train and calibrate on: the training split, or what was synthesized in its place.

        Raises:
            RecipeError: the synthesized images are gone or damaged.
        """
        if self.images is None:
            return self.data.train
        try:
            stored = safetensors.torch.load_file(self.images)
            return replace(self.data.train, images=stored["images"], labels=stored["labels"])
        except (OSError, KeyError, safetensors.SafetensorError, PennyweightError) as error:
            raise RecipeError(
                f"{self.images} cannot be used ({error}): remove the folder {self.images.parent} to make it again"
            ) from error


def default_device() -> torch.device:
    """Where a recipe's models live: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
