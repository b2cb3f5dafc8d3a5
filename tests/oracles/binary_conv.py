"""Slow truth about convolutions of signs: every window by itself in numpy, no code shared with the package."""

import numpy as np


def signs(values: np.ndarray) -> np.ndarray:
    """+1 where x >= 0 (so for -0.0 too), else -1."""
    return np.where(values >= 0, 1, -1).astype(np.int64)


def convolve(
    x: np.ndarray,
    w: np.ndarray,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> np.ndarray:
    """Integers (B, C, H, W) by filters (N, C / groups, rows, columns); padding is top, bottom, left, right."""
    batch, _, height, width = x.shape
    filters, share, rows, columns = w.shape
    top, bottom, left, right = padding
    out_height = (height + top + bottom - dilation[0] * (rows - 1) - 1) // stride[0] + 1
    out_width = (width + left + right - dilation[1] * (columns - 1) - 1) // stride[1] + 1
    z = np.zeros((batch, filters, out_height, out_width), dtype=np.int64)
    for n in range(filters):
        first = n // (filters // groups) * share
        for i in range(out_height):
            for j in range(out_width):
                for r in range(rows):
                    for c in range(columns):
                        y = i * stride[0] - top + r * dilation[0]
                        v = j * stride[1] - left + c * dilation[1]
                        if 0 <= y < height and 0 <= v < width:
                            seen = x[:, first : first + share, y, v]
                        else:
                            seen = np.full((batch, share), pad_value)
                        z[:, n, i, j] += seen @ w[n, :, r, c]
    return z


def pool(
    bits: np.ndarray,
    every: np.ndarray,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    out: tuple[int, int],
) -> np.ndarray:
    """For each window whether any of its pixels is set, or every one of them where `every` says so."""
    batch, channels, height, width = bits.shape
    result = np.zeros((batch, channels, *out), dtype=bool)
    for i in range(out[0]):
        for j in range(out[1]):
            seen = [
                bits[:, :, y, v]
                for y in (i * stride[0] - padding[0] + r * dilation[0] for r in range(kernel[0]))
                for v in (j * stride[1] - padding[1] + c * dilation[1] for c in range(kernel[1]))
                if 0 <= y < height and 0 <= v < width
            ]
            result[:, :, i, j] = np.where(every, np.all(seen, axis=0), np.any(seen, axis=0))
    return result
