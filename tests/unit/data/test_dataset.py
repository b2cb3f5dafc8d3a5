"""The records: shapes, normalisation, refusals."""

import pytest
import torch

from pennyweight.data import ImageDataset, TextDataset
from pennyweight.data.normalization import normalization_constants
from pennyweight.data.split import stratified_test_mask
from pennyweight.errors import DataError


def image_dataset(**changes: object) -> ImageDataset:
    fields: dict[str, object] = {
        "images": torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8),
        "labels": torch.tensor([0, 1, 2, 1]),
        "num_classes": 3,
        "mean": (128 / 255,),
        "std": (128 / 255,),
        "name": "ramp",
        "split": "train",
    }
    return ImageDataset(**{**fields, **changes})  # type: ignore[arg-type]


def test_centered_normalisation_is_exact_for_every_byte() -> None:
    dataset = image_dataset()
    expected = (torch.arange(256, dtype=torch.float64) - 128) / 128
    got = dataset.normalize(dataset.images)
    assert got.dtype == torch.float32
    assert got.double().flatten().equal(expected)


def test_imagenet_normalisation_is_the_formula() -> None:
    mean, std = normalization_constants("imagenet", 3)
    images = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    dataset = image_dataset(images=images, labels=torch.tensor([0]), mean=mean, std=std)
    wanted = (images.double() / 255 - torch.tensor(mean).double().reshape(1, 3, 1, 1)) / torch.tensor(
        std
    ).double().reshape(1, 3, 1, 1)
    torch.testing.assert_close(dataset.normalize(images).double(), wanted, atol=1e-6, rtol=1e-6)


def test_normalize_leaves_the_bytes_alone() -> None:
    dataset = image_dataset()
    before = dataset.images.clone()
    dataset.normalize(dataset.images)
    assert dataset.images.equal(before)


def test_subset_takes_the_named_samples_in_their_order() -> None:
    part = image_dataset().subset([3, 0])
    assert len(part) == 2
    assert part.labels.tolist() == [1, 0]
    assert part.images[1].equal(image_dataset().images[0])
    assert part.num_classes == 3


@pytest.mark.parametrize("indices", [[4], [-5], [0, 99]])
def test_subset_refuses_a_sample_that_is_not_there(indices: list[int]) -> None:
    with pytest.raises(DataError, match="there is no sample"):
        image_dataset().subset(indices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(4, 1, 8, 8)}, "must be uint8"),
        ({"images": torch.zeros(4, 8, 8, dtype=torch.uint8)}, "must be uint8"),
        (
            {"images": torch.zeros(0, 1, 8, 8, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)},
            "no images",
        ),
        ({"labels": torch.tensor([0, 1])}, "one an image"),
        ({"labels": torch.tensor([0, 1, 3, 0])}, "label 3 of sample 2 is outside 0..2"),
        ({"labels": torch.tensor([0, -1, 3, 0])}, "label -1 of sample 1"),
        ({"mean": (0.5, 0.5)}, "need 1 entries"),
        ({"std": (0.0,)}, "std > 0"),
        ({"class_names": ("a",)}, "1 class names for 3"),
    ],
)
def test_image_dataset_refuses_what_does_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_dataset(**changes)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([0, 2]), "vocabulary of 2"),
        (torch.tensor([0.0]), "must be int64"),
        (torch.zeros(0, dtype=torch.int64), "no tokens"),
    ],
)
def test_text_dataset_refuses_what_does_not_fit(tokens: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TextDataset(tokens=tokens, vocabulary=("a", "b"), name="x", split="train")


@pytest.mark.parametrize("normalization", ["imagenets", ((0.5, 0.5), (0.5,)), ((0.5,),)])
def test_unknown_normalisation_is_named(normalization: object) -> None:
    with pytest.raises(DataError, match="normalization"):
        normalization_constants(normalization, 3)  # type: ignore[arg-type]


def test_imagenet_normalisation_does_not_fit_grey_images() -> None:
    with pytest.raises(DataError, match="1 channel"):
        normalization_constants("imagenet", 1)


@pytest.mark.parametrize("num_test", [0, 1, 7, 40, 100])
def test_stratified_split_takes_the_number_and_the_shares(num_test: int) -> None:
    labels = torch.arange(100) * 7 % 3
    mask = stratified_test_mask(labels, num_test)
    assert int(mask.sum()) == num_test
    for label in range(3):
        share = int((labels == label).sum()) * num_test / 100
        assert abs(int(mask[labels == label].sum()) - share) <= 1
