"""A product of two activations with a slot for the accumulator of its sums."""

import torch
from torch import Tensor, nn

from pennyweight.nn.slots.chain import Matrices, Product, accumulated


def _matrices(x: Tensor, other: Tensor) -> Matrices:
    batch = torch.broadcast_shapes(x.shape[:-2], other.shape[:-2])
    rows, columns = (
        tensor.expand(*batch, *tensor.shape[-2:]).reshape(batch.numel(), *tensor.shape[-2:]) for tensor in (x, other)
    )

    def join(products: list[Tensor]) -> Tensor:
        flat = torch.stack(products) if products else x.new_zeros(0)
        return flat.reshape(*batch, x.shape[-2], other.shape[-2])

    return list(zip(rows.unbind(), columns.unbind(), strict=True)), join


ACTIVATION_PRODUCT = Product(
    forward=lambda x, other: torch.matmul(x, other.transpose(-2, -1)),
    grad_input=lambda g, x, other: torch.matmul(g, other).sum_to_size(x.shape),
    grad_weight=lambda g, x, other: torch.matmul(g.transpose(-2, -1), x).sum_to_size(other.shape),
    matrices=_matrices,
)
"""(..., n, k), (..., m, k) -> (..., n, m), one matrix product for each head of each sample."""


class SummedProduct(nn.Module):
    """`torch.matmul`, or its sums in the arithmetic of the accumulator that fills the slot."""

    accumulator: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.accumulator = None

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """(..., n, k), (..., k, m) -> (..., n, m); vectors as `torch.matmul` takes them."""
        if self.accumulator is None:
            return torch.matmul(left, right)
        rows = left if left.dim() > 1 else left[None]
        columns = right if right.dim() > 1 else right[:, None]
        y = accumulated(ACTIVATION_PRODUCT, self.accumulator, rows, columns.transpose(-2, -1))
        y = y if right.dim() > 1 else y.squeeze(-1)
        return y if left.dim() > 1 else y.squeeze(-1 if right.dim() == 1 else -2)
