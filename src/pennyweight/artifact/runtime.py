"""Lowering: the program rewritten so that chains of binary layers run on packed words.

Each chain becomes one step. Single linear layers of few bits run on bit planes (`planes`). Everything else stays the
torch module it was.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pennyweight.artifact.chains import Chain, find_chains
from pennyweight.artifact.packed import PackedConvolutions, PackedLayers
from pennyweight.artifact.planes import BitPlaneLinear, runs_on_planes
from pennyweight.artifact.program import Program, Step
from pennyweight.nn.gemm import GemmConv2d, GemmLinear


def lower(program_input: str, steps: list[Step], output: Any, specs: Any, modules: Mapping[str, nn.Module]) -> Program:
    """The program with every chain replaced by one packed step."""
    removed: set[int] = set()
    replaced: dict[int, Step] = {}
    chosen = dict(modules)
    for chain in find_chains(steps, specs, output):
        first, last = steps[chain.layers[0]], steps[chain.layers[-1]]
        target = f"packed:{first['target']}"
        chosen[target] = _packed(chain, steps, modules)
        removed |= set(chain.layers[:-1]).union(*chain.between)
        replaced[chain.layers[-1]] = {**first, "name": last["name"], "target": target}
    rewritten = [replaced.get(index, step) for index, step in enumerate(steps) if index not in removed]
    called = {step["target"] for step in rewritten if step["op"] == "module"}
    for name in called & modules.keys():
        if isinstance(module := modules[name], GemmLinear) and runs_on_planes(specs[name]):
            chosen[name] = BitPlaneLinear(module)
    return Program(program_input, rewritten, output, {name: chosen[name] for name in called})


def _packed(chain: Chain, steps: Sequence[Step], modules: Mapping[str, nn.Module]) -> nn.Module:
    layers = [modules[steps[index]["target"]] for index in chain.layers]
    # A flatten moves no bit: the words of an image are flat already.
    between = [
        [
            module
            for index in gap
            if steps[index]["op"] == "module" and not isinstance(module := modules[steps[index]["target"]], nn.Flatten)
        ]
        for gap in chain.between
    ]
    convolutions = [layer for layer in layers if isinstance(layer, GemmConv2d)]
    linears = [layer for layer in layers if isinstance(layer, GemmLinear)]
    assert len(convolutions) + len(linears) == len(layers)
    return PackedConvolutions(convolutions, linears, between) if convolutions else PackedLayers(linears, between)


def executed_layers(steps: Sequence[Step], specs: Mapping[str, Any], output: Any) -> set[str]:
    """Names of the layers that run on packed words."""
    chained = {steps[index]["target"] for chain in find_chains(steps, specs, output) for index in chain.layers}
    return chained | {name for name, spec in specs.items() if runs_on_planes(spec)}
