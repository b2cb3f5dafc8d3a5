"""The slot content that sums integer codes in an integer accumulator of few bits."""

from torch import Tensor

from pennyweight.nn.slots.accumulator import Accumulator
from pennyweight.numerics.integer_accumulate import IntAccumulatorSpec, integer_accumulate


class IntegerAccumulator(Accumulator):
    """Codes of weight and input, summed as `numerics.integer_accumulate` does; gradients are the plain product's.

    Args:
        spec: the accumulator.
    """

    def __init__(self, spec: IntAccumulatorSpec) -> None:
        super().__init__()
        self.spec = spec

    def sums(self, x: Tensor, weight: Tensor) -> Tensor:
        """(M, K), (N, K) -> (M, N)."""
        return integer_accumulate(x, weight, self.spec)

    def extra_repr(self) -> str:
        """Bits and what happens beyond them."""
        return str(self.spec)
