"""Shift-based batch normalization: every multiplication by a statistic becomes a shift by a power of two."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pennyweight.numerics.shift import ap2


class _ShiftNormalise(torch.autograd.Function):
    """Training-mode shift batch norm of (n, channels) values, with straight-through gradients for every AP2.

    Only the input is kept; what else the backward pass needs it computes again. A binary layer's input is of integers,
    which `nn.saved_bits` packs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(0)
        centred = x - mean
        var = (centred * ap2(centred)).mean(0)
        inverse = ap2((var + eps).rsqrt())
        gain = ap2(weight)
        ctx.save_for_backward(x, mean, inverse, gain)
        ctx.mark_non_differentiable(mean, var)
        return gain * (centred * inverse) + bias, mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, gain = ctx.saved_tensors
        g = grads[0]
        centred = x - mean
        shifted = ap2(centred)
        # The exact batch norm's gradient with AP2(x - mean) in place of x - mean in the projection term.
        projection = shifted * inverse.square() * (shifted * g).mean(0)
        grad_x = gain * inverse * (g - g.mean(0) - projection)
        return grad_x, (ap2(centred * inverse) * g).sum(0), g.sum(0), None


T = TypeVar("T", bound="_ShiftBatchNorm")


class _ShiftBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the ranks share; a subclass of torch's layer with the same state-dict keys.

    The running variance is the shift-based estimate, about 2 % above the true one for Gaussian activations.

    Source: arXiv 1602.02830, algorithm 3; momentum and eps as in its code.
    Deviations: the running buffer holds the variance, not the inverse deviation, so that float checkpoints load.
    """

    @classmethod
    def from_module(cls: type[T], norm: nn.modules.batchnorm._BatchNorm) -> T:
        """The same layer, sharing parameters and buffers, computing by shifts."""
        layer = cls.__new__(cls)
        for key, value in norm.__dict__.items():
            layer.__dict__[key] = value.copy() if isinstance(value, dict) else value
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, *spatial) normalised by powers of two."""
        self._check_input_dim(input)
        weight = self.weight if self.weight is not None else input.new_ones(self.num_features)
        bias = self.bias if self.bias is not None else input.new_zeros(self.num_features)
        rows = input.movedim(1, -1)
        if self.training or self.running_mean is None or self.running_var is None:
            flat, mean, var = _ShiftNormalise.apply(rows.reshape(-1, self.num_features), weight, bias, self.eps)
            if self.training and self.running_mean is not None and self.running_var is not None:
                self._track(mean, var)
            return flat.view(rows.shape).movedim(-1, 1)
        inverse = ap2((self.running_var + self.eps).rsqrt())
        result: Tensor = ((rows - self.running_mean) * inverse * ap2(weight) + bias).movedim(-1, 1)
        return result

    def _track(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.detach(), momentum or 0.0)
        self.running_var.lerp_(var.detach(), momentum or 0.0)


class ShiftBatchNorm1d(_ShiftBatchNorm, nn.BatchNorm1d):
    """Shift-based batch norm over (batch, channels) or (batch, channels, length)."""


class ShiftBatchNorm2d(_ShiftBatchNorm, nn.BatchNorm2d):
    """Shift-based batch norm over (batch, channels, height, width)."""


SHIFT_OF: dict[type[nn.Module], type[_ShiftBatchNorm]] = {
    nn.BatchNorm1d: ShiftBatchNorm1d,
    nn.BatchNorm2d: ShiftBatchNorm2d,
}
