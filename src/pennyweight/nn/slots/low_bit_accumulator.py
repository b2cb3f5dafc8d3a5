"""The slot contents that sum a layer's product in a floating-point accumulator of few bits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pennyweight.nn.slots.accumulator import Accumulator
from pennyweight.nn.slots.chain import Product
from pennyweight.numerics.accumulate import AccumulatorSpec
from pennyweight.numerics.accumulation_gradients import Estimator, accumulation_gradients
from pennyweight.ops.accumulated import accumulated_matmul


class LowBitAccumulator(Accumulator):
    """Linear layers, convolutions of one and two dimensions and attention, summed as `ops.accumulated_matmul` does.

    Args:
        spec: the accumulator.
        estimator: of gradients, see `accumulation_gradients`.
    """

    def __init__(self, spec: AccumulatorSpec, estimator: Estimator = "identity") -> None:
        super().__init__()
        self.spec, self.estimator = spec, estimator

    def sums(self, x: Tensor, weight: Tensor) -> Tensor:
        """(M, K), (N, K) -> (M, N)."""
        return accumulated_matmul(x, weight, self.spec)

    def product_gradients(
        self, multiply: Product, g_input: Tensor | None, g_update: Tensor | None, x: Tensor, weight: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients by the input and by the weight, each from its own neural gradient, if there is one."""
        if self.estimator == "identity":
            return multiply.gradients(g_input, g_update, x, weight)
        with torch.enable_grad():
            leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
            operands, join = multiply.matrices(*leaves)
            products = [left.new_zeros(len(left), len(right)).requires_grad_() for left, right in operands]
            joined = join(products)
        wanted = [g_update if g_input is None else g_input, g_input if g_update is None else g_update]
        by_product = [torch.autograd.grad(joined, products, g, retain_graph=True) for g in wanted]
        by_x, by_weight = [], []
        for (left, right), g, update in zip(operands, *by_product, strict=True):
            found = accumulation_gradients(g, left.detach(), right.detach(), self.spec, self.estimator, update=update)
            by_x.append(found[0])
            by_weight.append(found[1])
        lefts, rights = ([pair[side] for pair in operands] for side in (0, 1))
        return (
            None if g_input is None else torch.autograd.grad(lefts, leaves[0], by_x)[0],
            None if g_update is None else torch.autograd.grad(rights, leaves[1], by_weight)[0],
        )

    def extra_repr(self) -> str:
        """Format and estimator."""
        return f"{self.spec}, estimator={self.estimator!r}"


class CalibratedAccumulator(LowBitAccumulator):
    """One whose biases were measured: they belong to the model's state, beside the weights they were measured with."""

    biases: Tensor

    def __init__(self, spec: AccumulatorSpec, estimator: Estimator = "identity") -> None:
        super().__init__(spec, estimator)
        self.register_buffer("biases", torch.tensor([spec.product_bias, spec.sum_bias]))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        product_bias, sum_bias = self.biases.tolist()
        self.spec = dataclasses.replace(self.spec, product_bias=product_bias, sum_bias=sum_bias)
