"""A small decoder language model, and generation with a key-value cache."""

from typing import Literal, no_type_check

import torch
from torch import Tensor, nn

from pennyweight.errors import DataError, RecipeError
from pennyweight.models.initialization import initialize_transformer_
from pennyweight.models.transformer import (
    Block,
    BlockShape,
    FeedForwardKind,
    KeyValueCache,
    Norm,
    grow_cache,
    norm,
)
from pennyweight.nn.positions import LearnedPositions


class Decoder(nn.Module):
    """Tokens to the logits of the token that follows each: embedding, causal pre-norm blocks, linear head.

    The defaults are the GPT way (LayerNorm, GELU, learned positions); norm="rms", feed_forward="swiglu",
    positions="rotary", bias=False is the Llama way.

    Args:
        vocab_size: tokens there are.
        max_length: positions there are.
        width: of a token between blocks.
        depth: blocks.
        heads: query heads.
        kv_heads: key and value heads; None for as many as query heads.
        hidden: width inside the feed-forward parts; None for 4 * width.
        positions: "learned", added to the embedding, or "rotary".
        norm_kind: "layer" or "rms".
        feed_forward: "gelu" or "swiglu".
        bias: linear layers in the blocks have one.
        tied: the head's weight is the embedding's.
        seed: of the initial weights; see `initialize_transformer_`.

    Raises:
        RecipeError: sizes that do not divide each other, or an unknown kind.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 256,
        max_length: int = 128,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        kv_heads: int | None = None,
        hidden: int | None = None,
        positions: Literal["learned", "rotary"] = "learned",
        norm_kind: Norm = "layer",
        feed_forward: FeedForwardKind = "gelu",
        bias: bool = True,
        tied: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if positions not in ("learned", "rotary"):
            raise RecipeError(f"positions={positions!r}: valid are 'learned' and 'rotary'")
        if min(vocab_size, max_length, depth) < 1:
            raise RecipeError(f"vocab_size={vocab_size}, max_length={max_length} and depth={depth} must be at least 1")
        self.shape = BlockShape(
            width=width,
            heads=heads,
            kv_heads=heads if kv_heads is None else kv_heads,
            hidden=4 * width if hidden is None else hidden,
            norm=norm_kind,
            feed_forward=feed_forward,
            bias=bias,
            causal=True,
            rotary_length=max_length if positions == "rotary" else 0,
        )
        self.max_length = max_length
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = LearnedPositions(max_length, width) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(self.shape) for _ in range(depth))
        self.norm = norm(self.shape)
        self.head = nn.Linear(width, vocab_size, bias=False)
        initialize_transformer_(self, seed, depth=depth, table_std=0.1)
        if tied:
            self.head.weight = self.embedding.weight

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens) int64 -> (batch, tokens, vocab_size)."""
        return self._logits(tokens, None)

    def extend(self, tokens: Tensor, cache: list[KeyValueCache]) -> Tensor:
        """Logits of the tokens that come next, the keys and values of all before being in the cache.

        Args:
            tokens: (batch, tokens) int64: the prompt first, then one at a time.
            cache: from `new_cache`, extended in place.
        """
        return self._logits(tokens, cache)

    def new_cache(self, batch: int) -> list[KeyValueCache]:
        """An empty cache for each block, with room for `max_length` tokens."""
        return grow_cache(self.shape, len(self.blocks), batch, self.max_length, self.embedding.weight)

    @no_type_check  # torch.fx traces it with a proxy in the tensor's place
    def _logits(self, tokens: Tensor, cache: list[KeyValueCache] | None) -> Tensor:
        x = self.embedding(tokens)
        if self.positions is not None:
            x = self.positions(x, 0 if cache is None else cache[0].length)
        for index, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[index])
        return self.head(self.norm(x))


@torch.no_grad()  # not inference mode: its tokens could not be trained on
def generate(model: Decoder, prompt: Tensor, num_tokens: int, generator: torch.Generator | None = None) -> Tensor:
    """Continue texts, one forward a token: the likeliest token each time, or one drawn by its probability.

    Args:
        prompt: (batch, tokens) int64, at least one token.
        num_tokens: to add.
        generator: draws the tokens; None for the likeliest ones.

    Returns:
        (batch, tokens + num_tokens), the prompt included.

    Raises:
        DataError: there is no prompt, or the result would not fit the model's length.

    Example:
        >>> generate(Decoder(vocab_size=8, width=8, depth=1, heads=2), torch.tensor([[1, 2]]), 3).shape
        torch.Size([1, 5])
    """
    if prompt.dim() != 2 or prompt.shape[1] < 1:
        raise DataError(f"the prompt has shape {tuple(prompt.shape)}: expected (batch, tokens) with at least one token")
    total = prompt.shape[1] + num_tokens
    if total > model.max_length:
        raise DataError(
            f"{prompt.shape[1]} + {num_tokens} tokens do not fit max_length={model.max_length}: ask for fewer"
        )
    result = torch.cat([prompt, prompt.new_zeros((len(prompt), num_tokens))], dim=1)
    cache = model.new_cache(len(prompt))
    given = prompt
    for place in range(prompt.shape[1], total):
        logits = model.extend(given, cache)[:, -1]
        if generator is None:
            given = logits.argmax(-1, keepdim=True)
        else:
            given = logits.softmax(-1).multinomial(1, generator=generator)
        result[:, place : place + 1] = given
    return result
