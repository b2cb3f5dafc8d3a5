"""What contents of the accumulator slot share: a layer's product is split into matrix products, each summed alike."""

from torch import Tensor

from pennyweight.nn.slots.chain import Product, SlotState


class Accumulator(SlotState):
    """The arithmetic in which a product's terms are summed.

    The order of a convolution's sum is channel, then row, then column of the kernel; padded zeros are summed too, which
    changes nothing. Biases and scales are applied in float32 afterwards.
    """

    def forward(self, multiply: Product, x: Tensor, weight: Tensor) -> Tensor:
        """The product of one layer."""
        operands, join = multiply.matrices(x, weight)
        return join([self.sums(left, right) for left, right in operands])

    def sums(self, x: Tensor, weight: Tensor) -> Tensor:
        """(M, K), (N, K) -> (M, N)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it sums")
