"""Decoded pictures of any size to byte tensors of one size, for the sources that come as picture files."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pennyweight.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from PIL import Image

MAX_BYTES = 2 * 2**30


def require_pillow(purpose: str) -> None:
    """Raise a helpful error where Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise MissingDependencyError("PIL", "images", purpose) from None


def require_fits(name: str, count: int, size: int) -> None:
    """Raise DataError before decoding what could not stay in memory."""
    total = count * 3 * size * size
    if total > MAX_BYTES:
        raise DataError(
            f"data set {name!r}: {count} images of {size}x{size} take {total / 2**30:.1f} GiB, beyond the "
            f"{MAX_BYTES / 2**30:.0f} GiB kept in memory: choose a smaller size="
        )


def picture_tensor(picture: "Image.Image", size: int) -> Tensor:
    """uint8 (3, size, size): the shorter side resized to `size` (bilinear, antialiased), the centre cut out, in RGB."""
    picture = picture.convert("RGB")
    width, height = picture.size
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    if (width, height) != picture.size:
        picture = picture.resize((width, height), resample=2)  # 2 = bilinear; Pillow widens it when it shrinks
    left, top = (width - size) // 2, (height - size) // 2
    array = np.asarray(picture.crop((left, top, left + size, top + size)))
    return torch.from_numpy(array.copy()).permute(2, 0, 1).contiguous()
