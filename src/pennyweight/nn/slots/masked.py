"""Weight masks that stay or are renewed while training: the schedule, and the N:M mask by magnitude.

Which weights a mask keeps is said in `masks`; here is when it is asked, and what gradients the pruned weights get.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pennyweight.masks.nm import NM, from_gemm_matrix, gemm_matrix
from pennyweight.nn.slots.chain import SlotContent, Stage
from pennyweight.numerics.packing import pack_bits, unpack_bits
from pennyweight.ops.nm_masks import nm_mask


@dataclass(frozen=True)
class MaskSchedule:
    """When a mask is renewed, in optimiser steps.

    Args:
        interval: steps between renewals; None keeps the first mask.
        freeze_after: steps after which the mask stays as it is; None renews to the end.
        flip_bounds: of the share of the mask that a renewal changes: below the first the interval doubles, above the
            second it halves; None keeps the interval.
    """

    interval: int | None = 40
    freeze_after: int | None = None
    flip_bounds: tuple[float, float] | None = None


class _StraightThrough(torch.autograd.Function):
    """The masked weight forward; backward the whole gradient, and a pull of pruned weights towards 0."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.decay = decay
        if decay:
            ctx.save_for_backward(weight, mask)
        return torch.where(mask, weight, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        if not ctx.decay:
            return grads[0], None, None
        weight, mask = ctx.saved_tensors
        return grads[0] + ctx.decay * torch.where(mask, 0.0, weight), None, None


class ScheduledMask(SlotContent):
    """A mask over latent weights; kinds of masks say which by `new_mask`, and take the first by `renew_`.

    While the mask may still change, pruned weights get the gradient they would have had (straight-through), so that
    they can come back. Once it stays, they get none. Masks are a function of the weights alone, with ties by place: all
    ranks find the same. A checkpoint holds the mask as bits, and the counts that say when it is renewed.

    Args:
        shape: of the latent weights.
        schedule: when the mask is renewed.
        decay: added to the gradient of pruned weights, times the weight.
    """

    stage: ClassVar[Stage] = "mask"
    bits: Tensor
    mask: Tensor
    steps: Tensor
    interval: Tensor
    due: Tensor
    flip_rate: Tensor

    def __init__(self, shape: torch.Size, schedule: MaskSchedule, decay: float) -> None:
        super().__init__()
        self.schedule = schedule
        self.decay = decay
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool), persistent=False)
        self.register_buffer("bits", pack_bits(self.mask.flatten().to(torch.uint8), 1))
        first = 0 if schedule.interval is None else schedule.interval
        for name, value in (("steps", 0), ("interval", first), ("due", first)):
            self.register_buffer(name, torch.tensor(value))
        self.register_buffer("flip_rate", torch.zeros(()))

    def new_mask(self, weight: Tensor) -> Tensor:
        """The mask these weights call for: bool, of their shape."""
        raise NotImplementedError(f"{type(self).__name__} does not say which weights it keeps")

    @property
    def stays(self) -> bool:
        """Whether the mask will not change any more."""
        after = self.schedule.freeze_after
        return self.schedule.interval is None or (after is not None and int(self.steps) >= after)

    def forward(self, x: Tensor) -> Tensor:
        """The weights with what is pruned at 0."""
        if self.stays or not self.training:
            return torch.where(self.mask, x, 0.0)
        result: Tensor = _StraightThrough.apply(x, self.mask, self.decay)
        return result

    @torch.no_grad()
    def project_(self, parameter: nn.Parameter) -> None:
        """Count a step, and renew the mask where it is due."""
        if self.stays:
            return
        self.steps.add_(1)
        if int(self.steps) < int(self.due):
            return
        self.renew_(parameter)
        if self.schedule.flip_bounds is not None:
            low, high = self.schedule.flip_bounds
            if float(self.flip_rate) < low:
                self.interval.mul_(2)
            elif float(self.flip_rate) > high:
                self.interval.copy_((self.interval // 2).clamp(min=1))
        self.due.copy_(self.steps + self.interval)

    @torch.no_grad()
    def renew_(self, weight: Tensor) -> None:
        """Take the mask these weights call for, now."""
        mask = self.new_mask(weight)
        self.flip_rate.copy_((mask != self.mask).float().mean())
        self.mask.copy_(mask)
        self.bits.copy_(pack_bits(mask.flatten().to(torch.uint8), 1))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.mask.copy_(unpack_bits(self.bits, 1, self.mask.numel()).reshape(self.mask.shape))

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{self.schedule}, decay={self.decay:.4g}"


class NMMask(ScheduledMask):
    """The n largest magnitudes of each m neighbours of the layer's matrix, inputs innermost.

    Args:
        weight: (out, in, *kernel), the latent weights.
        pattern: n and m.
        axis: along which groups run: 1 the inputs, which the forward product sums over, 0 the outputs.
        schedule: when the mask is renewed.
        decay: added to the gradient of pruned weights, times the weight.

    Source: arXiv 2102.04010, section 3.
    Deviations: its mask is new at each step; here as often as the schedule says.
    """

    def __init__(self, weight: Tensor, pattern: NM, axis: int, schedule: MaskSchedule, decay: float = 0.0) -> None:
        super().__init__(weight.shape, schedule, decay)
        self.pattern, self.axis = pattern, axis
        self.to(weight.device).renew_(weight.detach())

    def new_mask(self, weight: Tensor) -> Tensor:
        """By magnitude, of equal ones the first."""
        return from_gemm_matrix(nm_mask(gemm_matrix(weight), self.pattern, self.axis), weight.shape)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{self.pattern} along axis {self.axis}, {super().extra_repr()}"
