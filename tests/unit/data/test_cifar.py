"""CIFAR in both layouts, at full size: damage, and that both layouts give the same."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from pennyweight.data import load_dataset
from pennyweight.errors import DataError

RECORD = 3073


def records(count: int, seed: int, label_bytes: int = 1) -> np.ndarray:
    """Random-looking pixels, cheaply; labels count up."""
    table = np.zeros((count, label_bytes + 3072), dtype=np.uint8)
    table[:, label_bytes:] = np.arange(3072, dtype=np.uint8) + np.arange(count, dtype=np.uint8)[:, None] + seed
    return table


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A test batch in the binary layout."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    table = records(10_000, seed=3)
    table[:, 0] = np.arange(10_000) % 10
    table.tofile(folder / "test_batch.bin")
    return tmp_path


def test_reads_the_binary_layout(binary: Path) -> None:
    test = load_dataset("cifar10", split="test", root=binary)
    assert (len(test), test.shape, test.num_classes) == (10_000, (3, 32, 32), 10)
    assert test.labels[:12].tolist() == [*range(10), 0, 1]
    assert test.images[5].flatten()[:4].tolist() == [8, 9, 10, 11]
    assert test.mean == (0.485, 0.456, 0.406)


def test_class_names_are_read_or_refused(binary: Path) -> None:
    names = binary / "cifar-10-batches-bin/batches.meta.txt"
    names.write_text("\n".join("abcdefghij") + "\n\n")
    assert load_dataset("cifar10", split="test", root=binary).class_names == tuple("abcdefghij")
    names.write_text("a\nb\n")
    with pytest.raises(DataError, match="2 class names for 10"):
        load_dataset("cifar10", split="test", root=binary)


@pytest.mark.parametrize("size", [0, RECORD, 10_000 * RECORD - 1, 9_999 * RECORD, 10_000 * RECORD + 1])
def test_wrong_size_is_refused(binary: Path, size: int) -> None:
    with (binary / "cifar-10-batches-bin/test_batch.bin").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(DataError, match=r"test_batch\.bin: \d+ bytes is not 10000 records"):
        load_dataset("cifar10", split="test", root=binary)


def test_label_out_of_range_names_the_record(binary: Path) -> None:
    with (binary / "cifar-10-batches-bin/test_batch.bin").open("r+b") as file:
        file.seek(77 * RECORD)
        file.write(b"\x0b")
    with pytest.raises(DataError, match="label 11 of record 77"):
        load_dataset("cifar10", split="test", root=binary)


def test_missing_batch_is_named(binary: Path) -> None:
    with pytest.raises(DataError, match=r"data_batch_1\.bin is missing"):
        load_dataset("cifar10", root=binary)


def test_cifar100_fine_and_coarse(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    table = records(10_000, seed=0, label_bytes=2)
    table[:, 0], table[:, 1] = np.arange(10_000) % 20, np.arange(10_000) % 100
    table.tofile(folder / "test.bin")
    fine = load_dataset("cifar100", split="test", root=tmp_path)
    coarse = load_dataset("cifar100", split="test", root=tmp_path, labels="coarse")
    assert (fine.num_classes, coarse.num_classes) == (100, 20)
    assert (int(fine.labels[57]), int(coarse.labels[57])) == (57, 17)
    assert fine.images[1].flatten()[:3].tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="did you mean 'fine'"):
        load_dataset("cifar100", split="test", root=tmp_path, labels="fin")


@pytest.mark.parametrize("key", [lambda name: name, lambda name: name.encode()], ids=["text", "bytes"])
def test_the_pickled_layout_gives_the_same(binary: Path, tmp_path: Path, key) -> None:
    reference = load_dataset("cifar10", split="test", root=binary)
    folder = tmp_path / "other" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    content = {key("labels"): reference.labels.tolist(), key("data"): reference.images.reshape(-1, 3072).numpy()}
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    pickled = load_dataset("cifar10", split="test", root=tmp_path / "other")
    assert pickled.images.equal(reference.images)
    assert pickled.labels.equal(reference.labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({"labels": [0]}, "'data' is NoneType"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}, r"'data' is \(2, 3072\)"),
        ({"data": np.zeros((10_000, 3072), np.uint8), "labels": [0] * 9_999}, "not 9999 entries"),
        ({"data": np.zeros((10_000, 3072), np.uint8), "labels": ["a"] * 10_000}, "list of 10000 integers"),
        ({"data": np.zeros((10_000, 3072), np.uint8), "labels": [0] * 9_999 + [10]}, "label 10 of record 9999"),
    ],
)
def test_wrong_contents_of_a_pickle_are_refused(tmp_path: Path, content: object, message: str) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=message):
        load_dataset("cifar10", split="test", root=tmp_path)


def test_the_real_cifar10(data_root: Path) -> None:
    test = load_dataset("cifar10", split="test", root=data_root, normalization="centered")
    assert len(test) == 10_000
    assert test.labels.bincount().tolist() == [1000] * 10
    assert test.class_names[int(test.labels[0])] == "cat"
    assert test.normalize(test.images[:1]).abs().max() <= 1
