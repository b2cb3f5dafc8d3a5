"""CIFAR-10 and CIFAR-100: the binary layout, and the pickled one through a reader that executes nothing."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.inert_pickle import read_inert_pickle
from pennyweight.data.normalization import Normalization, normalization_constants
from pennyweight.data.roots import find_in_roots
from pennyweight.errors import DataError, did_you_mean

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where one of the two sets keeps what."""

    name: str
    binary_folder: str
    pickled_folder: str
    binary_files: dict[str, tuple[str, ...]]
    pickled_files: dict[str, tuple[str, ...]]
    records: dict[str, int]  # per file
    label_bytes: int
    label_column: int
    label_key: str
    num_classes: int
    names_file: str


def load_cifar10(
    split: str, root: str | os.PathLike[str] | None, *, normalization: Normalization = "imagenet"
) -> ImageDataset:
    """CIFAR-10 from cifar-10-batches-bin or cifar-10-batches-py under the root: 50,000 + 10,000 images (3, 32, 32).

    Args:
        normalization: "imagenet" by default, which is what the public CIFAR nets expect; "centered" for exact
            8-bit codes.
    """
    batches = tuple(f"data_batch_{number}" for number in range(1, 6))
    layout = _Layout(
        name="cifar10",
        binary_folder="cifar-10-batches-bin",
        pickled_folder="cifar-10-batches-py",
        binary_files={"train": tuple(f"{name}.bin" for name in batches), "test": ("test_batch.bin",)},
        pickled_files={"train": batches, "test": ("test_batch",)},
        records={"train": 10_000, "test": 10_000},
        label_bytes=1,
        label_column=0,
        label_key="labels",
        num_classes=10,
        names_file="batches.meta.txt",
    )
    return _load(layout, split, root, normalization)


def load_cifar100(
    split: str,
    root: str | os.PathLike[str] | None,
    *,
    normalization: Normalization = "imagenet",
    labels: str = "fine",
) -> ImageDataset:
    """CIFAR-100 from cifar-100-binary or cifar-100-python under the root: 50,000 + 10,000 images (3, 32, 32).

    Args:
        labels: "fine" for the 100 classes, "coarse" for their 20 groups.
    """
    if labels not in ("fine", "coarse"):
        raise DataError(f"cifar100 has no labels={labels!r}; {did_you_mean(labels, ['fine', 'coarse'])}")
    layout = _Layout(
        name="cifar100",
        binary_folder="cifar-100-binary",
        pickled_folder="cifar-100-python",
        binary_files={"train": ("train.bin",), "test": ("test.bin",)},
        pickled_files={"train": ("train",), "test": ("test",)},
        records={"train": 50_000, "test": 10_000},
        label_bytes=2,
        label_column=1 if labels == "fine" else 0,
        label_key=f"{labels}_labels",
        num_classes=100 if labels == "fine" else 20,
        names_file=f"{labels}_label_names.txt",
    )
    return _load(layout, split, root, normalization)


def _load(
    layout: _Layout, split: str, root: str | os.PathLike[str] | None, normalization: Normalization
) -> ImageDataset:
    folder = find_in_roots(layout.name, (layout.binary_folder, layout.pickled_folder), root)
    count = layout.records[split]
    if folder.name == layout.binary_folder:
        parts = [_read_binary(folder / name, layout, count) for name in layout.binary_files[split]]
    else:
        parts = [_read_pickled(folder / name, layout, count) for name in layout.pickled_files[split]]
    images = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    mean, std = normalization_constants(normalization, 3)
    return ImageDataset(
        images=torch.from_numpy(images.reshape(-1, 3, 32, 32)),
        labels=torch.from_numpy(labels.astype(np.int64)),
        num_classes=layout.num_classes,
        mean=mean,
        std=std,
        name=layout.name,
        split=split,
        class_names=_class_names(folder / layout.names_file, layout.num_classes),
    )


def _read_binary(path: Path, layout: _Layout, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of label byte(s) and 3072 pixels, the planes of red, green and blue one after another."""
    if not path.is_file():
        raise DataError(f"{path} is missing: the data set {layout.name!r} is incomplete")
    record = layout.label_bytes + _PIXELS
    size = path.stat().st_size
    if size != count * record:
        raise DataError(
            f"{path}: {size} bytes is not {count} records of {record} bytes = {count * record}: truncated or damaged"
        )
    records = np.fromfile(path, dtype=np.uint8).reshape(count, record)
    labels = records[:, layout.label_column]
    _check_labels(path, labels, layout.num_classes)
    return records[:, layout.label_bytes :], labels


def _read_pickled(path: Path, layout: _Layout, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The dictionary of 'data' (count, 3072) and a list of labels, with keys of bytes (Python 2) or text."""
    content = read_inert_pickle(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__} instead of a dictionary: not a CIFAR file")
    fields = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    pixels, labels = fields.get("data"), fields.get(layout.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.shape != (count, _PIXELS):
        found = pixels.shape if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{path}: 'data' is {found} instead of ({count}, {_PIXELS}) bytes: damaged")
    if not isinstance(labels, list) or len(labels) != count or not all(type(label) is int for label in labels):
        found = f"{len(labels)} entries" if isinstance(labels, list) else type(labels).__name__
        raise DataError(f"{path}: {layout.label_key!r} must be a list of {count} integers, not {found}: damaged")
    array = np.array(labels)
    _check_labels(path, array, layout.num_classes)
    return pixels, array


def _check_labels(path: Path, labels: np.ndarray, num_classes: int) -> None:
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise DataError(f"{path}: label {labels[bad[0]]} of record {bad[0]} is outside 0..{num_classes - 1}: damaged")


def _class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """The names beside the binary files; none when the file is not there (the pickled layout has its own)."""
    if not path.is_file():
        return ()
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if len(names) != num_classes:
        raise DataError(f"{path}: {len(names)} class names for {num_classes} classes; mend or remove the file")
    return names
