"""Lowering: which layers of a program run on packed words, and the program rewritten so that they do.

A chain is a run of binary linear layers with nothing but sign-preserving modules between them. It becomes one step,
and one call of the C++ library. Single linear layers of few bits run on bit planes (`planes`). Everything else stays
the torch module it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight import ops
from pennyweight.artifact.planes import BitPlaneLinear, runs_on_planes
from pennyweight.artifact.program import Program, Step, references
from pennyweight.artifact.thresholds import fold_thresholds
from pennyweight.nn.gemm import GemmLinear
from pennyweight.nn.slots.integer import RunningInput

# Elementwise, monotone in each channel: the sign of their result is one comparison away from their input.
_BETWEEN = frozenset({"batch_norm1d", "shift_batch_norm1d", "hardtanh", "identity", "dropout"})


@dataclass(frozen=True)
class Chain:
    """A run of layers to execute packed: indices of the layers' steps, and the module targets between them."""

    layers: tuple[int, ...]
    between: tuple[tuple[int, ...], ...]


def find_chains(steps: Sequence[Step], specs: Mapping[str, Any], output: Any) -> list[Chain]:
    """All maximal chains of a program, in order."""
    readers: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        for name in references(step["args"]) | references(step["kwargs"]):
            readers.setdefault(name, []).append(index)
    calls = [step["target"] for step in steps if step["op"] == "module"]
    taken: set[int] = set()
    chains = []
    for index, step in enumerate(steps):
        if index in taken or not _starts(step, specs, calls):
            continue
        layers, between = [index], []
        while (found := _next_layer(layers[-1], steps, specs, readers, output, calls)) is not None:
            gap, following = found
            between.append(gap)
            layers.append(following)
        taken |= set(layers)
        chains.append(Chain(tuple(layers), tuple(between)))
    return chains


def _is_binary_linear(step: Step, specs: Mapping[str, Any], calls: Sequence[str]) -> bool:
    if step["op"] != "module" or calls.count(step["target"]) != 1:
        return False
    spec = specs[step["target"]]
    return bool(spec["kind"] == "linear" and spec["weight"]["format"] == "binary" and "accumulator" not in spec)


def _starts(step: Step, specs: Mapping[str, Any], calls: Sequence[str]) -> bool:
    if not _is_binary_linear(step, specs, calls):
        return False
    entering = specs[step["target"]].get("input", {})
    return entering.get("format") == "binary" or (
        entering.get("format") == "int8" and entering.get("range") == "running"
    )


def _next_layer(
    index: int,
    steps: Sequence[Step],
    specs: Mapping[str, Any],
    readers: Mapping[str, list[int]],
    output: Any,
    calls: Sequence[str],
) -> tuple[tuple[int, ...], int] | None:
    """The step indices up to the next binary layer, and that layer's; None where the chain ends."""
    gap: list[int] = []
    while True:
        name = steps[index]["name"]
        users = readers.get(name, [])
        if len(users) != 1 or name in references(output):
            return None
        index = users[0]
        step = steps[index]
        if _is_binary_linear(step, specs, calls) and specs[step["target"]].get("input", {}).get("format") == "binary":
            return tuple(gap), index
        if step["op"] != "module" or specs[step["target"]]["kind"] not in _BETWEEN:
            return None
        gap.append(index)


class PackedLayers(nn.Module):
    """A chain of binary linear layers on packed words: float input to the last layer's float output.

    Args:
        layers: the layers, with binary weights; the first takes int8 codes or signs, the others signs.
        between: for each gap, the modules that stand in it.
    """

    def __init__(self, layers: Sequence[GemmLinear], between: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        packed = []
        for number, layer in enumerate(layers):
            words = ops.pack_signs(layer.weight.detach())
            threshold = greater = None
            if number < len(between):
                threshold, descending = _threshold(layer, between[number], is_first=number == 0)
                greater = ~descending
            packed.append(ops.ChainLayer(words=words, k=layer.in_features, threshold=threshold, greater=greater))
        content = layers[0].slots.input.quantizer
        takes_codes = isinstance(content, RunningInput)
        self.chain = ops.PackedChain(
            packed,
            first="int8" if takes_codes else "binary",
            scale=float(content.scale) if isinstance(content, RunningInput) else None,
        )
        self.last = layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) float32 -> (..., out_features) float32."""
        z = self.chain.run(x.reshape(-1, x.shape[-1])).to(torch.float32)
        return self.last.from_integers(z.view(*x.shape[:-1], z.shape[-1]))


def _threshold(layer: GemmLinear, between: Sequence[nn.Module], is_first: bool) -> tuple[Tensor, Tensor]:
    def expression(z: Tensor) -> Tensor:
        y = layer.from_integers(z)
        for module in between:
            y = module(y)
        return y

    k = layer.in_features
    if is_first and isinstance(layer.slots.input.quantizer, RunningInput):
        return fold_thresholds(expression, -128 * k, 128 * k, 1, layer.out_features)
    return fold_thresholds(expression, -k, k, 2, layer.out_features)


def lower(program_input: str, steps: list[Step], output: Any, specs: Any, modules: Mapping[str, nn.Module]) -> Program:
    """The program with every chain replaced by one packed step."""
    removed: set[int] = set()
    replaced: dict[int, Step] = {}
    chosen = dict(modules)
    for chain in find_chains(steps, specs, output):
        layers = [chosen[steps[index]["target"]] for index in chain.layers]
        between = [[chosen[steps[index]["target"]] for index in gap] for gap in chain.between]
        first, last = steps[chain.layers[0]], steps[chain.layers[-1]]
        target = f"packed:{first['target']}"
        assert all(isinstance(layer, GemmLinear) for layer in layers)
        chosen[target] = PackedLayers([layer for layer in layers if isinstance(layer, GemmLinear)], between)
        removed |= set(chain.layers[:-1]).union(*chain.between)
        replaced[chain.layers[-1]] = {**first, "name": last["name"], "target": target}
    rewritten = [replaced.get(index, step) for index, step in enumerate(steps) if index not in removed]
    called = {step["target"] for step in rewritten if step["op"] == "module"}
    for name in called & modules.keys():
        if isinstance(module := modules[name], GemmLinear) and runs_on_planes(specs[name]):
            chosen[name] = BitPlaneLinear(module)
    return Program(program_input, rewritten, output, {name: chosen[name] for name in called})


def executed_layers(steps: Sequence[Step], specs: Mapping[str, Any], output: Any) -> set[str]:
    """Names of the layers that run on packed words."""
    chained = {steps[index]["target"] for chain in find_chains(steps, specs, output) for index in chain.layers}
    return chained | {name for name, spec in specs.items() if runs_on_planes(spec)}
