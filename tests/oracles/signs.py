"""Slow truth about packed signs: Python integers and numpy, no code shared with the package."""

import numpy as np


def pack(rows: np.ndarray) -> np.ndarray:
    """Sign bits of (M, K) numbers as int64 words, one Python integer a row."""
    count = -(-rows.shape[1] // 64)
    words = np.zeros((rows.shape[0], count), dtype=np.int64)
    for m, row in enumerate(rows):
        value = sum(1 << i for i, x in enumerate(row.tolist()) if x >= 0)
        for j in range(count):
            word = (value >> (64 * j)) & ((1 << 64) - 1)
            words[m, j] = word - (1 << 64) if word >> 63 else word
    return words


def signs(rows: np.ndarray) -> np.ndarray:
    """+1 where x >= 0, else -1."""
    return np.where(rows >= 0, 1, -1).astype(np.int64)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of the signs of (M, K) and (N, K)."""
    return signs(a) @ signs(b).T


def network(
    codes: np.ndarray, weights: list[np.ndarray], thresholds: list[np.ndarray], greater: list[np.ndarray]
) -> np.ndarray:
    """Integer inputs through layers of signs, every hidden sum compared with its threshold."""
    x = codes.astype(np.int64)
    for w, t, g in zip(weights, thresholds, greater, strict=False):
        z = x @ signs(w).T
        x = np.where(np.where(g, z >= t, z <= t), 1, -1)
    return x @ signs(weights[-1]).T
