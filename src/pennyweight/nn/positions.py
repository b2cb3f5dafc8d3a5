"""Where a token stands: learned vectors added to it, or rotations of queries and keys."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from pennyweight.errors import DataError


class LearnedPositions(nn.Module):
    """Adds one learned vector a position.

    Args:
        max_length: positions there are.
        width: of a token.
    """

    def __init__(self, max_length: int, width: int) -> None:
        super().__init__()
        self.max_length, self.width = max_length, width
        self.weight = nn.Parameter(torch.zeros(max_length, width))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """(..., tokens, width) -> the same, the first token standing at `start`.

        Raises:
            DataError: there are more tokens than positions.
        """
        stop = start + x.shape[-2]
        _require_room(stop, self.max_length)
        return x + self.weight[start:stop]


class RotaryPositions(nn.Module):
    """Turns each pair of neighbouring values by an angle that grows with the position; holds no parameters.

    Source: arXiv 2104.09864, equation 15 and section 3.4.2.

    Args:
        head_dim: values of a head, even.
        max_length: positions there are.
        base: of the geometric series of wavelengths.
    """

    def __init__(self, head_dim: int, max_length: int, base: float = 10_000.0) -> None:
        super().__init__()
        assert head_dim % 2 == 0, head_dim
        self.head_dim, self.max_length, self.base = head_dim, max_length, base

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """(..., tokens, head_dim) -> the same, rotated, the first token standing at `start`.

        Raises:
            DataError: there are more tokens than positions.
        """
        stop = start + x.shape[-2]
        _require_room(stop, self.max_length)
        cos, sin = _tables(self.head_dim, self.max_length, self.base, x.device, x.dtype)
        cos, sin = cos[start:stop], sin[start:stop]
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


@lru_cache(maxsize=16)
def _tables(
    head_dim: int, max_length: int, base: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(max_length, head_dim / 2) cosines and sines; a pure function, kept because every layer and step asks again."""
    with torch.inference_mode(False):  # tables first asked for while evaluating serve training too
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim
        angles = torch.outer(torch.arange(max_length, dtype=torch.float64, device="cpu"), base**-exponents)
        return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def _require_room(stop: int, max_length: int) -> None:
    if stop > max_length:
        raise DataError(f"{stop} tokens do not fit max_length={max_length}: shorten the text or build a longer model")
