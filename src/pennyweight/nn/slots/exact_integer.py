"""A backend that sums integer codes exactly at any length, as an integer engine with int32 sums does.

Linear layers of 8-bit codes run on int8 through `ops.int8`; convolutions are simulated in float32 blocks.
"""

import torch
from torch import Tensor, nn

from pennyweight.nn.slots.chain import Product
from pennyweight.numerics.blocked import block_length
from pennyweight.numerics.formats import IntFormat
from pennyweight.ops.int8 import centred_matmul


class BlockedProduct(nn.Module):
    """The forward product in exact integers: int8 for linear layers, blocks of input channels for convolutions.

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
        if weight.dim() == 2:
            product = centred_matmul(x.reshape(-1, x.shape[-1]), weight)
            return product.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])
        channels = weight.shape[1]
        taps = weight[0, 0].numel()
        is_grouped = x.shape[1] != channels
        block = max(1, self._length // taps)
        if is_grouped or block >= channels:
            return multiply(x, weight)
        total: Tensor | None = None
        for start in range(0, channels, block):
            width = min(block, channels - start)
            part = multiply(x.narrow(1, start, width), weight.narrow(1, start, width)).to(torch.float64)
            total = part if total is None else total + part
        assert total is not None
        return total.to(x.dtype)
