"""What methods see of calibration data: a bounded sample of the values each layer receives."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Batches
from pennyweight.nn.calling import call, num_samples, take_samples
from pennyweight.nn.padding import real_tokens, token_mask
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.statistics import kurtosis

MAX_VALUES = 1 << 18
HEAVY_TAILS = 50.0  # kurtosis above which a few values take the codes of all others


@torch.no_grad()
def observe_inputs(model: nn.Module, layers: Sequence[str], data: Batches, max_samples: int) -> dict[str, Tensor]:
    """Run calibration batches through the model and keep what the named layers receive.

    Args:
        layers: names of the layers to watch.
        data: batches of model inputs, alone or first in a tuple.
        max_samples: samples to run at most.

    Returns:
        For each layer, a flat tensor of the values it received: every value while they are few,
        then an even subsample a batch, with the smallest and the largest always among them. Values of tokens that
        the batch's attention_mask leaves out are not among them. Layers that the forward never calls are absent.

    Raises:
        MethodError: there is not one batch, or the model calls none of the layers.
        NumericsError: the data or a layer's input is not finite.
    """
    seen: dict[str, list[Tensor]] = {}
    mask: Tensor | None = None  # of the batch that is running

    def watch(fqn: str, budget: int) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.setdefault(fqn, []).append(_subsample(real_tokens(args[0], mask), budget, fqn))

        return model.get_submodule(fqn).register_forward_pre_hook(hook)

    batches = first_samples(data, max_samples)
    budget = max(1, MAX_VALUES // len(batches))
    training = model.training
    handles = [watch(fqn, budget) for fqn in layers]
    try:
        model.eval()
        for batch in batches:
            mask = token_mask(batch)
            call(model, batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    if layers and not seen:
        raise MethodError(f"none of {', '.join(layers)} received calibration data: does the model's forward call them?")
    return {fqn: torch.cat(parts) for fqn, parts in seen.items()}


def heavy_tailed(inputs: Mapping[str, Tensor]) -> dict[str, float | str]:
    """Metrics on outliers: the kurtosis of each layer's input, and the names of those above 50, if any."""
    found = {fqn: float(kurtosis(seen)) for fqn, seen in inputs.items()}
    metrics: dict[str, float | str] = {f"{fqn}.input_kurtosis": round(value, 1) for fqn, value in found.items()}
    if heavy := [fqn for fqn, value in found.items() if value > HEAVY_TAILS]:
        metrics["heavy_tailed_inputs"] = ", ".join(heavy)
    return metrics


def first_samples(data: Batches, max_samples: int) -> list[Tensor | dict[str, Tensor]]:
    """The inputs of the first samples, batched as they come; finite, and at least one."""
    batches: list[Tensor | dict[str, Tensor]] = []
    left = max_samples
    for batch in data:
        if num_samples(batch) == 0:
            continue
        taken = take_samples(batch, slice(left))
        for x in taken.values() if isinstance(taken, dict) else (taken,):
            if x.is_floating_point():
                require_finite(x, "calibration data")
        batches.append(taken)
        left -= num_samples(taken)
        if left <= 0:
            break
    if not batches:
        raise MethodError("the calibration data holds no sample: pass at least one batch of model inputs")
    return batches


def _subsample(x: Tensor, budget: int, fqn: str) -> Tensor:
    require_finite(x, f"input of layer {fqn!r}")
    flat = x.detach().float().flatten()
    if flat.numel() <= budget:
        return flat.clone()
    stride = -(-flat.numel() // budget)
    return torch.cat([flat[::stride], flat.amin()[None], flat.amax()[None]])
