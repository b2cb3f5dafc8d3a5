"""A backend that sums integer codes exactly at any length: the simulation of an integer engine with int32 sums."""

import torch
from torch import Tensor, nn

from pennyweight.nn.slots.chain import Product
from pennyweight.numerics.blocked import block_length
from pennyweight.numerics.formats import IntFormat


class BlockedProduct(nn.Module):
    """The forward product in blocks of input channels, each exact in float32, summed in float64.

    Args:
        activations: format of the input's codes.
        weights: format of the weight's codes.
    """

    def __init__(self, activations: IntFormat, weights: IntFormat) -> None:
        super().__init__()
        # What is multiplied are codes minus zero point, at most all levels apart.
        self._length = block_length(activations.num_levels - 1, weights.num_levels - 1)

    def forward(self, multiply: Product, x: Tensor, weight: Tensor) -> Tensor:
        """Codes of the input, codes of the weight -> their product, rounded once to the input's dtype.

        Grouped convolutions are short and are summed whole.
        """
        channels = weight.shape[1]
        taps = weight[0, 0].numel()
        is_grouped = weight.dim() > 2 and x.shape[1] != channels
        block = max(1, self._length // taps)
        if is_grouped or block >= channels:
            return multiply(x, weight)
        axis = 1 if weight.dim() > 2 else -1
        total: Tensor | None = None
        for start in range(0, channels, block):
            width = min(block, channels - start)
            part = multiply(x.narrow(axis, start, width), weight.narrow(1, start, width)).to(torch.float64)
            total = part if total is None else total + part
        assert total is not None
        return total.to(x.dtype)
