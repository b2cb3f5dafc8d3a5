"""Running a model again after one layer changed: only what depends on the layer is computed.

Values of the unchanged model stay in memory, one set a batch. Models that torch.fx cannot trace run whole.
"""

import operator
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from pennyweight.errors import MethodError
from pennyweight.nn.calling import call, output_tensor
from pennyweight.nn.modes import in_mode
from pennyweight.nn.tracing import trace

Inputs = Tensor | dict[str, Tensor]

_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


class Replay:
    """Outputs of a model over some batches, quick to compute again when one layer differs.

    Args:
        model: called with the batches; its layers may be changed between calls of `outputs`.
        batches: inputs.
        remember: keep values in memory; without it every call runs the model whole.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Inputs], *, remember: bool = True) -> None:
        self._model, self._batches = model, list(batches)
        self._graph: fx.Graph | None = None
        self._values: list[dict[fx.Node, Any]] = []
        if remember and all(isinstance(batch, Tensor) for batch in batches):
            with suppress(MethodError):
                self._graph = trace(model)

    @torch.no_grad()
    def outputs(self, changed: str | None = None) -> list[Tensor]:
        """The model's output for each batch.

        Args:
            changed: name of the only layer that differs from the last call without a name; None runs everything, and
                remembers it.
        """
        with in_mode(self._model, training=False):
            if self._graph is None:
                return [output_tensor(call(self._model, batch)) for batch in self._batches]
            if changed is None or not self._values:
                runs = [_Run(self._model, self._graph, {}) for _ in self._batches]
                results = [run.run(batch) for run, batch in zip(runs, self._batches, strict=True)]
                self._values = [run.remembered for run in runs]
                return [output_tensor(result) for result in results]
            stale = _depending(self._graph, changed)
            return [
                output_tensor(
                    _Run(self._model, self._graph, {n: v for n, v in known.items() if n not in stale}).run(batch)
                )
                for known, batch in zip(self._values, self._batches, strict=True)
            ]


class _Run(fx.Interpreter):
    """One run that takes known values as they are, and remembers what it computes."""

    def __init__(self, model: nn.Module, graph: fx.Graph, known: dict[fx.Node, Any]) -> None:
        super().__init__(model, garbage_collect_values=False, graph=graph)
        self._known = known
        self.remembered: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's known value, or what it computes."""
        if n in self._known:
            return self._known[n]
        if _writes_in_place(n, self.submodules):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            # A remembered value that were written to would be wrong for every later run.
            value = getattr(self, n.op)(n.target, _copied(args), _copied(kwargs))
        else:
            value = super().run_node(n)
        self.remembered[n] = value
        return value


def _writes_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    return node.target in _IN_PLACE or name.endswith("_") or bool(node.kwargs.get("inplace"))


def _copied(values: Any) -> Any:
    return fx.node.map_aggregate(values, lambda v: v.clone() if isinstance(v, Tensor) else v)


def _depending(graph: fx.Graph, fqn: str) -> set[fx.Node]:
    """All nodes that depend on a module's calls, the calls included."""
    stale: set[fx.Node] = set()
    for node in graph.nodes:
        if (node.op == "call_module" and node.target == fqn) or any(n in stale for n in node.all_input_nodes):
            stale.add(node)
    return stale
