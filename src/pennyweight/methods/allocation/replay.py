"""Running a model again after one layer changed: only what depends on the layer is computed.

Values of the unchanged model stay in memory, as many as a bound allows and the small ones first: each spares a run
all that leads to it. Models that torch.fx cannot trace run whole.
"""

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from pennyweight.errors import MethodError
from pennyweight.methods.reconstruction.samples import available_bytes
from pennyweight.nn.calling import call, output_tensor
from pennyweight.nn.modes import in_mode
from pennyweight.nn.tracing import trace

Inputs = Tensor | dict[str, Tensor]

_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
_SHARE_OF_MEMORY = 0.1


class Replay:
    """Outputs of a model over some batches, quick to compute again when one layer differs.

    Args:
        model: called with the batches; its layers may be changed between calls of `outputs`.
        batches: inputs.
        remember: keep values in memory; without it every call runs the model whole.
        max_bytes: of values in memory at most; None for a tenth of what is free.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Inputs], *, remember: bool = True, max_bytes: int | None = None
    ) -> None:
        self._model, self._batches = model, list(batches)
        self._graph: fx.Graph | None = None
        self._max_bytes = max_bytes
        self._kept: frozenset[fx.Node] = frozenset()
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
                self._values = []
                return [self._run_whole(self._graph, batch) for batch in self._batches]
            stale = _depending(self._graph, changed)
            return [
                self._run_again(self._graph, batch, {n: v for n, v in known.items() if n not in stale})
                for known, batch in zip(self._values, self._batches, strict=True)
            ]

    def _run_whole(self, graph: fx.Graph, batch: Inputs) -> Tensor:
        if not self._kept:
            self._kept = self._choose(graph, batch)
        run = _Run(self._model, graph, self._kept)
        result = output_tensor(run.run(batch))
        self._values.append(run.remembered)
        return result

    def _run_again(self, graph: fx.Graph, batch: Inputs, known: dict[fx.Node, Any]) -> Tensor:
        run = _Run(self._model, graph, frozenset())
        return output_tensor(run.run(batch, initial_env=known | _not_needed(graph, known)))

    def _choose(self, graph: fx.Graph, batch: Inputs) -> frozenset[fx.Node]:
        """The nodes whose values are kept, by their size in one batch."""
        run = _Run(self._model, graph, frozenset())
        run.run(batch)
        bound = available_bytes() * _SHARE_OF_MEMORY if self._max_bytes is None else self._max_bytes
        left, kept = bound / len(self._batches), set()
        for node, size in sorted(run.sizes.items(), key=lambda item: item[1]):
            left -= size
            if left < 0:
                break
            kept.add(node)
        return frozenset(kept)


class _Run(fx.Interpreter):
    """One run, which drops values when they are no longer read, notes their sizes and remembers some."""

    def __init__(self, model: nn.Module, graph: fx.Graph, kept: frozenset[fx.Node]) -> None:
        super().__init__(model, graph=graph)
        self._kept = kept
        self.sizes: dict[fx.Node, int] = {}
        self.remembered: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """What the node computes."""
        if _writes_in_place(n, self.submodules):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            # A remembered value that were written to would be wrong for every later run.
            value = getattr(self, n.op)(n.target, _copied(args), _copied(kwargs))
        else:
            value = super().run_node(n)
        if n.op not in ("placeholder", "output"):
            self.sizes[n] = _num_bytes(value)
            if n in self._kept:
                self.remembered[n] = value
        return value


def _num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_num_bytes, value)) if isinstance(value, tuple | list) else 0


def _not_needed(graph: fx.Graph, known: Mapping[fx.Node, Any]) -> dict[fx.Node, Any]:
    """Nodes that need not run, since all that read them is known, as an environment that passes over them."""
    needed: set[fx.Node] = set()
    todo = [node for node in graph.nodes if node.op == "output"]
    while todo:
        node = todo.pop()
        if node not in known and node not in needed:
            needed.add(node)
            todo += node.all_input_nodes
    return {node: None for node in graph.nodes if node not in needed and node not in known and node.op != "placeholder"}


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
