"""`load_dataset`: names, roots, and what is said when they are wrong."""

from pathlib import Path

import pytest

from pennyweight.data import list_datasets, load_dataset
from pennyweight.errors import DataError


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(DataError, match="unknown data set 'cifar-10'; did you mean 'cifar10'"):
        load_dataset("cifar-10")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "ptb", "svhn"])
def test_missing_folder_names_both_roots(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENNYWEIGHT_DATA", "elsewhere")
    with pytest.raises(DataError, match=rf"'{name}' not found.*PENNYWEIGHT_DATA='elsewhere' and './data'.*pass root="):
        load_dataset(name)
    monkeypatch.delenv("PENNYWEIGHT_DATA")
    with pytest.raises(DataError, match=r"'\./data'.*PENNYWEIGHT_DATA is not set"):
        load_dataset(name)
    with pytest.raises(DataError, match="root='there'"):
        load_dataset(name, root="there")


def test_roots_are_tried_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, word in (("variable", "v"), ("data", "d"), ("given", "g")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.txt").write_text(word * 100)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENNYWEIGHT_DATA", raising=False)
    assert load_dataset("text", path="x.txt").vocabulary == ("d",)
    monkeypatch.setenv("PENNYWEIGHT_DATA", str(tmp_path / "variable"))
    assert load_dataset("text", path="x.txt").vocabulary == ("v",)
    assert load_dataset("text", path="x.txt", root="given").vocabulary == ("g",)
    (tmp_path / "variable/x.txt").unlink()
    assert load_dataset("text", path="x.txt").vocabulary == ("d",)


def test_every_listed_name_is_known(tmp_path: Path) -> None:
    for name in list_datasets():
        if name.startswith("hf:"):
            continue
        with pytest.raises(DataError, match="has no option 'colour'"):
            load_dataset(name, root=tmp_path, colour=1)
