"""SVHN's cropped digits from their MATLAB files: (32, 32, 3, N) bytes, and labels 1 to 10 where 10 is the digit 0."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.normalization import Normalization, normalization_constants
from pennyweight.data.roots import find_in_roots
from pennyweight.errors import DataError

_SIDE, _CHANNELS = 32, 3
_AGAIN = "fetch it again from the data set's page (format 2, cropped digits)"


def load_svhn(
    split: str, root: str | os.PathLike[str] | None, *, normalization: Normalization = "centered"
) -> ImageDataset:
    """SVHN from SVHN (or svhn) under the root: {train,test,extra}_32x32.mat, as the data set's page gives them.

    Args:
        split: "train" (73,257 images), "test" (26,032) or "extra" (531,131 easier ones, some 1.6 GB in memory).

    Raises:
        DataError: files are missing, damaged, or hold no such arrays.

    Source: Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011.
    """
    folder = find_in_roots("svhn", ("SVHN", "svhn"), root)
    path = folder / f"{split}_32x32.mat"
    if not path.is_file():
        raise DataError(f"{path} is missing: the data set 'svhn' is incomplete; {_AGAIN}")
    content = _read(path)
    images, labels = _images(content.get("X"), path), _labels(content.get("y"), path)
    if len(images) != len(labels):
        raise DataError(f"{path}: {len(images)} images and {len(labels)} labels: damaged; {_AGAIN}")
    mean, std = normalization_constants(normalization, _CHANNELS)
    return ImageDataset(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        num_classes=10,
        mean=mean,
        std=std,
        name="svhn",
        split=split,
    )


def _read(path: Path) -> dict[str, Any]:
    """The two arrays of a MATLAB file; other variables in it are not even looked at."""
    from scipy.io import loadmat

    try:
        found: dict[str, Any] = loadmat(path, variable_names=("X", "y"))
    except MemoryError as error:
        raise DataError(f"{path}: its arrays do not fit into memory") from error
    except Exception as error:  # scipy's reader raises whatever a damaged file leads it to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is no MATLAB file of version 5, or damaged ({reason}); {_AGAIN}") from error
    return found


def _images(array: Any, path: Path) -> np.ndarray:
    """(N, 3, 32, 32)."""
    expected = (_SIDE, _SIDE, _CHANNELS)
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != np.uint8
        or array.ndim not in (3, 4)  # MATLAB drops a last dimension of one
        or array.shape[:3] != expected
    ):
        raise DataError(f"{path}: X is {_described(array)}, expected uint8 (32, 32, 3, N): not SVHN's cropped digits")
    return np.ascontiguousarray(array.reshape(*expected, -1).transpose(3, 2, 0, 1))


def _labels(array: Any, path: Path) -> np.ndarray:
    """(N,) int64, the digits themselves."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif" or array.size != max(array.shape, default=0):
        raise DataError(f"{path}: y is {_described(array)}, expected numbers (N, 1): not SVHN's cropped digits")
    flat = array.reshape(-1)
    odd = ~np.isin(flat, np.arange(1, 11))
    if odd.any():
        place = int(np.flatnonzero(odd)[0])
        raise DataError(f"{path}: label {flat[place]} of sample {place} is none of 1 to 10: damaged; {_AGAIN}")
    return flat.astype(np.int64) % 10


def _described(array: Any) -> str:
    if array is None:
        return "missing"
    return f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
