"""idx files: what is read, and every kind of damage."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pennyweight.data import load_dataset
from pennyweight.data.idx import read_idx
from pennyweight.errors import DataError


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A small set of the same layout: labels gzipped, images plain, so that both are read."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, count in (("train", 20), ("t10k", 10)):
        images = np.arange(count * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(count, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    return tmp_path


def test_reads_both_splits(mnist: Path) -> None:
    train, test = load_dataset("mnist", root=mnist), load_dataset("mnist", split="test", root=mnist)
    assert (len(train), len(test), train.shape) == (20, 10, (1, 28, 28))
    assert train.labels.tolist() == [*range(10), *range(10)]
    assert train.images.flatten()[:300].equal(torch.arange(300).to(torch.uint8))
    assert train.normalize(train.images).min() == -1


def test_fashion_mnist_has_a_folder_of_its_own(mnist: Path) -> None:
    (mnist / "MNIST").rename(mnist / "FashionMNIST")
    assert load_dataset("fashion-mnist", root=mnist).name == "fashion-mnist"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-1], "only 15679 follow"),
        (lambda b: b + b"x", "more follow"),
        (lambda b: b"\0\0\x08\x01" + b[4:], "magic number 0x00000801 is not 0x00000803"),
        (lambda b: b"\0\0\x0d\x03" + b[4:], "magic number"),
        (lambda b: b"", "magic number"),
        (lambda b: b[:9], "truncated within the header"),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], "empty or beyond"),
        (lambda b: b[:4] + b"\0" * 12 + b[16:], "empty or beyond"),
        (lambda b: b[:4] + struct.pack(">I", 19) + b[8:], "more follow"),
        (lambda b: b[:4] + struct.pack(">3I", 19, 28, 28) + b[16 : 16 + 19 * 784], "19 images, but .* 20 labels"),
    ],
)
def test_damaged_images_are_refused(mnist: Path, damage, message: str) -> None:
    path = mnist / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        load_dataset("mnist", root=mnist)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"\x1f\x8c" + b[2:],  # not gzip at all
        lambda b: b[: len(b) // 2],  # ends early
        lambda b: b[:12] + bytes(8) + b[20:],  # the deflate stream is broken
        lambda b: b[:-8] + bytes(8),  # the checksum does not fit
    ],
)
def test_damaged_gzip_is_refused(mnist: Path, damage) -> None:
    path = mnist / "MNIST/raw/train-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="damaged gzip"):
        load_dataset("mnist", root=mnist)


def test_label_out_of_range_names_the_sample(mnist: Path) -> None:
    labels = np.zeros(20, dtype=np.uint8)
    labels[7] = 10
    (mnist / "MNIST/raw/train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    with pytest.raises(DataError, match="label 10 of sample 7"):
        load_dataset("mnist", root=mnist)


def test_missing_file_is_named(mnist: Path) -> None:
    (mnist / "MNIST/raw/t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match="neither t10k-images-idx3-ubyte nor"):
        load_dataset("mnist", split="test", root=mnist)


def test_unreadable_path_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path, 3)


def test_the_real_mnist(data_root: Path) -> None:
    test = load_dataset("mnist", split="test", root=data_root)
    assert (len(test), test.shape) == (10_000, (1, 28, 28))
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert torch.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
