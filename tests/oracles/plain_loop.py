"""A training loop written out by hand with torch alone: what `pennyweight.train` must agree with."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_loop(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    lrs: list[float],
    *,
    momentum: float,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> list[float]:
    """torch's SGD on the mean cross-entropy over given batches at given learning rates; the loss of each step."""
    optimizer = torch.optim.SGD(model.parameters(), momentum=momentum, weight_decay=weight_decay)
    losses = []
    model.train()
    for (x, y), lr in zip(batches, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, reduction="none").sum() / len(x)
        loss.backward()
        losses.append(float(loss.detach()))
        if clip_norm is not None:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norm = torch.cat([g.flatten() for g in gradients]).norm()
            for g in gradients:
                g *= min(1.0, clip_norm / (float(norm) + 1e-6))
        optimizer.step()
    return losses
