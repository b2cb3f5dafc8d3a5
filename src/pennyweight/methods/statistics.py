"""Mean and spread of a layer's output, channel by channel: measuring them, and moving a layer to given ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.calling import call
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.modes import in_mode
from pennyweight.nn.slots.integer import IntegerWeight
from pennyweight.nn.tying import tied_to
from pennyweight.numerics.affine import PerTensor

Inputs = Tensor | dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Statistics over samples and positions.

    Args:
        mean: (channels,) float64.
        std: (channels,) float64, of the population.
    """

    mean: Tensor
    std: Tensor


class Sums:
    """Adds up statistics over batches, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Count values, (values, channels)."""
        wide = rows.detach().double()
        self._count += len(wide)
        self._sum = self._sum + wide.sum(0)
        self._squares = self._squares + wide.square().sum(0)

    def statistics(self) -> ChannelStatistics:
        """Of everything added."""
        assert isinstance(self._sum, Tensor)
        assert isinstance(self._squares, Tensor)
        mean = self._sum / self._count
        return ChannelStatistics(mean, (self._squares / self._count - mean.square()).clamp_min(0).sqrt())


def channel_rows(layer: nn.Module, output: Tensor) -> Tensor:
    """A layer's output as (values, channels): channels are last for Linear, second for convolutions."""
    if isinstance(layer, nn.Linear):
        return output.reshape(-1, output.shape[-1])
    return output.movedim(1, -1).reshape(-1, output.shape[1])


@torch.no_grad()
def measured_statistics(
    model: nn.Module, names: Sequence[str], batches: Sequence[Inputs]
) -> dict[str, ChannelStatistics]:
    """Statistics of layers' outputs in evaluation mode.

    Raises:
        MethodError: one of the layers is never called.
    """
    sums = {name: Sums() for name in names}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        return model.get_submodule(name).register_forward_hook(
            lambda layer, _args, output: sums[name].add(channel_rows(layer, output))
        )

    handles = [watch(name) for name in names]
    try:
        with in_mode(model, training=False):
            for batch in batches:
                call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    try:
        return {name: found.statistics() for name, found in sums.items()}
    except AssertionError as error:
        silent = [name for name, found in sums.items() if not isinstance(found._sum, Tensor)]
        raise MethodError(f"layer {silent[0]!r} is never called by the model's forward") from error


def batchnorm_statistics(reference: nn.Module, norms: Sequence[tuple[str, str]]) -> dict[str, ChannelStatistics]:
    """What the layers before batch norms should give once these are folded: mean beta, spread |gamma|.

    They are those of the training set, which no calibration set could tell as well.
    """
    found = {}
    for layer, name in norms:
        norm = reference.get_submodule(name)
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        if norm.running_var is None:
            continue
        var = norm.running_var.double()
        gamma = torch.ones_like(var) if norm.weight is None else norm.weight.detach().double()
        beta = torch.zeros_like(var) if norm.bias is None else norm.bias.detach().double()
        found[layer] = ChannelStatistics(beta, gamma.abs() * (var / (var + norm.eps)).sqrt())
    return found


@dataclass(frozen=True)
class Move:
    """How a layer is moved from measured to wanted statistics: output' = (output - mean) * gain + target.

    Args:
        mean: (channels,) float64; `gain` and `target` likewise.
        clipped: channels whose gain was cut to the allowed interval.
        left: channels too quiet to be moved.
    """

    mean: Tensor
    gain: Tensor
    target: Tensor
    clipped: int
    left: int


def move_between(
    measured: ChannelStatistics,
    target: ChannelStatistics,
    *,
    strength: float,
    spread: bool,
    clip: tuple[float, float],
    min_std: float,
) -> Move:
    """The move from measured towards target statistics.

    Args:
        strength: share of the way, in (0, 1]: what a running average that starts at the target has learnt of the
            measured statistics.
        spread: match the spread too; else the mean alone.
        clip: the least and the greatest gain.
        min_std: channels quieter than this are left alone.
    """
    mean = (1 - strength) * target.mean + strength * measured.mean
    std = ((1 - strength) * target.std.square() + strength * measured.std.square()).sqrt()
    quiet = measured.std < min_std
    gain = target.std / std.clamp_min(1e-30) if spread else torch.ones_like(mean)
    cut = gain.clamp(*clip)
    cut = torch.where(quiet, 1.0, cut)
    return Move(
        mean=torch.where(quiet, 0.0, mean),
        gain=cut,
        target=torch.where(quiet, 0.0, target.mean),
        clipped=int(((cut != gain) & ~quiet).sum()),
        left=int(quiet.sum()),
    )


def can_be_scaled(layer: nn.Module) -> bool:
    """Whether channels may be scaled one by one without another code changing."""
    if not isinstance(layer, GemmModule):
        return True
    content = layer.slots.weight.quantizer
    return content is None or (isinstance(content, IntegerWeight) and not isinstance(content.granularity, PerTensor))


@torch.no_grad()
def move_layer_(layer: nn.Module, move: Move) -> None:
    """Apply a move to a layer's weight, scales and bias; integer codes stay what they are.

    Source: arXiv 2006.10518, section 5: the re-estimated batch norm folded again, its gain taken by the scales.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    gain = move.gain.to(weight.dtype)
    if can_be_scaled(layer):  # else the gain is 1
        weight.mul_(gain.reshape(-1, *[1] * (weight.dim() - 1)))
        if isinstance(layer, GemmModule) and isinstance(content := layer.slots.weight.quantizer, IntegerWeight):
            content.scale.mul_(gain.reshape(-1, *[1] * (content.scale.dim() - 1)))
    require_bias_(layer)
    bias = layer.bias
    assert isinstance(bias, Tensor)
    bias.copy_((bias.double() - move.mean) * move.gain + move.target)


@torch.no_grad()
def require_bias_(layer: nn.Module) -> None:
    """Give a layer without bias one of zeros."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if layer.bias is None:
        layer.bias = nn.Parameter(weight.new_zeros(weight.shape[0]))


def moved_output(layer: nn.Module, output: Tensor, move: Move) -> Tensor:
    """What the layer would have given after the move."""
    shape = (-1,) if isinstance(layer, nn.Linear) else (1, -1, *[1] * (output.dim() - 2))
    mean, gain, target = (part.to(output.dtype).reshape(shape) for part in (move.mean, move.gain, move.target))
    return (output - mean) * gain + target


def not_movable(model: nn.Module, calls: Mapping[str, int]) -> dict[str, str]:
    """Reasons to skip layers: one set of parameters and several statistics, or a bias that is another module's too."""
    found = {name: f"runs {count} times a forward" for name, count in calls.items() if count > 1}
    owners = {name: tied_to(model, model.get_submodule(name), "bias") for name in calls}
    return {name: f"its bias is that of {other!r} too" for name, other in owners.items() if other is not None} | found
