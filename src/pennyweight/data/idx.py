"""The idx format of MNIST and Fashion-MNIST, plain or gzipped; every header field is checked against the bytes."""

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.normalization import Normalization, normalization_constants
from pennyweight.data.roots import find_in_roots
from pennyweight.errors import DataError

_UINT8 = 0x08
_MAX_BYTES = 2**31  # beyond this a header is taken for damage, not for a data set


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """The array of an idx file of unsigned bytes.

    Args:
        path: the file; gzipped when its name ends in .gz.
        num_dims: 3 for images, 1 for labels.

    Returns:
        uint8, with the shape the header gives.

    Raises:
        DataError: missing, damaged gzip, wrong magic number, more or fewer bytes than the header promises.

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", file format section.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                return _parse(file, path, num_dims)
        with path.open("rb") as file:
            return _parse(file, path, num_dims)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _parse(file: io.BufferedIOBase, path: Path, num_dims: int) -> np.ndarray:
    magic = file.read(4)
    expected = bytes([0, 0, _UINT8, num_dims])
    if magic != expected:
        raise DataError(
            f"{path}: magic number 0x{magic.hex()} is not 0x{expected.hex()} (unsigned bytes in {num_dims} "
            "dimension(s)): not an idx file, or images and labels are swapped"
        )
    header = file.read(4 * num_dims)
    if len(header) < 4 * num_dims:
        raise DataError(f"{path}: truncated within the header: {4 + len(header)} bytes in all")
    shape = struct.unpack(f">{num_dims}I", header)
    count = math.prod(shape)
    if not 0 < count <= _MAX_BYTES:
        raise DataError(f"{path}: the header gives shape {shape}, which is empty or beyond {_MAX_BYTES} bytes: damaged")
    body = file.read(count + 1)  # one byte more than wanted tells an overlong file without reading all of it
    if len(body) != count:
        found = f"only {len(body)}" if len(body) < count else "more"
        raise DataError(
            f"{path}: the header gives shape {shape} = {count} bytes, but {found} follow: truncated or damaged"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def load_mnist(
    split: str, root: str | os.PathLike[str] | None, *, normalization: Normalization = "centered"
) -> ImageDataset:
    """MNIST from MNIST/raw (or mnist) under the root: 60,000 + 10,000 grey images of 28x28."""
    return _load("mnist", ("MNIST/raw", "mnist"), split, root, normalization)


def load_fashion_mnist(
    split: str, root: str | os.PathLike[str] | None, *, normalization: Normalization = "centered"
) -> ImageDataset:
    """Fashion-MNIST from FashionMNIST/raw (or fashion-mnist) under the root; the same format as MNIST."""
    return _load("fashion-mnist", ("FashionMNIST/raw", "fashion-mnist"), split, root, normalization)


def _load(
    name: str,
    places: tuple[str, ...],
    split: str,
    root: str | os.PathLike[str] | None,
    normalization: Normalization,
) -> ImageDataset:
    folder = find_in_roots(name, places, root)
    prefix = "train" if split == "train" else "t10k"
    images_path = _plain_or_gz(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _plain_or_gz(folder, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(f"{images_path} holds {len(images)} images, but {labels_path} {len(labels)} labels")
    if labels.max() > 9:
        index = int(labels.argmax())
        raise DataError(f"{labels_path}: label {labels[index]} of sample {index} is outside 0..9: damaged")
    mean, std = normalization_constants(normalization, 1)
    return ImageDataset(
        images=torch.from_numpy(images[:, None].copy()),
        labels=torch.from_numpy(labels.astype(np.int64)),
        num_classes=10,
        mean=mean,
        std=std,
        name=name,
        split=split,
    )


def _plain_or_gz(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise DataError(f"{folder} holds neither {name} nor {name}.gz: the data set is incomplete")
