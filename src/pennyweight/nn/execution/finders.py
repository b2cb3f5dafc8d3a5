"""Three ways to find a model's flow: torch.export, torch.fx, and hooks that follow tensors from module to module."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pennyweight.errors import MethodError
from pennyweight.nn.calling import Batch, call, inputs_of
from pennyweight.nn.execution.flow import Flow, Kind, Op
from pennyweight.nn.execution.kinds import (
    LAYERS,
    NORMS,
    kind_of_aten,
    kind_of_function,
    kind_of_method,
    kind_of_module,
)
from pennyweight.nn.tracing import trace


def flow_by_fx(model: nn.Module) -> Flow:
    """From a symbolic trace: module calls, torch functions, tensor methods.

    Raises:
        MethodError: the model cannot be traced.
    """
    modules = dict(model.named_modules())
    ops: list[Op] = []
    place: dict[fx.Node, int] = {}
    for node in trace(model).nodes:
        kind, fqn = _fx_kind(node, modules)
        inputs = tuple(place[source] for source in node.all_input_nodes if source in place)
        place[node] = len(ops)
        ops.append(Op(kind, fqn, inputs))
    return Flow(ops, complete=True)


def _fx_kind(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[Kind, str]:
    if node.op in ("placeholder", "output"):
        return ("input" if node.op == "placeholder" else "output"), ""
    if node.op == "call_module":
        kind = kind_of_module(modules[str(node.target)])
        return kind, str(node.target) if kind in ("layer", "norm") else ""
    if node.op == "call_method":
        return kind_of_method(str(node.target)), ""
    return (kind_of_function(node.target) if node.op == "call_function" else "other"), ""


def flow_by_export(model: nn.Module, batch: Batch) -> Flow:
    """From torch.export: every operator of the forward, each with the module it belongs to.

    Raises:
        MethodError: the model cannot be exported.
    """
    x = inputs_of(batch)
    args, kwargs = ((x,), {}) if isinstance(x, Tensor) else ((), x)
    try:
        with torch.no_grad():
            program = torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:  # torch.export raises nearly anything
        reason = " ".join(str(error).split())[:200]
        raise MethodError(f"{type(model).__name__} cannot be exported by torch.export ({reason})") from error
    modules = dict(model.named_modules())
    inputs = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    ops: list[Op] = []
    place: dict[fx.Node, int] = {}
    inside: dict[str, int] = {}  # a layer's or norm's operators are one operation
    for node in program.graph.nodes:
        sources = tuple(dict.fromkeys(place[n] for n in node.all_input_nodes if n in place))
        if node.op == "placeholder":
            if node.name in inputs:
                place[node] = len(ops)
                ops.append(Op("input", "", ()))
            continue
        owner = "" if node.op == "output" else _owner(node, modules)
        if owner and ops and place and inside.get(owner) == len(ops) - 1:
            place[node] = len(ops) - 1  # goes on within the module that just ran
            continue
        kind: Kind = "output" if node.op == "output" else kind_of_aten(str(node.target))
        if owner:
            kind = kind_of_module(modules[owner])
            inside[owner] = len(ops)
        place[node] = len(ops)
        ops.append(Op(kind, owner if kind in ("layer", "norm") else "", sources))
    return Flow(ops, complete=True)


def _owner(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Name of the innermost leaf module that matters and that the operator belongs to; "" for others."""
    for name, _ in reversed(list(node.meta.get("nn_module_stack", {}).values())):
        if name in modules and isinstance(modules[name], (*LAYERS, *NORMS, nn.ReLU)):
            return str(name)
    return ""


@torch.no_grad()
def flow_by_hooks(model: nn.Module, batch: Batch) -> Flow:
    """From one forward: which module's output object is which module's input object.

    What happens between modules stays unseen, so the flow is not complete.
    """
    names = {id(module): name for name, module in model.named_modules()}
    ops: list[Op] = []
    made: dict[int, int] = {}
    alive: list[Any] = []  # an object's id is its own only while it lives

    def note(value: Any, position: int) -> None:
        if isinstance(value, Tensor):
            made[id(value)] = position
            alive.append(value)

    x = inputs_of(batch)
    for value in (x,) if isinstance(x, Tensor) else x.values():
        note(value, len(ops))
        ops.append(Op("input", "", ()))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        kind = kind_of_module(module)
        sources = tuple(made[id(arg)] for arg in args if isinstance(arg, Tensor) and id(arg) in made)
        fqn = names[id(module)] if kind in ("layer", "norm") else ""
        note(output, len(ops))
        ops.append(Op(kind, fqn, sources))

    leaves = [m for m in model.modules() if isinstance(m, LAYERS) or not list(m.children())]
    handles = [leaf.register_forward_hook(after) for leaf in leaves]
    try:
        call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return Flow(ops, complete=False)
