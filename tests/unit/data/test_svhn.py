"""SVHN's reader on MATLAB files made here, sound, damaged and of other content."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

import pennyweight as pw
from pennyweight.data import load_dataset
from pennyweight.errors import DataError


def arrays(count: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
    return {"X": images, "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "SVHN").mkdir()
    for seed, split in enumerate(("train", "test", "extra")):
        scipy.io.savemat(tmp_path / "SVHN" / f"{split}_32x32.mat", arrays(24 + seed, seed), do_compression=seed == 1)
    return tmp_path


@pytest.mark.parametrize(("split", "count"), [("train", 24), ("test", 25), ("extra", 26)])
def test_each_image_and_label_is_where_the_file_has_it(split: str, count: int, folder: Path) -> None:
    found = load_dataset("svhn", split, folder)
    content = scipy.io.loadmat(folder / "SVHN" / f"{split}_32x32.mat")
    assert (len(found), found.shape, found.num_classes, found.split) == (count, (3, 32, 32), 10, split)
    for number, row, column, channel in ((0, 0, 0, 0), (5, 31, 2, 1), (count - 1, 7, 30, 2)):
        assert int(found.images[number, channel, row, column]) == content["X"][row, column, channel, number]
    assert found.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # the file's 10 is the digit zero
    assert found.mean == (128 / 255,) * 3


def test_one_image_and_labels_in_a_row(tmp_path: Path) -> None:
    (tmp_path / "svhn").mkdir()
    scipy.io.savemat(tmp_path / "svhn/train_32x32.mat", arrays(1))  # MATLAB drops the last dimension
    assert load_dataset("svhn", "train", tmp_path).labels.tolist() == [1]
    content = arrays(12)
    scipy.io.savemat(tmp_path / "svhn/test_32x32.mat", content | {"y": content["y"].T.astype(np.float64)})
    assert load_dataset("svhn", "test", tmp_path).labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]


def test_a_net_takes_it(folder: Path) -> None:
    data = load_dataset("svhn", "train", folder)
    model = pw.create_model("mlp", input_shape=data.shape, hidden=())
    assert pw.evaluate(model, data).n == 24


def changed(**entries: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {key: value for key, value in (arrays(12) | entries).items() if value is not None}


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (changed(X=None), r"X is missing, expected uint8 \(32, 32, 3, N\)"),
        (changed(X=np.zeros((32, 32, 3, 12))), r"X is float64 \(32, 32, 3, 12\)"),
        (changed(X=np.zeros((12, 32, 32, 3), dtype=np.uint8)), r"X is uint8 \(12, 32, 32, 3\)"),
        (changed(X="no image"), "X is "),
        (changed(y=None), r"y is missing, expected numbers \(N, 1\)"),
        (changed(y=np.ones((3, 4))), r"y is float64 \(3, 4\)"),
        (changed(y=np.ones((11, 1))), "12 images and 11 labels"),
        (changed(y=np.r_[np.ones(11), 11][:, None]), "label 11.0 of sample 11 is none of 1 to 10"),
        (changed(y=np.r_[np.ones(11), np.nan][:, None]), "label nan of sample 11"),
        (changed(y=np.r_[np.ones(11), 1.5][:, None]), "label 1.5 of sample 11"),
        (changed(y=np.zeros((12, 1), dtype=np.uint8)), "label 0 of sample 0"),
        (changed(X=np.zeros((32, 32, 3, 0), dtype=np.uint8), y=np.zeros((0, 1))), "X is |holds no images|y is "),
    ],
)
def test_other_content_is_told_by_file_and_array(content: Any, answer: str, tmp_path: Path) -> None:
    (tmp_path / "svhn").mkdir()
    path = tmp_path / "svhn/train_32x32.mat"
    scipy.io.savemat(path, content())
    with pytest.raises(DataError, match=answer) as caught:
        load_dataset("svhn", "train", tmp_path)
    assert str(path) in str(caught.value) or "'svhn' (train)" in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 100, 127, 128, 140, 5000, 40_000])
def test_cut_files_are_told(kept: int, folder: Path) -> None:
    for name in ("train", "test"):  # plain and compressed
        path = folder / f"SVHN/{name}_32x32.mat"
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(DataError, match=rf"{path.name}.*(damaged|missing).*fetch it again|X is|y is"):
            load_dataset("svhn", name, folder)


def test_flipped_bytes_never_raise_anything_else(folder: Path) -> None:
    path = folder / "SVHN/test_32x32.mat"
    sound = path.read_bytes()
    for seed in range(40):
        damaged = bytearray(sound)
        places = torch.randint(0, len(sound), (3,), generator=torch.Generator().manual_seed(seed)).tolist()
        places.append(seed * 5 % 200)  # headers are where readers stumble
        for place in places:
            damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):  # or it hit a pixel, and nothing is wrong
            load_dataset("svhn", "test", folder)


def test_a_missing_split_and_text_files_are_told(folder: Path) -> None:
    (folder / "SVHN/train_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"train_32x32\.mat is missing.*fetch it again"):
        load_dataset("svhn", "train", folder)
    (folder / "SVHN/test_32x32.mat").write_text("this is no MATLAB file, but it is long enough to be looked at" * 10)
    with pytest.raises(DataError, match="is no MATLAB file of version 5"):
        load_dataset("svhn", "test", folder)
    with pytest.raises(DataError, match="no split 'valid'"):
        load_dataset("svhn", "valid", folder)
