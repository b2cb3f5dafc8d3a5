"""The embedded data set: 1797 handwritten digits of 8x8 pixels, so that everything can be tried without a download."""

import os
from importlib import resources

import numpy as np
import torch

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.normalization import Normalization, normalization_constants
from pennyweight.data.split import stratified_test_mask
from pennyweight.errors import DataError

NUM_TEST = 360


def load_digits(
    split: str,
    root: str | os.PathLike[str] | None = None,
    *,
    normalization: Normalization = "centered",
) -> ImageDataset:
    """The classic digits: 1437 training and 360 test images, (1, 8, 8), ten classes.

    The original holds 0..16 (pixels set in a 4x4 cell); it is spread over a byte as value * 255 // 16. The split is
    that of `stratified_test_mask`: 20 % of each class, evenly spread in file order, the same for everyone. Writers
    occur on both sides, as in the random splits usually made of this set.

    Args:
        root: None; every loader takes one, but this set is embedded.

    Raises:
        DataError: a root is given.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
        data set 80, its test part, CC BY 4.0; see digits.LICENSE.md.
    """
    if root is not None:
        raise DataError(f"data set 'digits' is embedded and takes no root, but {str(root)!r} was given: leave it out")
    source = resources.files("pennyweight.data") / "digits.npz"
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        cells, classes = arrays["images"], arrays["labels"]
    images = torch.from_numpy((cells.astype(np.uint16) * 255 // 16).astype(np.uint8))[:, None]
    labels = torch.from_numpy(classes.astype(np.int64))
    test = stratified_test_mask(labels, NUM_TEST)
    chosen = test if split == "test" else ~test
    mean, std = normalization_constants(normalization, 1)
    return ImageDataset(
        images=images[chosen],
        labels=labels[chosen],
        num_classes=10,
        mean=mean,
        std=std,
        name="digits",
        split=split,
    )
