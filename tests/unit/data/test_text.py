"""Texts: tokens, vocabularies, splits, refusals."""

from pathlib import Path

import pytest
import torch

from pennyweight.data import load_dataset
from pennyweight.errors import DataError


@pytest.fixture
def ptb(tmp_path: Path) -> Path:
    folder = tmp_path / "text" / "ptb"
    folder.mkdir(parents=True)
    (folder / "ptb.train.txt").write_text(" b a <unk> \n a\n")
    (folder / "ptb.valid.txt").write_text(" a zebra\n")
    (folder / "ptb.test.txt").write_text("b\n")
    return tmp_path


def test_ptb_words_lines_and_vocabulary(ptb: Path) -> None:
    train = load_dataset("ptb", root=ptb)
    assert train.vocabulary == ("<eos>", "a", "<unk>", "b")  # by falling count, then by alphabet
    assert train.tokens.tolist() == [3, 1, 2, 0, 1, 0]


def test_ptb_takes_unknown_words_as_unk(ptb: Path) -> None:
    assert load_dataset("ptb", split="valid", root=ptb).tokens.tolist() == [1, 2, 0]


def test_ptb_without_unk_refuses_unknown_words(ptb: Path) -> None:
    (ptb / "text/ptb/ptb.train.txt").write_text("a b\n")
    with pytest.raises(DataError, match="'zebra' is not in the training vocabulary"):
        load_dataset("ptb", split="valid", root=ptb)


@pytest.mark.parametrize("content", [None, ""])
def test_ptb_missing_or_empty_file(ptb: Path, content: str | None) -> None:
    path = ptb / "text/ptb/ptb.test.txt"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=r"ptb\.test\.txt is"):
        load_dataset("ptb", split="test", root=ptb)


def test_characters_are_split_in_order(tmp_path: Path) -> None:
    text = "abcdefghijÀ𝄞" * 10
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    parts = [
        load_dataset("text", split=s, root=tmp_path, path="book.txt", held_out=0.1) for s in ("train", "valid", "test")
    ]
    assert [len(part) for part in parts] == [96, 12, 12]
    assert parts[0].vocabulary == tuple("abcdefghijÀ𝄞")
    assert "".join(part.vocabulary[t] for part in parts for t in part.tokens.tolist()) == text


def test_words_of_a_plain_text(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("to be or\nnot to be\n" * 20)
    train = load_dataset("text", root=tmp_path, path="book.txt", level="words")
    assert [train.vocabulary[t] for t in train.tokens[:8]] == ["to", "be", "or", "<eos>", "not", "to", "be", "<eos>"]


def test_a_folder_with_one_text_is_found_under_text(tmp_path: Path) -> None:
    folder = tmp_path / "text" / "tiny"
    folder.mkdir(parents=True)
    (folder / "input.txt").write_text("hello " * 30)
    assert load_dataset("text", root=tmp_path, path="tiny").name == "input"
    with pytest.raises(DataError, match=r"needs path=.*there are: text/tiny/input\.txt"):
        load_dataset("text", root=tmp_path)
    (folder / "more.txt").write_text("x")
    with pytest.raises(DataError, match=r"2 \.txt files"):
        load_dataset("text", root=tmp_path, path="tiny")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, "is empty"),
        (b"abc\xff", {}, "not UTF-8 text: byte 3"),
        (b"abc" * 20, {"level": "letters"}, "level='letters'"),
        (b"abc" * 20, {"held_out": 0.5}, "held_out=0.5"),
        (b"ab", {}, "no tokens"),
    ],
)
def test_unsuitable_texts(tmp_path: Path, content: bytes, options: dict[str, object], message: str) -> None:
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset("text", root=tmp_path, path="book.txt", **options)


def test_missing_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no 'nothing\.txt' or 'text/nothing\.txt'"):
        load_dataset("text", root=tmp_path, path="nothing.txt")


def test_the_real_ptb(data_root: Path) -> None:
    test = load_dataset("ptb", split="test", root=data_root)
    assert len(test.vocabulary) == 10_000
    assert len(test) == 82_430
    assert int(torch.bincount(test.tokens)[test.vocabulary.index("<eos>")]) == 3761
