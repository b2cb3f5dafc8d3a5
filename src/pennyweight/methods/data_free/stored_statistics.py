"""Mean and variance of what enters some layers over the training set: from batch norms, or from a file.

A file of statistics is what a private data set's owner can hand out in the place of the data.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.statistics import Sums
from pennyweight.nn.calling import Batch, call
from pennyweight.nn.gemm import WEIGHTED
from pennyweight.nn.modes import in_mode
from pennyweight.numerics.checks import require_finite

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Of one layer's input, channel by channel.

    Args:
        mean: (channels,).
        var: (channels,), of the population.
        eps: added to variances, as the layer does.
    """

    mean: Tensor
    var: Tensor
    eps: float = 1e-5


StoredStatistics = Mapping[str, LayerStatistics]
"""By name of the module whose first input they describe, over all its calls in a forward."""

_OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.RMSNorm, nn.LocalResponseNorm)


def channel_rows(module: nn.Module, x: Tensor) -> Tensor:
    """A layer's input as (samples, positions, channels): channels are last for Linear layers, second otherwise."""
    if x.dim() == 2:
        return x.unsqueeze(1)
    return x.flatten(1, -2) if isinstance(module, nn.Linear) else x.flatten(2).transpose(1, 2)


def statistics_of(model: nn.Module) -> StoredStatistics:
    """What the model's batch norms stored in training.

    Raises:
        MethodError: it has none; the message says why and what to do.
        NumericsError: a running mean or variance is no finite number.
    """
    found = {
        name: _finite(name, norm.running_mean, norm.running_var, norm.eps)
        for name, norm in model.named_modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
        and norm.running_mean is not None
        and norm.running_var is not None
    }
    if not found:
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
        normalised = any(isinstance(m, _OTHER_NORMS) for m in model.modules())
        folded = bool(convolutions) and not normalised and all(conv.bias is not None for conv in convolutions)
        why = (
            "its convolutions all have biases, so batch norms were probably folded into them, and their statistics are "
            "gone: take the checkpoint from before folding"
            if folded
            else "nets without batch norm store nothing of their training data"
        )
        raise MethodError(
            f"the model has no batch norm with running statistics: {why}; or pass statistics=load_statistics(file), a "
            f"file that collect_statistics and save_statistics make where the data is; or synthesize with "
            f"scheme='inception'"
        )
    return found


def _finite(name: str, mean: Tensor, var: Tensor, eps: float) -> LayerStatistics:
    require_finite(mean, f"running mean of batch norm {name!r}")
    require_finite(var, f"running variance of batch norm {name!r}")
    return LayerStatistics(mean.detach().clone(), var.detach().clone(), eps)


def first_input(args: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor | None:
    """What a module is called on, by position or by name; None where that is no tensor."""
    x = next(iter([*args, *named.values()]), None)
    return x if isinstance(x, Tensor) else None


@torch.no_grad()
def collect_statistics(model: nn.Module, batches: Iterable[Batch]) -> StoredStatistics:
    """Statistics of the inputs of all weighted layers over a data set, for models without batch norm.

    Every position counts, padding tokens too: give token models sequences of full length.

    Args:
        batches: the training set, or as much of it as is wanted.

    Raises:
        MethodError: no weighted layer is ever called.
    """
    sums: dict[str, Sums] = {}

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def before(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = first_input(args, named)
            if x is not None and x.is_floating_point():
                sums.setdefault(name, Sums()).add(channel_rows(module, x).flatten(0, 1))

        return layer.register_forward_pre_hook(before, with_kwargs=True)

    layers = {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED)}
    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        with in_mode(model, training=False):
            for batch in batches:
                call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if not sums:
        raise MethodError("no weighted layer was called on the batches: is there data, and does the model use it?")
    found = {}
    for name, total in sums.items():
        statistics = total.statistics()
        found[name] = LayerStatistics(statistics.mean.float(), statistics.std.square().float())
    return found


def save_statistics(statistics: StoredStatistics, path: Path | str) -> None:
    """Write statistics as a safetensors file.

    Raises:
        MethodError: it cannot be written.
    """
    tensors = {f"{name}:{part}": getattr(s, part).cpu().clone() for name, s in statistics.items() for part in _PARTS}
    facts = {"schema": SCHEMA, "eps": {name: s.eps for name, s in statistics.items()}}
    try:
        safetensors.torch.save_file(tensors, path, metadata={"statistics": json.dumps(facts)})
    except (OSError, safetensors.SafetensorError) as error:
        raise MethodError(f"cannot write statistics to {path}: {error}") from error


def load_statistics(path: Path | str) -> StoredStatistics:
    """Read what `save_statistics` wrote.

    Raises:
        MethodError: the file is missing, damaged or something else.
    """
    if not isinstance(path, str | Path):
        raise MethodError(f"load_statistics reads the file of a path, not a {type(path).__name__}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["statistics"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        if facts["schema"] != SCHEMA:
            raise ValueError(f"schema {facts['schema']} is not {SCHEMA}")
        found = {
            name: LayerStatistics(tensors[f"{name}:mean"], tensors[f"{name}:var"], float(eps))
            for name, eps in facts["eps"].items()
        }
        if not found:
            raise ValueError("it describes no layer")
        for name, s in found.items():
            if s.mean.dim() != 1 or s.mean.shape != s.var.shape:
                raise ValueError(f"the statistics of {name!r} are no pair of vectors")
            if not bool(torch.isfinite(s.mean).all() & torch.isfinite(s.var).all() & (s.var >= 0).all()):
                raise ValueError(f"a mean of {name!r} is not finite, or a variance negative or not finite")
    except (OSError, KeyError, TypeError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        raise MethodError(f"{path} is no file of statistics: {error}") from error
    return found


def statistics_digest(statistics: StoredStatistics) -> str:
    """A fingerprint: equal for equal statistics."""
    digest = hashlib.blake2b(digest_size=16)
    for name, s in statistics.items():
        digest.update(f"{name} {s.eps}".encode())
        for part in (s.mean, s.var):
            digest.update(part.detach().double().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_fit(model: nn.Module, statistics: StoredStatistics) -> None:
    """Every layer the statistics name is there, and has as many channels.

    Raises:
        MethodError: one is not or has not, or there is none.
    """
    if not statistics:
        raise MethodError("the statistics describe no layer: there is nothing to compare with")
    known = dict(model.named_modules())
    if absent := [name for name in statistics if name not in known]:
        raise MethodError(f"the statistics describe a layer {absent[0]!r}, which the model lacks: another model's?")
    for name, stored in statistics.items():
        channels = _channels(known[name])
        if channels is not None and len(stored.mean) != channels:
            raise MethodError(
                f"the statistics of layer {name!r} are of {len(stored.mean)} channels, and the model's has {channels}: "
                f"another model's?"
            )


def _channels(module: nn.Module) -> int | None:
    """How many channels enter it, where it says so."""
    for role in ("num_features", "in_features", "in_channels"):
        if isinstance(count := getattr(module, role, None), int):
            return count
    return None


_PARTS = ("mean", "var")
