"""Which layers of a program can run on packed words together. Building what runs them is `artifact.packed`'s.

A chain is a run of binary layers with nothing but sign-preserving steps between them: convolutions first, then linear
layers, with one flatten where the one becomes the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pennyweight.artifact.program import Step, references

# Elementwise, monotone in each channel: the sign of their result is one comparison away from their input.
_ELEMENTWISE = frozenset({"hardtanh", "identity", "dropout"})
_NORMS = {
    "linear": frozenset({"batch_norm1d", "shift_batch_norm1d"}),
    "conv2d": frozenset({"batch_norm2d", "shift_batch_norm2d"}),
}


@dataclass(frozen=True)
class Chain:
    """A run of layers to execute packed: indices of the layers' steps, and of the steps between them."""

    layers: tuple[int, ...]
    between: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Graph:
    steps: Sequence[Step]
    specs: Mapping[str, Any]
    output: frozenset[str]
    readers: Mapping[str, Sequence[int]]
    calls: Sequence[str]

    def spec(self, index: int) -> Mapping[str, Any]:
        """What the manifest says of a step's module; empty where the step is none."""
        step = self.steps[index]
        return self.specs[step["target"]] if step["op"] == "module" else {}

    def kind(self, index: int) -> str:
        """The kind of a step's module, "flatten" for each way to write it, else ""."""
        step = self.steps[index]
        if step["op"] == "module":
            return "flatten" if _is_flatten_module(self.spec(index)) else self.spec(index)["kind"]
        return "flatten" if _is_flatten_call(step) else ""

    def only_reader(self, index: int) -> int | None:
        """The one step that reads a step's result; None where there are more, or the program returns it."""
        name = self.steps[index]["name"]
        users = self.readers.get(name, [])
        return users[0] if len(users) == 1 and name not in self.output else None


def find_chains(steps: Sequence[Step], specs: Mapping[str, Any], output: Any) -> list[Chain]:
    """All maximal chains of a program, in order."""
    readers: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        for name in references(step["args"]) | references(step["kwargs"]):
            readers.setdefault(name, []).append(index)
    calls = [step["target"] for step in steps if step["op"] == "module"]
    graph = _Graph(steps, specs, frozenset(references(output)), readers, calls)
    taken: set[int] = set()
    chains = []
    for index in range(len(steps)):
        if index in taken or not _starts(graph, index):
            continue
        layers, between = [index], []
        while (found := _next_layer(graph, layers[-1])) is not None:
            gap, following = found
            between.append(gap)
            layers.append(following)
        taken |= set(layers)
        chains.append(Chain(tuple(layers), tuple(between)))
    return chains


def _is_binary(graph: _Graph, index: int) -> bool:
    """A linear layer or convolution of binary weights that the program calls once, with a border of zeros or none."""
    kind = graph.kind(index)
    if kind not in _NORMS or graph.calls.count(graph.steps[index]["target"]) != 1:
        return False
    spec = graph.spec(index)
    if kind == "conv2d" and spec["settings"]["padding_mode"] != "zeros":
        return False
    return bool(spec["weight"]["format"] == "binary" and "accumulator" not in spec)


def _takes_signs(graph: _Graph, index: int) -> bool:
    return bool(graph.spec(index).get("input", {}).get("format") == "binary")


def _starts(graph: _Graph, index: int) -> bool:
    if not _is_binary(graph, index):
        return False
    entering = graph.spec(index).get("input", {})
    return _takes_signs(graph, index) or (entering.get("format") == "int8" and entering.get("range") == "running")


def _next_layer(graph: _Graph, index: int) -> tuple[tuple[int, ...], int] | None:
    """The step indices up to the next binary layer, and that layer's; None where the chain ends."""
    layer = graph.kind(index)
    gap: list[int] = []
    flat, pooled = layer == "linear", False
    while (reader := graph.only_reader(index)) is not None:
        index = reader
        kind = graph.kind(index)
        if kind == ("linear" if flat else "conv2d"):
            return (tuple(gap), index) if _is_binary(graph, index) and _takes_signs(graph, index) else None
        if kind == "flatten" and not flat:
            flat = True
        elif kind == "max_pool2d" and not flat and not pooled:
            pooled = True
        elif kind not in _ELEMENTWISE and not (kind in _NORMS[layer] and flat == (layer == "linear")):
            return None
        gap.append(index)
    return None


def _is_flatten_module(spec: Mapping[str, Any]) -> bool:
    return spec["kind"] == "flatten" and spec["settings"] == {"start_dim": 1, "end_dim": -1}


def _is_flatten_call(step: Step) -> bool:
    """torch.flatten(x, 1) and x.flatten(1)."""
    if (step["op"], step["target"]) not in (("function", "torch.flatten"), ("method", "flatten")):
        return False
    positional = step["args"]["tuple"][1:]
    named = dict(step["kwargs"]["dict"])
    named |= dict(zip(("start_dim", "end_dim"), positional, strict=False))
    return bool(named.get("start_dim") == 1 and named.get("end_dim", -1) == -1)
