"""The slot content that prunes a neural gradient to n of m, without bias or greedily."""

from typing import ClassVar

import torch
from torch import Tensor

from pennyweight.masks.mvue import Pruning
from pennyweight.masks.nm import NM
from pennyweight.nn.slots.chain import SlotContent, Stage
from pennyweight.numerics.random import Key
from pennyweight.ops.nm_masks import mvue


class PrunedGradient(SlotContent):
    """A neural gradient with n of each m neighbours left, along what its product sums over.

    Of a convolution's gradient the tokens are the positions of the batch, image after image, row after row. Infinity
    and NaN pass as they are, so that a loss scaler sees them.

    Args:
        pattern: n and m.
        along: "tokens" for the product towards the weight, "channels" for the one towards the input.
        channel_dim: of the gradient: -1 of a linear layer, 1 of a convolution.
        method: see `masks.mvue.Pruning`.
        key: root of the counter-based draws; a buffer counts them, so that a resumed run draws what an uninterrupted
            one would have.

    Source: arXiv 2203.10991, section 4.
    """

    stage: ClassVar[Stage] = "mask"
    draws: Tensor

    def __init__(self, pattern: NM, along: str, channel_dim: int, method: Pruning, key: Key) -> None:
        super().__init__()
        assert along in ("tokens", "channels"), along
        self.pattern, self.along, self.channel_dim, self.key = pattern, along, channel_dim, key
        self.method: Pruning = method
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The pruned gradient."""
        key = self.key.fold(int(self.draws))
        self.draws.add_(1)
        if x.numel() == 0 or not bool(torch.isfinite(x).all()):
            return x
        tokens = x.movedim(self.channel_dim, -1)
        matrix = tokens.reshape(-1, tokens.shape[-1])
        pruned = mvue(matrix, self.pattern, key, 0 if self.along == "tokens" else 1, self.method)
        return pruned.reshape(tokens.shape).movedim(-1, self.channel_dim)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{self.pattern} along {self.along}, method={self.method!r}"
