"""Which layers of a program can run on packed words together. Building what runs them is `artifact.packed`'s.

A chain is a run of binary layers with nothing but sign-preserving steps between them: convolutions first, then linear
layers, with one flatten where the one becomes the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pennyweight.artifact.program import Step, decode, references

# Elementwise, monotone in each channel: the sign of their result is one comparison away from their input.
_ELEMENTWISE = frozenset({"hardtanh", "identity", "dropout"})
_NORMS = {
    "linear": frozenset({"batch_norm1d", "shift_batch_norm1d"}),
    "conv2d": frozenset({"batch_norm2d", "shift_batch_norm2d"}),
}

# Functions that stand for modules: their kind and settings, in the order of their arguments.
FUNCTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "F.hardtanh": ("hardtanh", ("min_val", "max_val")),
    "F.max_pool2d": ("max_pool2d", ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
}
_WITHOUT_EFFECT = (("inplace", False), ("inplace", True), ("return_indices", False))


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
        """The kind of a step's module, or of the module a function stands for; "" for what has none."""
        step = self.steps[index]
        if step["op"] == "module":
            spec = self.spec(index)
            whole = spec["kind"] != "flatten" or spec["settings"] == {"start_dim": 1, "end_dim": -1}
            return spec["kind"] if whole else ""
        if (step["op"], step["target"]) in (("function", "torch.flatten"), ("method", "flatten")):
            settings = call_settings(step, ("start_dim", "end_dim")) or {}
            return "flatten" if {"end_dim": -1, **settings} == {"start_dim": 1, "end_dim": -1} else ""
        if step["op"] == "function" and step["target"] in FUNCTIONS:
            kind, names = FUNCTIONS[step["target"]]
            return kind if call_settings(step, names) is not None else ""
        return ""

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


def call_settings(step: Step, names: Sequence[str]) -> dict[str, Any] | None:
    """The settings of a function that is called on one tensor, by name; None where it takes others than `names`."""
    positional, named = step["args"]["tuple"][1:], step["kwargs"]["dict"]
    settings = dict(zip(names, positional, strict=False)) | {
        name: value for name, value in named.items() if (name, value) not in _WITHOUT_EFFECT
    }
    if len(positional) > len(names) or set(settings) - set(names) or references(list(settings.values())):
        return None
    return {name: decode(value, {}) for name, value in settings.items()}
