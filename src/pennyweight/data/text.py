"""Penn Treebank and plain text files as one sequence of tokens."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pennyweight.data.dataset import TextDataset
from pennyweight.data.roots import candidate_roots, find_in_roots
from pennyweight.errors import DataError, did_you_mean

END_OF_SENTENCE = "<eos>"
UNKNOWN = "<unk>"


def load_ptb(split: str, root: str | os.PathLike[str] | None, *, vocabulary_size: int | None = None) -> TextDataset:
    """Penn Treebank by words, Mikolov's preparation: ptb.{train,valid,test}.txt in text/ptb (or ptb) under the root.

    Each line ends in <eos>. The vocabulary is that of the training file, the frequent words first, so that a prefix
    of it is the head of an adaptive softmax; equal counts are in alphabetical order.

    Args:
        split: "train", "valid" or "test".
        vocabulary_size: keep the most frequent words and make the others <unk>; None keeps all. A perplexity then is
            that of an easier text, to compare only with others of the same size.

    Raises:
        DataError: files are missing or empty, or the words kept do not hold <unk>.
    """
    folder = find_in_roots("ptb", ("text/ptb", "ptb"), root)
    train = _ptb_words(folder / "ptb.train.txt")
    vocabulary = _by_frequency(train)
    if vocabulary_size is not None:
        if UNKNOWN not in vocabulary[: max(0, vocabulary_size)]:
            raise DataError(f"vocabulary_size={vocabulary_size} leaves out {UNKNOWN!r}, which stands for the rest")
        vocabulary = vocabulary[:vocabulary_size]
    words = train if split == "train" else _ptb_words(folder / f"ptb.{split}.txt")
    return TextDataset(
        tokens=_encode(words, vocabulary, folder / f"ptb.{split}.txt"),
        vocabulary=vocabulary,
        name="ptb",
        split=split,
    )


def load_text(
    split: str,
    root: str | os.PathLike[str] | None,
    *,
    path: str = "",
    level: str = "characters",
    held_out: float = 0.05,
) -> TextDataset:
    """A plain UTF-8 text, by characters or by words, cut into train, valid and test one after another.

    Args:
        path: the file, or a folder with a single .txt file; absolute, or relative to the root or to text/ under it.
        level: "characters", or "words" (separated by white space, each line ending in <eos>).
        held_out: share of the tokens in each of valid and test, the end of the text, in (0, 0.5).

    Returns:
        All splits share the vocabulary of the whole text: sorted characters, or words by falling frequency.
    """
    if not 0 < held_out < 0.5:
        raise DataError(f"held_out={held_out} leaves no training text or no test text: choose it in (0, 0.5)")
    file = _text_file(path, root)
    text = _read(file)
    if not text:
        raise DataError(f"{file} is empty")
    tokens, vocabulary = tokenize(text, level)
    size = max(1, int(len(tokens) * held_out))
    start = {"train": 0, "valid": len(tokens) - 2 * size, "test": len(tokens) - size}
    stop = {"train": start["valid"], "valid": start["test"], "test": len(tokens)}
    return TextDataset(
        tokens=tokens[max(0, start[split]) : max(0, stop[split])].clone(),
        vocabulary=vocabulary,
        name=file.stem,
        split=split,
    )


def _text_file(path: str, root: str | os.PathLike[str] | None) -> Path:
    if not path:
        found = sorted({str(file.relative_to(r)) for r in candidate_roots(root) for file in r.glob("text/**/*.txt")})
        hint = f"; there are: {', '.join(found[:10])}" if found else ""
        raise DataError(f"data set 'text' needs path=, a text file relative to the root or to text/ under it{hint}")
    file = find_in_roots("text", (path, f"text/{path}"), root)
    if file.is_dir():
        inside = sorted(file.glob("*.txt"))
        if len(inside) != 1:
            names = ", ".join(p.name for p in inside) or "none"
            raise DataError(f"{file} is a folder with {len(inside)} .txt files ({names}): name one in path=")
        return inside[0]
    return file


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _split_words(text: str) -> list[str]:
    return [word for line in text.splitlines() for word in (*line.split(), END_OF_SENTENCE)]


def _ptb_words(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path} is missing: the data set 'ptb' is incomplete")
    words = _split_words(_read(path))
    if not words:
        raise DataError(f"{path} is empty")
    return words


def _by_frequency(words: Iterable[str]) -> tuple[str, ...]:
    counts = Counter(words)
    return tuple(sorted(counts, key=lambda word: (-counts[word], word)))


def _encode(words: list[str], vocabulary: tuple[str, ...], path: Path) -> Tensor:
    index = {word: number for number, word in enumerate(vocabulary)}
    unknown = index.get(UNKNOWN, -1)
    tokens = torch.tensor([index.get(word, unknown) for word in words], dtype=torch.int64)
    missing = (tokens < 0).nonzero()
    if len(missing):
        word = words[int(missing[0])]
        raise DataError(f"{path}: word {word!r} is not in the training vocabulary, which has no {UNKNOWN!r} either")
    return tokens


def tokenize(text: str, level: str) -> tuple[Tensor, tuple[str, ...]]:
    """The tokens of a text and its own vocabulary.

    Args:
        level: "characters" (the vocabulary sorted by code point), or "words" (separated by white space, each line
            ending in <eos>; the vocabulary by falling frequency).

    Raises:
        DataError: an unknown level.

    Example:
        >>> tokenize("abba", "characters")
        (tensor([0, 1, 1, 0]), ('a', 'b'))
    """
    if level == "characters":
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        known, tokens = np.unique(points, return_inverse=True)
        return torch.from_numpy(tokens.astype(np.int64)), tuple(chr(point) for point in known)
    if level == "words":
        words = _split_words(text)
        vocabulary = _by_frequency(words)
        index = {word: number for number, word in enumerate(vocabulary)}
        return torch.tensor([index[word] for word in words], dtype=torch.int64), vocabulary
    raise DataError(f"text has no level={level!r}; {did_you_mean(level, ['characters', 'words'])}")
