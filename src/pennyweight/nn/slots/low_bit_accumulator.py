"""The slot content that sums a layer's product in an accumulator of few bits."""

import torch
from torch import Tensor, nn

from pennyweight.nn.slots.chain import Product
from pennyweight.numerics.accumulate import AccumulatorSpec
from pennyweight.numerics.accumulation_gradients import Estimator, accumulation_gradients
from pennyweight.ops.accumulated import accumulated_matmul


class LowBitAccumulator(nn.Module):
    """Linear layers and convolutions of one and two dimensions, summed as `ops.accumulated_matmul` does.

    The order of a convolution's sum is channel, then row, then column of the kernel; padded zeros are summed too, which
    changes nothing. Biases and scales are applied in float32 afterwards.

    Args:
        spec: the accumulator.
        estimator: of gradients, see `accumulation_gradients`.
    """

    def __init__(self, spec: AccumulatorSpec, estimator: Estimator = "identity") -> None:
        super().__init__()
        self.spec, self.estimator = spec, estimator

    def forward(self, multiply: Product, x: Tensor, weight: Tensor) -> Tensor:
        """The product of one layer, in few bits."""
        operands, join = multiply.matrices(x, weight)
        return join([accumulated_matmul(left, right, self.spec) for left, right in operands])

    def product_gradients(
        self, multiply: Product, g_input: Tensor, g_update: Tensor, x: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients by the input and by the weight, each from its own neural gradient."""
        if self.estimator == "identity":
            return multiply.grad_input(g_input, x, weight), multiply.grad_weight(g_update, x, weight)
        with torch.enable_grad():
            leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
            operands, join = multiply.matrices(*leaves)
            products = [left.new_zeros(len(left), len(right)).requires_grad_() for left, right in operands]
            joined = join(products)
        wanted = [torch.autograd.grad(joined, products, g, retain_graph=True) for g in (g_input, g_update)]
        by_x, by_weight = [], []
        for (left, right), g, update in zip(operands, *wanted, strict=True):
            found = accumulation_gradients(g, left.detach(), right.detach(), self.spec, self.estimator, update=update)
            by_x.append(found[0])
            by_weight.append(found[1])
        lefts, rights = [left for left, _ in operands], [right for _, right in operands]
        (grad_x,) = torch.autograd.grad(lefts, leaves[0], by_x)
        (grad_weight,) = torch.autograd.grad(rights, leaves[1], by_weight)
        return grad_x, grad_weight

    def extra_repr(self) -> str:
        """Format and estimator."""
        return f"M{self.spec.mantissa}E{self.spec.exponent}, estimator={self.estimator!r}"
