"""What a solver fits at a time: one layer, or a block of layers, with the float outputs it should reproduce."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pennyweight.nn.calling import Batch, call
from pennyweight.nn.execution import Execution
from pennyweight.nn.gemm import WEIGHTED, GemmModule

UnitKind = Literal["layer", "block"]


@dataclass(frozen=True, kw_only=True)
class UnitPlan:
    """A unit by names, before any model is changed.

    Args:
        name: of its module.
        kind: "layer" or "block".
        layers: names of the weighted layers inside that are to be quantized, in order of execution.
        calls: times its module is called in one forward.
        rectified: a ReLU alone reads its output.
        values: entries of its input and output together, a sample.
    """

    name: str
    kind: UnitKind
    layers: tuple[str, ...]
    calls: int
    rectified: bool
    values: int


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit of the model at work.

    Args:
        name: of its module.
        module: called with one tensor, gives one tensor.
        layers: the layers inside that are to be quantized, by their names in the model.
        rectified: compare outputs behind a ReLU, as what follows will see them.
    """

    name: str
    module: nn.Module
    layers: Mapping[str, GemmModule]
    rectified: bool = False

    def loss_terms(self, output: Tensor, target: Tensor) -> Tensor:
        """Squared errors, entry by entry."""
        if self.rectified:
            output, target = output.relu(), target.relu()
        return (output - target).square()


def plan_units(
    model: nn.Module, execution: Execution, chosen: Sequence[str], kind: UnitKind, batch: Batch
) -> tuple[UnitPlan, ...]:
    """The units of a model in order of execution.

    A block is the smallest module, other than a mere container, that holds several of the chosen layers and is called
    with a single tensor once a forward; layers in no block are units of their own.

    Args:
        chosen: names of the layers to quantize.
        batch: an example.
    """
    by_name = {layer.fqn: layer for layer in execution.layers if layer.fqn in set(chosen)}
    blocks = _blocks(model, tuple(by_name), batch) if kind == "block" else {}
    block_of = {layer: block for block, layers in blocks.items() for layer in layers}
    plans: dict[str, UnitPlan] = {}
    for name, layer in by_name.items():
        block = block_of.get(name)
        if block is None:
            plans[name] = UnitPlan(
                name=name,
                kind="layer",
                layers=(name,),
                calls=layer.calls,
                rectified=layer.rectified,
                values=layer.calls * (layer.input_numel + layer.output_numel),
            )
        elif block not in plans:
            inside = tuple(other for other in by_name if block_of.get(other) == block)
            values = 2 * max(max(by_name[other].input_numel, by_name[other].output_numel) for other in inside)
            plans[block] = UnitPlan(name=block, kind="block", layers=inside, calls=1, rectified=False, values=values)
    return tuple(plans.values())


def _blocks(model: nn.Module, chosen: Sequence[str], batch: Batch) -> dict[str, tuple[str, ...]]:
    holds = {
        name: tuple(layer for layer in chosen if layer.startswith(f"{name}."))
        for name, module in model.named_modules()
        if name and not isinstance(module, (*WEIGHTED, nn.Sequential, nn.ModuleList, nn.ModuleDict))
    }
    several = {name: layers for name, layers in holds.items() if len(layers) > 1}
    simple = _called_with_one_tensor(model, several, batch)
    return {
        name: layers
        for name, layers in several.items()
        if name in simple and not any(other in simple and other.startswith(f"{name}.") for other in several)
    }


@torch.no_grad()
def _called_with_one_tensor(model: nn.Module, names: Mapping[str, Any], batch: Batch) -> set[str]:
    """The modules whose only call in a forward takes one tensor and gives one."""
    calls: dict[str, list[bool]] = {name: [] for name in names}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls[name].append(
                len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            )

        return model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)

    handles = [watch(name) for name in names]
    try:
        call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name for name, found in calls.items() if found == [True]}
