"""`min_samples`: how many calibration samples a layer's fit needs to be determined at all."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pennyweight.nn.calling import Batch, call, num_samples
from pennyweight.nn.modes import in_mode


@torch.no_grad()
def min_samples(model: nn.Module, names: Iterable[str], example: Batch) -> dict[str, int]:
    """Samples from which on a layer has as many outputs to fit as weights to fit them with, channel by channel.

    With fewer, weights can be found that give the calibration outputs exactly and say nothing of other data. A sample
    gives a convolution one equation a position of its output, so B * H * W >= C_in / groups * k^2.

    Args:
        example: a batch of model inputs.

    Returns:
        For each named weighted layer that the model calls, at least 1.

    Source: the counting argument of arXiv 2006.10518, section 3.
    """
    found: dict[str, int] = {}
    size = num_samples(example)

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(layer: nn.Module, _args: object, output: Tensor) -> None:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            if isinstance(layer, nn.Embedding):
                found[name] = 1  # rows are looked up: nothing is solved for
                return
            positions = output.numel() / (len(weight) * size)
            found[name] = max(1, math.ceil(weight[0].numel() / max(positions, 1e-9)))

        return model.get_submodule(name).register_forward_hook(note)

    handles = [watch(name) for name in names]
    try:
        with in_mode(model, training=False):
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return found
