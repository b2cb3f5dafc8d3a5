"""Named pairs of mean and standard deviation, in units of the full range of a byte."""

import math
from collections.abc import Sequence

from pennyweight.errors import DataError, did_you_mean

Normalization = str | Sequence[Sequence[float]]

# "centered" is (byte - 128) / 128: exact in float32 and in int8. "imagenet" is what the public nets were trained with.
_NAMED = {
    "centered": ((128 / 255,), (128 / 255,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def normalization_constants(normalization: Normalization, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, one entry a channel.

    Args:
        normalization: "centered", "imagenet", or a pair (mean, std); a single entry serves every channel.
        channels: how many channels the images have.

    Raises:
        DataError: an unknown name, NaN or infinity, or a number of entries that fits neither one nor the channels.

    Example:
        >>> normalization_constants("imagenet", 3)[0]
        (0.485, 0.456, 0.406)
    """
    if isinstance(normalization, str):
        if normalization not in _NAMED:
            raise DataError(f"unknown normalization {normalization!r}; {did_you_mean(normalization, _NAMED)}")
        pair: Sequence[Sequence[float]] = _NAMED[normalization]
    else:
        pair = normalization
    if len(pair) != 2 or any(len(entries) not in (1, channels) for entries in pair):
        raise DataError(
            f"normalization={normalization!r} does not fit images of {channels} channel(s): "
            'give "centered", or (mean, std) with one entry or one a channel'
        )
    mean, std = (tuple(float(v) for v in entries) for entries in pair)
    if not all(math.isfinite(value) for value in (*mean, *std)):
        raise DataError(f"normalization={normalization!r} holds what is no finite number")
    return (
        mean * channels if len(mean) == 1 else mean,
        std * channels if len(std) == 1 else std,
    )
