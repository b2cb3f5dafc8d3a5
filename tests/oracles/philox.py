"""Philox4x32-10 one word at a time on Python integers, and the integer draws made of it."""

import hashlib

MASK = 2**32 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """The four output words of one block, as the SC 2011 paper writes the rounds."""
    a, b, c, d = counter
    k, l = key  # noqa: E741
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right // 2**32) ^ b ^ k, right % 2**32, (left // 2**32) ^ d ^ l, left % 2**32
        k, l = (k + 0x9E3779B9) % 2**32, (l + 0xBB67AE85) % 2**32  # noqa: E741
    return [a, b, c, d]


def stream(n: int, key: tuple[int, int]) -> list[int]:
    """The first n words of a key's stream."""
    words: list[int] = []
    block = 0
    while len(words) < n:
        words += philox([block % 2**32, block // 2**32, 0, 0], list(key))
        block += 1
    return words[:n]


def key_words(seed: int, path: tuple[int | str, ...]) -> tuple[int, int]:
    """The words a seed and a path stand for: 8 bytes of BLAKE2b over their text."""
    digest = hashlib.blake2b(f"({seed}, {path!r})".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def order(n: int, key: tuple[int, int]) -> list[int]:
    """A permutation: positions sorted by two words each, the lowest bit of each dropped."""
    words = stream(2 * n, key)
    return sorted(range(n), key=lambda i: (words[2 * i] // 2, words[2 * i + 1] // 2, i))
