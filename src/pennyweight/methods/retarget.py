"""Walking through a model once and moving each layer to its target statistics as its input arrives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pennyweight.methods.reconstruction.samples import PASS, available_bytes
from pennyweight.methods.statistics import (
    ChannelStatistics,
    Inputs,
    Move,
    Sums,
    can_be_scaled,
    channel_rows,
    measured_statistics,
    move_between,
    move_layer_,
    moved_output,
)
from pennyweight.nn.calling import call, num_samples, take_samples
from pennyweight.nn.execution import Execution
from pennyweight.nn.modes import in_mode
from pennyweight.nn.tying import tied_to

_SHARE_OF_MEMORY = 0.25
_LIVE_TENSORS = 4
"""A layer's input and output, a shortcut, and a copy while one is computed from the other."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """How layers are moved; see `move_between`.

    Args:
        strength: share of the way.
        spread: match the spread of a layer's channels, or the mean alone.
        clip: the least and the greatest gain.
        min_std: channels quieter than this are left alone.
    """

    strength: float
    spread: bool
    clip: tuple[float, float]
    min_std: float


@dataclass
class Retargeted:
    """What was done.

    Args:
        moved: names of the layers.
        mean_only: of those, the layers whose spread could not be matched, with the reason.
        clipped: channels whose gain was cut.
        left: channels too quiet to be moved.
    """

    moved: list[str] = field(default_factory=list)
    mean_only: dict[str, str] = field(default_factory=dict)
    clipped: int = 0
    left: int = 0


@torch.no_grad()
def retarget_(
    model: nn.Module,
    targets: Mapping[str, ChannelStatistics],
    inputs: Inputs,
    execution: Execution,
    matching: Matching,
) -> Retargeted:
    """Move layers to their targets, each with the layers before it moved already.

    A weight that another module holds too stays as it is: such a layer is moved in the mean alone.

    All samples go through the model in one forward where memory allows: each layer is measured and moved as its
    output appears, and hands on what it would have given. Otherwise there is one pass a layer.

    Args:
        model: changed in place.
        targets: by layer; others stay.
        inputs: calibration samples.
        execution: order and sizes.
    """
    done = Retargeted()

    def move_for(name: str, layer: nn.Module, measured: ChannelStatistics, tokens: bool) -> Move:
        spread = matching.spread
        if spread and (reason := _no_spread(model, layer, tokens)):
            done.mean_only[name] = reason
            spread = False
        move = move_between(
            measured,
            targets[name],
            strength=matching.strength,
            spread=spread,
            clip=matching.clip,
            min_std=matching.min_std,
        )
        done.moved.append(name)
        done.clipped, done.left = done.clipped + move.clipped, done.left + move.left
        return move

    order = [layer for layer in execution.layers if layer.fqn in targets]
    largest = max((max(layer.input_numel, layer.output_numel) for layer in execution.layers), default=0)
    needed = 4 * _LIVE_TENSORS * largest * num_samples(inputs)
    if needed <= _SHARE_OF_MEMORY * available_bytes():
        _in_one_forward(model, [layer.fqn for layer in order], inputs, move_for)
    else:
        batches = [take_samples(inputs, slice(s, s + PASS)) for s in range(0, num_samples(inputs), PASS)]
        for found in order:
            measured = measured_statistics(model, [found.fqn], batches)[found.fqn]
            layer = model.get_submodule(found.fqn)
            move_layer_(layer, move_for(found.fqn, layer, measured, len(found.input_shape) > 2))
    return done


def _in_one_forward(
    model: nn.Module,
    order: list[str],
    inputs: Inputs,
    move_for: Callable[[str, nn.Module, ChannelStatistics, bool], Move],
) -> None:
    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def after(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            sums = Sums()
            for part in output.split(PASS):  # float64 copies of everything would be too large
                sums.add(channel_rows(layer, part))
            move = move_for(name, layer, sums.statistics(), args[0].dim() > 2)
            move_layer_(layer, move)
            return moved_output(layer, output, move)

        return model.get_submodule(name).register_forward_hook(after)

    handles = [watch(name) for name in order]
    try:
        with in_mode(model, training=False):
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _no_spread(model: nn.Module, layer: nn.Module, tokens: bool) -> str:
    """Why only the mean of a layer can be matched; "" where the spread can too."""
    if not can_be_scaled(layer):
        return "one scale for the whole weight"
    if (name := tied_to(model, layer)) is not None:
        return f"its weight is that of {name!r} too"
    if isinstance(layer, nn.Linear) and tokens:
        return "a linear layer over tokens, whose spread depends on the text"
    return ""
