"""The parts of our transformers: attention, feed-forward and the pre-norm block; whole models are files beside."""

from dataclasses import dataclass, field
from typing import Literal, no_type_check

import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.errors import RecipeError
from pennyweight.nn.positions import RotaryPositions

Norm = Literal["layer", "rms"]
FeedForwardKind = Literal["gelu", "swiglu"]


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """The shape all blocks of a transformer share.

    Args:
        width: of a token between blocks.
        heads: query heads; they divide the width.
        kv_heads: key and value heads, shared by heads / kv_heads query heads each.
        hidden: width inside the feed-forward part.
        norm: "layer" (LayerNorm) or "rms" (RMSNorm).
        feed_forward: "gelu", or "swiglu", a gated SiLU.
        bias: linear layers have one.
        causal: tokens see themselves and those before.
        rotary_length: positions of rotary embedding in each attention; 0 for none.

    Raises:
        RecipeError: sizes that do not divide each other, or an unknown kind.
    """

    width: int
    heads: int
    kv_heads: int
    hidden: int
    norm: Norm = "layer"
    feed_forward: FeedForwardKind = "gelu"
    bias: bool = True
    causal: bool = False
    rotary_length: int = 0

    def __post_init__(self) -> None:
        """Check that sizes fit."""
        if min(self.width, self.heads, self.kv_heads, self.hidden) < 1 or self.width % self.heads:
            raise RecipeError(f"width={self.width} must be a multiple of heads={self.heads}, and all sizes at least 1")
        if self.heads % self.kv_heads:
            raise RecipeError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.rotary_length and self.head_dim % 2:
            raise RecipeError(
                f"rotary positions turn pairs of values: width / heads = {self.head_dim} must be even; "
                f"choose another number of heads, or learned positions"
            )
        if self.norm not in ("layer", "rms"):
            raise RecipeError(f"norm={self.norm!r}: valid are 'layer' and 'rms'")
        if self.feed_forward not in ("gelu", "swiglu"):
            raise RecipeError(f"feed_forward={self.feed_forward!r}: valid are 'gelu' and 'swiglu'")

    @property
    def head_dim(self) -> int:
        """Values of a head."""
        return self.width // self.heads


@dataclass
class KeyValueCache:
    """Keys and values of the tokens one attention has seen, so that the next token costs one row.

    Args:
        keys: (batch, kv_heads, max_length, head_dim), written up to `length`.
        values: the same.
        length: tokens seen.
    """

    keys: Tensor
    values: Tensor
    length: int = field(default=0)

    @staticmethod
    def empty(shape: BlockShape, batch: int, max_length: int, like: Tensor) -> "KeyValueCache":
        """A cache without tokens, of the type and on the device of `like`."""
        size = (batch, shape.kv_heads, max_length, shape.head_dim)
        return KeyValueCache(like.new_zeros(size), like.new_zeros(size))

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the next tokens; returns all keys and values so far."""
        stop = self.length + keys.shape[-2]
        self.keys[:, :, self.length : stop] = keys
        self.values[:, :, self.length : stop] = values
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]


class Attention(nn.Module):
    """Multi-head self-attention; `scaled_dot_product_attention` between four linear layers."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_dim
        self.query = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.key = nn.Linear(shape.width, kv_width, bias=shape.bias)
        self.value = nn.Linear(shape.width, kv_width, bias=shape.bias)
        self.output = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.rotary: RotaryPositions | None = None
        if shape.rotary_length:
            self.rotary = RotaryPositions(shape.head_dim, shape.rotary_length)

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(batch, tokens, width) -> the same.

        Args:
            cache: of the tokens before; filled by all tokens at once first, then extended by one at a time.
        """
        heads = (-1, self.shape.head_dim)
        query = self.query(x).unflatten(-1, heads).transpose(1, 2)
        key = self.key(x).unflatten(-1, heads).transpose(1, 2)
        value = self.value(x).unflatten(-1, heads).transpose(1, 2)
        seen = 0 if cache is None else cache.length
        if self.rotary is not None:
            query, key = self.rotary(query, seen), self.rotary(key, seen)
        if cache is not None:
            assert seen == 0 or x.shape[1] == 1, "after the prompt tokens come one at a time"
            key, value = cache.append(key, value)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=self.shape.causal and seen == 0,
            enable_gqa=self.shape.kv_heads != self.shape.heads,
        )
        return self.output(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers around a GELU, or the gated three of SwiGLU (arXiv 2002.05202)."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.width, shape.hidden, bias=shape.bias)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=shape.bias) if shape.feed_forward == "swiglu" else None
        self.activation: nn.Module = nn.GELU() if self.gate is None else nn.SiLU()
        self.down = nn.Linear(shape.hidden, shape.width, bias=shape.bias)

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x)). Source: arXiv 2002.04745."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attention_norm = norm(shape)
        self.attention = Attention(shape)
        self.feed_forward_norm = norm(shape)
        self.feed_forward = FeedForward(shape)

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(batch, tokens, width) -> the same."""
        x = x + self.attention(self.attention_norm(x), cache)
        return x + self.feed_forward(self.feed_forward_norm(x))


def norm(shape: BlockShape) -> nn.Module:
    """The normalization of a token."""
    if shape.norm == "layer":
        return nn.LayerNorm(shape.width)
    return nn.RMSNorm(shape.width, eps=1e-5)


def grow_cache(shape: BlockShape, depth: int, batch: int, max_length: int, like: Tensor) -> list[KeyValueCache]:
    """An empty cache for each block."""
    return [KeyValueCache.empty(shape, batch, max_length, like) for _ in range(depth)]
