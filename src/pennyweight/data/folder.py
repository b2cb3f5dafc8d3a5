"""Folders of pictures, one folder a class, decoded once into a byte tensor of one size."""

import os
from pathlib import Path

import torch

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.normalization import Normalization, normalization_constants
from pennyweight.data.pixels import picture_tensor, require_fits, require_pillow
from pennyweight.data.roots import find_in_roots
from pennyweight.data.split import stratified_test_mask
from pennyweight.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "valid")}


def load_image_folder(
    split: str,
    root: str | os.PathLike[str] | None,
    *,
    path: str = "",
    size: int = 224,
    test_fraction: float = 0.2,
    normalization: Normalization = "imagenet",
) -> ImageDataset:
    """Pictures in <path>/<class>/, or in <path>/train/<class>/ and <path>/test/<class>/ (val serves as test).

    Class k is the k-th folder in alphabetical order. Each picture is decoded once: the shorter side resized to
    `size`, the centre cut out.

    Args:
        split: "train", "test", or "all" (everything, where the folder has no train and test of its own).
        path: the folder, absolute or relative to the root; empty for the root itself.
        size: side of the images in pixels, >= 1.
        test_fraction: where there are no train and test folders, the share that `stratified_test_mask` makes the
            test split, in (0, 1).
        normalization: as everywhere; see `normalization_constants`.

    Raises:
        DataError: no such folder, no class folders, no pictures, a picture that does not decode, too large for memory.
        MissingDependencyError: Pillow is not installed.
    """
    require_pillow("read pictures")
    if size < 1:
        raise DataError(f"size={size} is no image size: give the side in pixels, for example 224")
    folder = find_in_roots("image-folder", (path or ".",), root)
    name = path or folder.resolve().name
    divided = [side for side in _SPLIT_FOLDERS for place in _SPLIT_FOLDERS[side] if (folder / place).is_dir()]
    if divided:
        places = [folder / place for place in _SPLIT_FOLDERS.get(split, ()) if (folder / place).is_dir()]
        if not places:
            raise DataError(f"{folder} is divided into {', '.join(divided)}; it has no split {split!r}")
        files, labels, class_names = _listing(places[0])
    else:
        files, labels, class_names = _listing(folder)
        if split != "all":
            files, labels = _part(files, labels, split, test_fraction, folder)
    require_fits(name, len(files), size)
    mean, std = normalization_constants(normalization, 3)
    return ImageDataset(
        images=torch.stack([_decode(file, size) for file in files]),
        labels=torch.tensor(labels, dtype=torch.int64),
        num_classes=len(class_names),
        mean=mean,
        std=std,
        name=name,
        split=split,
        class_names=class_names,
    )


def _listing(folder: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(f"{folder} holds no folders: image-folder wants one folder a class, with the pictures inside")
    files, labels = [], []
    for label, place in enumerate(classes):
        inside = sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES)
        if not inside:
            raise DataError(f"class folder {place} holds no pictures ({', '.join(SUFFIXES)}): fill or remove it")
        files += inside
        labels += [label] * len(inside)
    return files, labels, tuple(place.name for place in classes)


def _part(
    files: list[Path], labels: list[int], split: str, test_fraction: float, folder: Path
) -> tuple[list[Path], list[int]]:
    num_test = round(len(files) * test_fraction)
    if not 0 < num_test < len(files):
        raise DataError(
            f"test_fraction={test_fraction} of the {len(files)} pictures in {folder} leaves the training or the test "
            'split empty: change it, or load split="all"'
        )
    mask = stratified_test_mask(torch.tensor(labels), num_test)
    chosen = (mask if split == "test" else ~mask).nonzero().flatten().tolist()
    return [files[index] for index in chosen], [labels[index] for index in chosen]


def _decode(file: Path, size: int) -> torch.Tensor:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return picture_tensor(picture, size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable picture ({error}): fetch it again or remove it") from error
