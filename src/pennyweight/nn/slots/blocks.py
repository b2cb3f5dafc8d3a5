"""The slot content for block-scaled floats; what is computed is in `numerics.block_scaled`."""

from typing import ClassVar

import torch
from torch import Tensor

from pennyweight.nn.slots.chain import SlotContent, Stage
from pennyweight.numerics.block_scaled import round_to_blocks
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import BlockFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding
from pennyweight.numerics.ste import straight_through


class BlockScaled(SlotContent):
    """Weights, activations or neural gradients in blocks along one axis; the gradient passes unchanged.

    A scale that changes along a sum cannot be taken out of it: what enters the product are values. The products
    themselves are simulated in float32.

    Args:
        format: of the blocks.
        axis: along which blocks run; the channels a product sums over.
        rounding: of the elements.
        key: root of stochastic draws, counted by a buffer.
        what: tensor in messages; None lets NaN and infinity through, as gradients need it.
    """

    stage: ClassVar[Stage] = "quantize"
    draws: Tensor

    def __init__(
        self,
        format: BlockFormat,
        axis: int,
        rounding: Rounding = "nearest_even",
        key: Key | None = None,
        what: str | None = "the tensor to quantize",
    ) -> None:
        super().__init__()
        assert key is not None or rounding != "stochastic", "stochastic rounding needs a key"
        self.format, self.axis, self.key, self.what = format, axis, key, what
        self.rounding: Rounding = rounding
        if rounding == "stochastic":
            self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """The quantized values."""
        if self.what is not None:
            require_finite(x, self.what)
        key = None
        if self.rounding == "stochastic":
            assert self.key is not None
            key = self.key.fold(int(self.draws))
            self.draws.add_(1)
        return straight_through(x, round_to_blocks(x, self.format, self.axis, self.rounding, key))

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}, axis={self.axis}, rounding={self.rounding}"
