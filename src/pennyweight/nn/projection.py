"""After-step projections: clip latent weights, refresh a mask. One line in a loop, or torch's own step hook."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from pennyweight.nn.slots.chain import SlotContent


@torch.no_grad()
def project_(model: nn.Module) -> None:
    """Call `project_()` of every module that has one; the line to put after `optimizer.step()`."""
    for module in model.modules():
        projection = getattr(module, "project_", None)
        if callable(projection) and not isinstance(module, SlotContent):  # a content is called by its layer
            projection()


def attach_projections(optimizer: Optimizer, model: nn.Module) -> RemovableHandle:
    """For a loop of your own: project after each `optimizer.step()` without changing the loop.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> handle = attach_projections(torch.optim.SGD(model.parameters(), lr=0.1), model)
        >>> handle.remove()
    """

    def hook(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        project_(model)

    return optimizer.register_step_post_hook(hook)
