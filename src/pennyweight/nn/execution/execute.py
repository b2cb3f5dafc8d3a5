"""`execution_of`: one forward for order and sizes, and the best account of the flow that can be had."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.calling import Batch, call, num_samples
from pennyweight.nn.execution.finders import flow_by_export, flow_by_fx, flow_by_hooks
from pennyweight.nn.execution.flow import Flow
from pennyweight.nn.execution.kinds import LAYERS
from pennyweight.nn.modes import in_mode
from pennyweight.nn.wrappers import lazy_modules

Level = Literal["export", "fx", "hooks"]
_LOST = {
    "export": "",
    "fx": "",
    "hooks": "what happens between modules: which outputs are rectified or summed is unknown",
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A weighted layer as the model runs it.

    Args:
        fqn: its name.
        kind: class of torch it is, such as "Conv2d".
        calls: times it runs in one forward.
        macs: multiply-accumulates a sample, over all calls; an embedding has none.
        weight_numel: entries of its weight.
        input_numel: entries of its input a sample and call; `output_numel` likewise.
        input_shape: of the example, batch included; `output_shape` likewise.
        rectified: only ReLUs read its output, behind batch norms.
        input_group: equal for layers that read the same value.
        sum_group: equal for layers whose outputs end in one sum; None where they end in none.
    """

    fqn: str
    kind: str
    calls: int
    macs: int
    weight_numel: int
    input_numel: int
    output_numel: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    rectified: bool
    input_group: int
    sum_group: int | None


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a model runs.

    Args:
        level: how it was found.
        lost: what that way cannot tell; "" where nothing.
        layers: in order of first execution.
        first: layers a model input reaches without passing another layer.
        last: layers whose values reach the output without passing another layer.
        norms: (layer, batch norm) pairs of which the batch norm alone reads the layer's output.
    """

    level: Level
    lost: str
    layers: tuple[Layer, ...]
    first: tuple[str, ...]
    last: tuple[str, ...]
    norms: tuple[tuple[str, str], ...]


def execution_of(model: nn.Module, batch: Batch, *, level: Level | Literal["auto"] = "auto") -> Execution:
    """How the model runs on an example.

    Args:
        batch: an example, best of two samples or more.
        level: "fx" and "export" know every operation, "hooks" only modules; "auto" takes the first that works, in the
            order fx (the fastest), export (for forwards that branch on their arguments' types), hooks (for all).

    Raises:
        MethodError: the model has lazily made or no weighted layers, or the level asked for does not work.
    """
    if lazy := lazy_modules(model):
        raise MethodError(f"module {lazy[0]!r} has no weights yet: run the model once on a batch first")
    with in_mode(model, training=False):
        sizes = _sizes(model, batch)
        if not sizes:
            raise MethodError("the model's forward runs no weighted layer (Linear, convolution, Embedding)")
        found, flow = _flow(model, batch, level, set(sizes))
    group_of: dict[str, int] = {}
    sums = {name: number for number, names in enumerate(flow.summed()) for name in sorted(names)}
    sources: dict[Any, int] = {}
    for name in sizes:
        source = flow.source(name)
        group_of[name] = sources.setdefault(name if source is None else source, len(sources))
    layers = tuple(
        Layer(
            fqn=name,
            **facts,
            rectified=flow.rectified(name),
            input_group=group_of[name],
            sum_group=sums.get(name),
        )
        for name, facts in sizes.items()
    )
    order = list(sizes)
    return Execution(
        level=found,
        lost=_LOST[found],
        layers=layers,
        first=tuple(flow.first()) or (order[0],),
        last=tuple(flow.last()) or (order[-1],),
        norms=tuple(flow.norms()),
    )


def _flow(model: nn.Module, batch: Batch, level: Level | Literal["auto"], needed: set[str]) -> tuple[Level, Flow]:
    """The flow by the level asked for, or by the first that works and sees all layers that ran."""
    ways: dict[Level, Callable[[], Flow]] = {
        "fx": lambda: flow_by_fx(model),
        "export": lambda: flow_by_export(model, batch),
        "hooks": lambda: flow_by_hooks(model, batch),
    }
    if level != "auto":
        if level not in ways:
            raise MethodError(f"level={level!r}: valid are 'auto', 'export', 'fx' and 'hooks'")
        return level, ways[level]()
    for name, way in ways.items():
        try:
            flow = way()
        except MethodError:
            continue
        if needed <= {op.fqn for op in flow.ops if op.kind == "layer"}:
            return name, flow
    raise AssertionError("hooks see every module that runs")


@torch.no_grad()
def _sizes(model: nn.Module, batch: Batch) -> dict[str, dict[str, Any]]:
    """What one forward shows of each layer, in order of first execution."""
    found: dict[str, dict[str, Any]] = {}
    samples = num_samples(batch)

    def watch(name: str) -> Any:
        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            x = args[0]
            macs = _macs(module, x, output) // samples
            if name in found:
                found[name]["calls"] += 1
                found[name]["macs"] += macs
                return
            assert isinstance(module.weight, Tensor)
            found[name] = {
                "kind": _kind(module),
                "calls": 1,
                "macs": macs,
                "weight_numel": module.weight.numel(),
                "input_numel": x.numel() // samples,
                "output_numel": output.numel() // samples,
                "input_shape": tuple(x.shape),
                "output_shape": tuple(output.shape),
            }

        return after

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if isinstance(m, LAYERS)]
    try:
        call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _kind(module: nn.Module) -> str:
    """Name of the class of torch that the layer is."""
    return next(kind.__name__ for kind in LAYERS if isinstance(module, kind))


def _macs(module: nn.Module, x: Tensor, output: Tensor) -> int:
    """Multiply-accumulates of one call; zeros of padding count, as is the custom."""
    assert isinstance(module.weight, Tensor)
    if isinstance(module, nn.Embedding):
        return 0
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return x.numel() * module.weight[0].numel()  # each input value meets every weight of its channel
    return output.numel() * module.weight[0].numel()
