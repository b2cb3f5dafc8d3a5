"""Ghost batch normalization: batch statistics over small groups of a large batch, computed in one fused call.

Shift-based batch norm has a file of its own, `shift_batchnorm`.
"""

from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.errors import MethodError

GhostStatistics = Literal["average", "sequential"]


def ghost_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    ghost_batch_size: int,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    statistics: GhostStatistics = "average",
) -> Tensor:
    """Normalise each ghost batch of `x` by its own mean and variance.

    The K = max(1, batch // ghost_batch_size) groups are consecutive samples; the last takes the remainder, so no group
    is ever smaller than min(batch, ghost_batch_size). Groups are folded into channels and normalised in one call.

    Args:
        x: (batch, channels, *spatial).
        running_mean: (channels,), updated in place while training; None to keep none.
        running_var: (channels,), the unbiased variance, as torch keeps it.
        ghost_batch_size: samples a group, at least 1.
        training: False uses the running statistics and no groups.
        momentum: weight of the new statistics, torch's meaning.
        statistics: "average" moves the running statistics once a step by the mean over groups; "sequential" once a
            group, oldest first, as the paper's code does, which at K = 32 and momentum 0.1 leaves the past only 3 %.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        MethodError: ghost_batch_size below 1, or fewer than two values a channel to normalise.

    Source: arXiv 1705.08741, section 4, algorithm 1.
    Deviations: the weights of the sequential update sum to one, as in the paper's code; its printed algorithm sums from
        i = 1 and shrinks the statistics towards zero.
    """
    if ghost_batch_size < 1:
        raise MethodError(f"ghost_batch_size={ghost_batch_size}: a ghost batch holds at least 1 sample")
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps)
    groups = max(1, x.shape[0] // ghost_batch_size)
    if groups == 1:
        return F.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps)
    head = (groups - 1) * ghost_batch_size if x.shape[0] % ghost_batch_size else x.shape[0]
    parts = [x[:head], x[head:]] if head < x.shape[0] else [x]
    outputs, means, variances = [], [], []
    for part, count in zip(parts, (head // ghost_batch_size, 1), strict=False):
        y, mean, var = _normalise_groups(part, count, weight, bias, eps, running_mean is not None)
        outputs.append(y)
        means.append(mean)
        variances.append(var)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            _update_(running_mean, torch.cat(means), momentum, statistics)
            _update_(running_var, torch.cat(variances), momentum, statistics)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _normalise_groups(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and mean and unbiased variance as (groups, channels), of equal groups of consecutive samples."""
    size, channels, spatial = x.shape[0] // groups, x.shape[1], x.shape[2:]
    # (G, K*C, ...): sample i of every group side by side, so that one call sees K*C channels of G samples
    folded = x.view(groups, size, channels, *spatial).transpose(0, 1).reshape(size, groups * channels, *spatial)
    wide_weight = None if weight is None else weight.repeat(groups)
    wide_bias = None if bias is None else bias.repeat(groups)
    # Running buffers with momentum 1 hand out the statistics the call computes anyway.
    mean = x.new_zeros(groups * channels, dtype=torch.float32 if x.dtype != torch.float64 else x.dtype)
    var = torch.ones_like(mean)
    y = F.batch_norm(folded, mean if keep else None, var if keep else None, wide_weight, wide_bias, True, 1.0, eps)
    y = y.view(size, groups, channels, *spatial).transpose(0, 1).reshape(x.shape)
    return y, mean.view(groups, channels), var.view(groups, channels)


def _update_(running: Tensor, new: Tensor, momentum: float, statistics: GhostStatistics) -> None:
    """Move a running statistic by the (groups, channels) statistics of one step."""
    if statistics == "average":
        running.lerp_(new.mean(0).to(running.dtype), momentum)
        return
    groups = new.shape[0]
    decay = torch.arange(groups - 1, -1, -1, device=new.device, dtype=new.dtype)
    weights = momentum * (1.0 - momentum) ** decay
    running.mul_((1.0 - momentum) ** groups).add_((weights[:, None] * new).sum(0).to(running.dtype))


T = TypeVar("T", bound="_GhostBatchNorm")


class _GhostBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the three ranks share; a subclass of torch's layer with the same state-dict keys."""

    def __init__(
        self,
        num_features: int,
        ghost_batch_size: int = 128,
        *,
        statistics: GhostStatistics = "average",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, **kwargs)
        self.ghost_batch_size = ghost_batch_size
        self.statistics = statistics

    @classmethod
    def from_module(
        cls: type[T],
        norm: nn.modules.batchnorm._BatchNorm,
        ghost_batch_size: int,
        statistics: GhostStatistics,
    ) -> T:
        """The same layer, sharing parameters and buffers, normalising by ghost batches while training."""
        layer = cls.__new__(cls)
        for key, value in norm.__dict__.items():
            layer.__dict__[key] = value.copy() if isinstance(value, dict) else value
        layer.ghost_batch_size = ghost_batch_size
        layer.statistics = statistics
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, *spatial), normalised by ghost batches while training, by running statistics otherwise."""
        self._check_input_dim(input)
        batch_statistics = self.training or self.running_mean is None
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # torch's cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
        return ghost_batch_norm(
            input,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight,
            self.bias,
            ghost_batch_size=self.ghost_batch_size,
            training=batch_statistics,
            momentum=0.0 if momentum is None else momentum,
            eps=self.eps,
            statistics=self.statistics,
        )

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}, statistics={self.statistics}"


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    """Ghost batch norm over (batch, channels) or (batch, channels, length)."""


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    """Ghost batch norm over (batch, channels, height, width)."""


class GhostBatchNorm3d(_GhostBatchNorm, nn.BatchNorm3d):
    """Ghost batch norm over (batch, channels, depth, height, width)."""


GHOST_OF: dict[type[nn.Module], type[_GhostBatchNorm]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}
