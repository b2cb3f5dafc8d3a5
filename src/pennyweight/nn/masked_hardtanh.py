"""A hard tanh that keeps one bit a value for its backward pass."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _MaskedHardtanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((x <= low) | (x >= high))
        return F.hardtanh(x, low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (outside,) = ctx.saved_tensors
        return grads[0].masked_fill(outside, 0.0), None, None


class MaskedHardtanh(nn.Hardtanh):
    """`torch.nn.Hardtanh` with the same values and gradients, which saves a mask where torch's saves its input."""

    def forward(self, input: Tensor) -> Tensor:
        """clamp(input, min_val, max_val)."""
        result: Tensor = _MaskedHardtanh.apply(input, self.min_val, self.max_val)
        return result
