"""Hugging Face sets through a stand-in for `datasets` with the few calls that are made of it."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image as Pillow

from pennyweight.data import ImageDataset, TextDataset, load_dataset
from pennyweight.errors import DataError, MissingDependencyError


class Image: ...


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Value:
    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class Table:
    """What `datasets.Dataset` is to us: features, columns by name, rows by iteration."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self.columns, self.features = columns, features

    def __getitem__(self, column: str) -> list[Any]:
        return self.columns[column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __iter__(self) -> Any:
        return (dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True))


def pictures(**changes: Any) -> Table:
    columns = {"img": [Pillow.new("RGB", (5, 5), (n, n, n)) for n in range(3)], "kind": [0, 1, 1]}
    features = {"img": Image(), "kind": ClassLabel(["cat", "dog"])}
    return Table(columns | changes.get("columns", {}), features | changes.get("features", {}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The stand-in; a test puts what is to be found into `.table`."""
    box = SimpleNamespace(table=pictures(), calls=[])
    module = ModuleType("datasets")

    def load(name: str, config: str | None = None, split: str | None = None) -> Any:
        box.calls.append((name, config, split))
        if isinstance(box.table, Exception):
            raise box.table
        return box.table

    module.load_dataset = module.load_from_disk = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setenv("PENNYWEIGHT_DATA", str(tmp_path))
    return box


def test_pictures_become_an_image_dataset(hub: SimpleNamespace) -> None:
    data = load_dataset("hf:animals", split="validation", size=4, config="small")
    assert isinstance(data, ImageDataset)
    assert hub.calls == [("animals", "small", "validation")]
    assert (data.shape, data.labels.tolist(), data.class_names) == ((3, 4, 4), [0, 1, 1], ("cat", "dog"))
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_column_called_label_needs_no_class_names(hub: SimpleNamespace) -> None:
    hub.table = Table({"img": hub.table["img"], "label": [2, 0, 1]}, {"img": Image(), "label": Value("int64")})
    data = load_dataset("hf:animals")
    assert isinstance(data, ImageDataset)
    assert data.num_classes == 3


def test_text_becomes_a_text_dataset(hub: SimpleNamespace) -> None:
    hub.table = Table({"id": [1, 2], "text": ["ab", "b"]}, {"id": Value("int64"), "text": Value("string")})
    data = load_dataset("hf:book")
    assert isinstance(data, TextDataset)
    assert "".join(data.vocabulary[token] for token in data.tokens) == "ab\nb"


def test_a_saved_set_is_read_from_the_root(hub: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals/dataset_dict.json").write_text("{}")
    hub.table = {"train": pictures()}
    assert len(load_dataset("hf:animals")) == 3
    assert hub.calls == [(str(tmp_path / "animals"), None, None)]
    with pytest.raises(DataError, match="no split 'trian'; did you mean 'train'"):
        load_dataset("hf:animals", split="trian")


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (ConnectionError("no route"), {}, "ConnectionError: no route"),
        (pictures(), {"label_column": "kinds"}, "no column 'kinds'; did you mean 'kind'"),
        (pictures(), {"image_column": "image"}, "no column 'image'"),
        (pictures(columns={"b": [0, 0, 0]}, features={"b": ClassLabel(["x"])}), {}, "several columns .*: kind, b"),
        (pictures(features={"kind": Value("int64")}), {}, "no column of class labels"),
        (pictures(columns={"kind": [0.5, 1.0, 1.0]}), {}, "float64, not integer"),
        (Table({"x": [1]}, {"x": Value("int64")}), {}, "neither pictures nor text"),
        (pictures(), {"sise": 4}, "no option 'sise'; did you mean 'size'"),
    ],
)
def test_what_does_not_fit_is_named(hub: SimpleNamespace, table: Any, options: dict[str, Any], message: str) -> None:
    hub.table = table
    with pytest.raises(DataError, match=message):
        load_dataset("hf:animals", **options)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pennyweight\[hf\]"):
        load_dataset("hf:animals")
