"""The tokenizer beside a llama2.c model: byte pieces with scores, merged greedily. Reading it executes nothing."""

import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from pennyweight.errors import DataError

BEGIN, _BYTES = 1, 3  # token 1 starts a text; tokens 3..258 stand for single bytes
_MOST_PIECES = 1 << 20


@dataclass(frozen=True)
class Tokenizer:
    """Pieces of text and how readily they are merged.

    Args:
        pieces: the bytes of each token.
        scores: of each token; of two possible merges the one with the higher score comes first.
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens as text, as `TextDataset` wants them."""
        return tuple(piece.decode("utf-8", "replace") for piece in self.pieces)

    def encode(self, text: str) -> Tensor:
        """Token 1, then the text's tokens, int64: characters first, the best-scored neighbours merged over and over.

        A space is put before the text, as in training; characters without a token become their bytes'.

        Cost: quadratic in the length of the text; a page takes a second.
        """
        index = {piece: number for number, piece in reversed(list(enumerate(self.pieces)))}
        tokens: list[int] = []
        for character in f" {text}" if text else "":
            piece = character.encode()
            tokens += [index[piece]] if piece in index else [_BYTES + byte for byte in piece]
        while True:
            merges = [
                (self.scores[merged], -place, merged)
                for place, (left, right) in enumerate(pairwise(tokens))
                if (merged := index.get(self.pieces[left] + self.pieces[right])) is not None
            ]
            if not merges:
                return torch.tensor([BEGIN, *tokens], dtype=torch.int64)
            _, place, merged = max(merges)
            tokens[-place : -place + 2] = [merged]

    def decode(self, tokens: Tensor) -> str:
        """The text of tokens; the start token ends the space before the text."""
        parts, after_begin = [], False
        for token in tokens.tolist():
            piece = self.pieces[token]
            if found := re.fullmatch(rb"<0x([0-9A-F]{2})>", piece):
                piece = bytes.fromhex(found[1].decode())
            if token != BEGIN:
                parts.append(piece.removeprefix(b" ") if after_begin else piece)
            after_begin = token == BEGIN
        return b"".join(parts).decode("utf-8", "replace")


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer file: int32 longest piece, then (float32 score, int32 length, bytes) a token, little-endian.

    Raises:
        DataError: the file is missing, truncated, or something else.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"tokenizer {path} cannot be read ({error.strerror})") from error
    if len(data) < 4:
        raise DataError(f"tokenizer {path} has {len(data)} bytes: it is truncated, or no tokenizer")
    (longest,) = struct.unpack_from("<i", data)
    pieces: list[bytes] = []
    scores: list[float] = []
    place = 4
    while place < len(data):
        if place + 8 > len(data) or len(pieces) > _MOST_PIECES:
            raise DataError(f"tokenizer {path} ends within token {len(pieces)}: it is truncated, or no tokenizer")
        score, size = struct.unpack_from("<fi", data, place)
        place += 8
        if not 0 <= size <= longest or place + size > len(data):
            raise DataError(
                f"tokenizer {path}: token {len(pieces)} claims {size} bytes, the longest has {longest}: it is "
                f"truncated, or no tokenizer"
            )
        pieces.append(data[place : place + size])
        scores.append(score)
        place += size
    if len(pieces) < _BYTES + 256:
        raise DataError(f"tokenizer {path} has {len(pieces)} tokens, fewer than the 259 of bytes and marks")
    return Tokenizer(tuple(pieces), tuple(scores))
