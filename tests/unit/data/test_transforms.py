"""Batched augmentation against the pixel-by-pixel oracle."""

import numpy as np
import pytest
import torch

from oracles.augmentation import crop, cutout, flip
from pennyweight.data import Augment
from pennyweight.data.transforms import crop_and_flip, cut_out_, resize
from pennyweight.errors import DataError


def words(*columns: list[int]) -> torch.Tensor:
    return torch.tensor(columns, dtype=torch.int64).t().contiguous()


def word(value: int, limit: int, bits: int = 32) -> int:
    """A word that the fixed-point rule maps to `value` below `limit`."""
    return -(-(value << bits) // limit)


@pytest.mark.parametrize("mirror", [0, 1])
def test_every_window_is_the_oracles(mirror: int) -> None:
    image = torch.randint(1, 256, (1, 2, 5, 7), dtype=torch.uint8)
    places = [(top, left) for top in range(5) for left in range(5)]
    drawn = words(
        [word(top, 5) for top, _ in places],
        [word(left, 5) for _, left in places],
        [mirror << 31] * len(places),
        [0] * len(places),
    )
    got = crop_and_flip(image.repeat(len(places), 1, 1, 1), drawn, Augment(crop_padding=2, flip=True))
    for picture, (top, left) in zip(got.numpy(), places, strict=True):
        expected = crop(image[0].numpy(), 2, top, left)
        np.testing.assert_array_equal(picture, flip(expected) if mirror else expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 20])
def test_every_cutout_is_the_oracles(size: int) -> None:
    image = torch.rand(1, 2, 5, 7) + 1
    places = [(y, x) for y in range(5) for x in range(7)]
    last = [word(y, 5, 16) << 16 | word(x, 7, 16) for y, x in places]
    zeros = [0] * len(places)
    got = cut_out_(image.repeat(len(places), 1, 1, 1), words(zeros, zeros, zeros, last), Augment(cutout=size))
    for picture, (y, x) in zip(got.numpy(), places, strict=True):
        np.testing.assert_array_equal(picture, cutout(image[0].numpy(), size, y, x))


def test_nothing_asked_changes_nothing() -> None:
    images = torch.randint(0, 256, (3, 1, 4, 4), dtype=torch.uint8)
    drawn = torch.full((3, 4), 2**32 - 1)
    assert crop_and_flip(images, drawn, Augment()).equal(images)
    assert cut_out_(images.float(), drawn, Augment()).equal(images.float())


def test_resize_keeps_what_has_the_size_and_preserves_a_constant() -> None:
    inputs = torch.full((2, 1, 8, 8), 0.25)
    assert resize(inputs, 8) is inputs
    torch.testing.assert_close(resize(inputs, 5), torch.full((2, 1, 5, 5), 0.25))
    torch.testing.assert_close(resize(inputs, 13), torch.full((2, 1, 13, 13), 0.25))


@pytest.mark.parametrize("field", ["crop_padding", "cutout"])
def test_negative_sizes_are_refused(field: str) -> None:
    with pytest.raises(DataError, match=rf"Augment\({field}=-1\)"):
        Augment(**{field: -1})
