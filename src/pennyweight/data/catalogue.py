"""`load_dataset`: every data set under one name. The reading itself is in the file of its format."""

import inspect
import os
from collections.abc import Callable
from typing import Any, Literal, get_type_hints, overload

from pennyweight.data.cifar import load_cifar10, load_cifar100
from pennyweight.data.dataset import ImageDataset, TextDataset
from pennyweight.data.digits import load_digits
from pennyweight.data.folder import load_image_folder
from pennyweight.data.hub import load_hub
from pennyweight.data.idx import load_fashion_mnist, load_mnist
from pennyweight.data.svhn import load_svhn
from pennyweight.data.text import load_ptb, load_text
from pennyweight.errors import DataError, did_you_mean

_LOADERS: dict[str, Callable[..., ImageDataset | TextDataset]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "image-folder": load_image_folder,
    "mnist": load_mnist,
    "ptb": load_ptb,
    "svhn": load_svhn,
    "text": load_text,
}
_SPLITS = {
    "image-folder": ("train", "test", "all"),
    "ptb": ("train", "valid", "test"),
    "svhn": ("train", "test", "extra"),
    "text": ("train", "valid", "test"),
}
_HUB = "hf:"

ImageName = Literal["cifar10", "cifar100", "digits", "fashion-mnist", "image-folder", "mnist", "svhn"]
TextName = Literal["ptb", "text"]


def list_datasets() -> tuple[str, ...]:
    """The names `load_dataset` knows; besides, "hf:<name>" is any Hugging Face set."""
    return (*sorted(_LOADERS), f"{_HUB}<name>")


def is_text(name: str) -> bool:
    """Whether a set is one sequence of tokens; all others are labelled images.

    Example:
        >>> is_text("ptb"), is_text("digits")
        (True, False)
    """
    return name in ("ptb", "text")


def dataset_options(name: str) -> dict[str, Any]:
    """The options of a set with their defaults; those that must be given are left out.

    Raises:
        DataError: unknown name.

    Example:
        >>> dataset_options("digits")
        {'normalization': 'centered'}
    """
    parameters = inspect.signature(_loader(name)).parameters.values()
    options = [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    return {option.name: option.default for option in options if option.default is not option.empty}


def dataset_option_types(name: str) -> dict[str, Any]:
    """The type hints of a set's options.

    Raises:
        DataError: unknown name.

    Example:
        >>> dataset_option_types("cifar100")["labels"]
        <class 'str'>
    """
    loader = _loader(name)
    hints = get_type_hints(loader)
    parameters = inspect.signature(loader).parameters.values()
    return {
        parameter.name: hints[parameter.name] for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
    }


def _loader(name: str) -> Callable[..., ImageDataset | TextDataset]:
    if name.startswith(_HUB):
        return load_hub
    if name not in _LOADERS:
        raise DataError(f"unknown data set {name!r}; {did_you_mean(name, list_datasets())}")
    return _LOADERS[name]


@overload
def load_dataset(
    name: ImageName, split: str = "train", root: str | os.PathLike[str] | None = None, **options: Any
) -> ImageDataset: ...
@overload
def load_dataset(
    name: TextName, split: str = "train", root: str | os.PathLike[str] | None = None, **options: Any
) -> TextDataset: ...
@overload
def load_dataset(
    name: str, split: str = "train", root: str | os.PathLike[str] | None = None, **options: Any
) -> ImageDataset | TextDataset: ...
def load_dataset(
    name: str, split: str = "train", root: str | os.PathLike[str] | None = None, **options: Any
) -> ImageDataset | TextDataset:
    """A data set, whole, in memory.

    Args:
        name: one of `list_datasets()`; "digits" needs no files.
        split: "train" or "test"; texts have "valid" too, svhn "extra", an undivided image folder "all".
        root: the folder that holds the data sets; by default $PENNYWEIGHT_DATA, then ./data.
        options: what the loader of this set takes besides: `normalization` for images ("centered", "imagenet" or
            (mean, std)), `labels` for cifar100, `path` for text and image-folder, and so on.

    Raises:
        DataError: unknown name, split or option; missing or damaged files.
        MissingDependencyError: "hf:" without `datasets`, or pictures without Pillow.

    Example:
        >>> digits = load_dataset("digits", split="test")
        >>> len(digits), digits.shape, digits.num_classes
        (360, (1, 8, 8), 10)
    """
    if name.startswith(_HUB):
        _check_options(name, load_hub, options)
        return load_hub(name.removeprefix(_HUB), split, root, **options)
    loader = _loader(name)
    splits = _SPLITS.get(name, ("train", "test"))
    if split not in splits:
        raise DataError(f"data set {name!r} has no split {split!r}; {did_you_mean(split, splits)}")
    _check_options(name, loader, options)
    return loader(split, root, **options)


def _check_options(name: str, loader: Callable[..., Any], options: dict[str, Any]) -> None:
    parameters = inspect.signature(loader).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known) if known else "it takes none"
            raise DataError(f"data set {name!r} has no option {option!r}; {hint}")
