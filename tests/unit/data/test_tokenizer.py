"""The tokenizer of llama2.c: merges by score, bytes for the rest, and files that are not one."""

import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.data import TextDataset
from pennyweight.data.tokenizer import Tokenizer, read_tokenizer
from pennyweight.data.windows import calibration_windows
from pennyweight.errors import DataError

MARKS = (b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{byte:02X}>".encode() for byte in range(256)))
WORDS = (b"ab", b" a", b"bc", b"abc", b" abc", b" ", b"a", b"b", b"c")  # the earlier ones merge first


def tokenizer() -> Tokenizer:
    return Tokenizer(MARKS + WORDS, (0.0,) * len(MARKS) + tuple(-float(i) for i in range(len(WORDS))))


def written(tokenizer: Tokenizer) -> bytes:
    pieces = [struct.pack("<fi", s, len(p)) + p for p, s in zip(tokenizer.pieces, tokenizer.scores, strict=True)]
    return struct.pack("<i", max(len(p) for p in tokenizer.pieces)) + b"".join(pieces)


def pieces(text: str) -> list[bytes]:
    made = tokenizer()
    return [made.pieces[token] for token in made.encode(text).tolist()]


def test_merges_by_hand() -> None:
    assert pieces("abc") == [b"\n<s>\n", b" abc"]  # "ab" first, then "abc", then " abc"
    assert pieces("bca") == [b"\n<s>\n", b" ", b"bc", b"a"]
    assert pieces("aba") == [b"\n<s>\n", b" ", b"ab", b"a"]  # "ab" is readier than " a", and leaves none
    assert pieces("") == [b"\n<s>\n"]


def test_unknown_characters_are_bytes() -> None:
    assert pieces("aé")[-2:] == [b"<0xC3>", b"<0xA9>"]


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=20).filter(lambda text: "\x00" not in text))
def test_texts_come_back(text: str) -> None:
    made = tokenizer()
    assert made.decode(made.encode(text)) == text


def test_half_a_character_is_marked() -> None:
    assert tokenizer().decode(torch.tensor([1, 3 + 0xC3])) == "�"


def test_files_come_back(tmp_path: Path) -> None:
    file = tmp_path / "tokens.bin"
    file.write_bytes(written(tokenizer()))
    assert read_tokenizer(file) == tokenizer()
    assert len(tokenizer().vocabulary) == 268


def test_files_that_are_none(tmp_path: Path) -> None:
    file, data = tmp_path / "tokens.bin", written(tokenizer())
    with pytest.raises(DataError, match="cannot be read"):
        read_tokenizer(file)
    for cut in (0, 3, 4, 7, 20, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"tokenizer .*tokens"):
            read_tokenizer(file)
    for seed in range(20):
        file.write_bytes(torch.randint(0, 256, (500,), generator=torch.Generator().manual_seed(seed)).byte().numpy())
        with pytest.raises(DataError):
            read_tokenizer(file)


def test_windows_are_spread() -> None:
    text = TextDataset(tokens=torch.arange(100), vocabulary=tuple(map(str, range(100))), name="x", split="train")
    batches = calibration_windows(text, count=5, context=20, batch_size=2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.cat(batches)[:, 0].tolist() == [0, 20, 40, 60, 80]
    assert calibration_windows(text, count=1, context=100)[0].shape == (1, 100)
    with pytest.raises(DataError, match="no window of context=101"):
        calibration_windows(text, count=1, context=101)
    with pytest.raises(DataError, match="count=0"):
        calibration_windows(text, count=0, context=4)
