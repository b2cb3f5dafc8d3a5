"""`RangeBatchNorm` and its ghost variant: batch norms that measure ranges while training and load any checkpoint.

The arithmetic is in `range_normalize`; normalization on a grid of few bits is in `quantized_batchnorm`.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.range_normalize import range_batch_norm, range_deviation
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.order_statistics import RangeScale

T = TypeVar("T", bound="_RangeBatchNorm")


class _RangeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the ranks share; a subclass of torch's layer with the same state-dict keys, equal to it in evaluation.

    Args:
        num_features: channels.
        num_chunks: parts of a batch's values whose ranges are averaged.
        scale: the constant between range and standard deviation: "exact", "repo" or "paper".
        ghost_batch_size: samples that share statistics; None for the whole batch.

    Source: arXiv 1805.11046, section 3.
    """

    gain: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_chunks: int = 16,
        scale: RangeScale = "exact",
        *,
        ghost_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, **kwargs)
        self._set_range(num_chunks, scale, ghost_batch_size)

    def _set_range(self, num_chunks: int, scale: RangeScale, ghost_batch_size: int | None) -> None:
        if num_chunks < 1:
            raise MethodError(f"num_chunks={num_chunks}: the values are split into at least 1 chunk")
        if scale not in ("exact", "repo", "paper"):
            raise MethodError(f"scale={scale!r}: valid are 'exact', 'repo' and 'paper'")
        if ghost_batch_size is not None and ghost_batch_size < 1:
            raise MethodError(f"ghost_batch_size={ghost_batch_size}: a ghost batch holds at least 1 sample")
        self.num_chunks = num_chunks
        self.scale: RangeScale = scale
        self.ghost_batch_size = ghost_batch_size
        self.register_buffer("gain", None)

    @classmethod
    def from_module(
        cls: type[T],
        norm: nn.modules.batchnorm._BatchNorm,
        num_chunks: int = 16,
        scale: RangeScale = "exact",
        ghost_batch_size: int | None = None,
    ) -> T:
        """The same layer, sharing parameters and buffers, normalizing by ranges while training."""
        layer = cls.__new__(cls)
        for key, value in norm.__dict__.items():
            layer.__dict__[key] = value.copy() if isinstance(value, dict) else value
        layer._set_range(num_chunks, scale, ghost_batch_size)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, *spatial), normalized by ranges while training, by running statistics otherwise."""
        self._check_input_dim(input)
        return self._normalize(input, self.weight, self.bias)

    def _normalize(self, input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        batch_statistics = self.training or self.running_mean is None
        tracks = self.training and self.running_mean is not None
        running = not self.training or self.track_running_stats
        return range_batch_norm(
            input,
            self.running_mean if running else None,
            self.running_var if running else None,
            weight,
            bias,
            num_chunks=self.num_chunks,
            scale=self.scale,
            training=batch_statistics,
            momentum=self._count() if tracks else 0.0,
            eps=self.eps,
            ghost_batch_size=self.ghost_batch_size,
            gain=self.gain,
        )

    def _count(self) -> float:
        """Count the batch; the weight of its statistics, 1 / batches where momentum is None."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / float(self.num_batches_tracked)
        return self.momentum or 0.0

    @torch.no_grad()
    def calibrate_(self, input: Tensor) -> None:
        """Fit the constant of each channel to data, for values that are not Gaussian.

        Sets `gain` so that the deviation measured by ranges equals the standard deviation of this input. The gain
        becomes part of the state dict.

        Args:
            input: (batch, channels, *spatial), with at least two values a channel; the batch size of training.

        Raises:
            MethodError: fewer than two values a channel.
            NumericsError: the input is not finite.
        """
        self._check_input_dim(input)
        require_finite(input, "the input to calibrate Range BN with")
        size = min(self.ghost_batch_size or input.shape[0], input.shape[0])
        ghosts = [part for part in input.split(size) if part.shape[0] == size]
        ranges, variances = [], []
        for ghost in ghosts:
            rows = ghost.transpose(0, 1).reshape(self.num_features, -1)
            if rows.shape[1] < 2:
                raise MethodError(f"an input of shape {tuple(ghost.shape)} has 1 value a channel: a range takes 2")
            ranges.append(range_deviation(rows, self.num_chunks, self.scale)[0])
            variances.append(rows.var(1, correction=0))
        measured = torch.stack(ranges).mean(0)
        deviation = torch.stack(variances).mean(0).sqrt()
        self.gain = torch.where(measured > 0, deviation / measured, 1.0)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # A batch norm's checkpoint has no gain, and one of a calibrated layer brings it along.
        key = f"{prefix}gain"
        if key in state_dict and self.gain is None:
            self.gain = torch.ones_like(state_dict[key])
        elif key not in state_dict:
            self.gain = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        ghost = "" if self.ghost_batch_size is None else f", ghost_batch_size={self.ghost_batch_size}"
        return f"{super().extra_repr()}, num_chunks={self.num_chunks}, scale={self.scale}{ghost}"


class RangeBatchNorm1d(_RangeBatchNorm, nn.BatchNorm1d):
    """Range batch norm over (batch, channels) or (batch, channels, length)."""


class RangeBatchNorm2d(_RangeBatchNorm, nn.BatchNorm2d):
    """Range batch norm over (batch, channels, height, width)."""


class _GhostRangeBatchNorm(_RangeBatchNorm):
    def __init__(self, num_features: int, ghost_batch_size: int = 32, **kwargs: Any) -> None:
        super().__init__(num_features, ghost_batch_size=ghost_batch_size, **kwargs)


class GhostRangeBatchNorm1d(_GhostRangeBatchNorm, nn.BatchNorm1d):
    """Range batch norm by ghost batches over (batch, channels) or (batch, channels, length)."""


class GhostRangeBatchNorm2d(_GhostRangeBatchNorm, nn.BatchNorm2d):
    """Range batch norm by ghost batches over (batch, channels, height, width)."""


RANGE_OF: dict[type[nn.Module], type[_RangeBatchNorm]] = {
    nn.BatchNorm1d: RangeBatchNorm1d,
    nn.BatchNorm2d: RangeBatchNorm2d,
}
