"""Folders of pictures: classes, splits, decoding, refusals."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pennyweight.data import load_dataset
from pennyweight.errors import DataError, MissingDependencyError


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of five pictures; red says which class, green which picture."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(5):
            picture(tmp_path / "pets" / name / f"{number}.png", (100 * label, 10 * number, 7))
    (tmp_path / "pets/cat/notes.txt").write_text("no picture")
    return tmp_path


def test_classes_are_folders_in_alphabetical_order(pets: Path) -> None:
    data = load_dataset("image-folder", split="all", root=pets, path="pets", size=8)
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [0] * 5 + [1] * 5
    assert data.images[6, :, 3, 3].tolist() == [100, 10, 7]
    assert (data.shape, data.name) == ((3, 8, 8), "pets")


def test_undivided_folders_are_split_by_a_fixed_rule(pets: Path) -> None:
    parts = [load_dataset("image-folder", split=s, root=pets, path="pets", size=8) for s in ("train", "test")]
    assert [len(part) for part in parts] == [8, 2]
    assert [part.labels.bincount().tolist() for part in parts] == [[4, 4], [1, 1]]
    seen = [tuple(image[:, 0, 0].tolist()) for part in parts for image in part.images]
    assert len(set(seen)) == 10


@pytest.mark.parametrize("place", ["test", "val"])
def test_divided_folders_are_taken_as_they_are(tmp_path: Path, place: str) -> None:
    picture(tmp_path / "train/a/x.png", (1, 1, 1))
    picture(tmp_path / f"{place}/a/y.png", (2, 2, 2))
    assert load_dataset("image-folder", root=tmp_path, size=4).images.unique().tolist() == [1]
    assert load_dataset("image-folder", split="test", root=tmp_path, size=4).images.unique().tolist() == [2]
    with pytest.raises(DataError, match="divided into train, test; it has no split 'all'"):
        load_dataset("image-folder", split="all", root=tmp_path, size=4)


def test_the_centre_of_the_shorter_side_is_kept(tmp_path: Path) -> None:
    array = np.zeros((8, 24, 3), dtype=np.uint8)
    array[:, 8:16] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(array).save(tmp_path / "a/wide.png")
    data = load_dataset("image-folder", split="all", root=tmp_path, size=8)
    assert (data.images == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (9, 5), (255, 255, 255)).convert(mode).save(tmp_path / "a/x.png")
    assert (load_dataset("image-folder", split="all", root=tmp_path, size=16).images == 255).all()


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no folders"):
        load_dataset("image-folder", root=tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"cat holds no pictures \(\.png"):
        load_dataset("image-folder", root=tmp_path)
    with pytest.raises(DataError, match="not found: no 'dogs'"):
        load_dataset("image-folder", root=tmp_path, path="dogs")


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_damaged_pictures_are_named(pets: Path, content: bytes | None) -> None:
    path = pets / "pets/dog/3.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(DataError, match=r"3\.png: not a readable picture"):
        load_dataset("image-folder", split="all", root=pets, path="pets", size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"test_fraction": 0.0}, "test_fraction=0.0 of the 10"),
        ({"test_fraction": 1.0}, "test_fraction=1.0"),
        ({"size": 30_000}, "beyond the 2 GiB"),
    ],
)
def test_unsuitable_options(pets: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset("image-folder", root=pets, path="pets", **options)


def test_without_pillow_the_extra_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pennyweight\[images\]"):
        load_dataset("image-folder", root=pets, path="pets")
