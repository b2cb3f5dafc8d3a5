"""Lowering: the program rewritten so that chains of binary layers run on packed words.

Each chain becomes one step. Single linear layers of few bits run on bit planes (`planes`). Everything else stays the
torch module it was.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pennyweight.artifact.chains import FUNCTIONS, Chain, call_settings, find_chains
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
    between = [[_module(steps[index], modules) for index in gap] for gap in chain.between]
    # A flatten moves no bit: the words of an image are flat already.
    between = [[module for module in gap if not isinstance(module, nn.Flatten)] for gap in between]
    convolutions = [layer for layer in layers if isinstance(layer, GemmConv2d)]
    linears = [layer for layer in layers if isinstance(layer, GemmLinear)]
    assert len(convolutions) + len(linears) == len(layers)
    return PackedConvolutions(convolutions, linears, between) if convolutions else PackedLayers(linears, between)


def _module(step: Step, modules: Mapping[str, nn.Module]) -> nn.Module:
    """The module a step calls, or the one that its function stands for."""
    if step["op"] == "module":
        return modules[step["target"]]
    if step["target"] not in FUNCTIONS:
        return nn.Flatten()
    kind, names = FUNCTIONS[step["target"]]
    settings = call_settings(step, names)
    assert settings is not None
    return {"hardtanh": nn.Hardtanh, "max_pool2d": nn.MaxPool2d}[kind](**settings)


def executed_layers(steps: Sequence[Step], specs: Mapping[str, Any], output: Any) -> set[str]:
    """Names of the layers that run on packed words."""
    chained = {steps[index]["target"] for chain in find_chains(steps, specs, output) for index in chain.layers}
    return chained | {name for name, spec in specs.items() if runs_on_planes(spec)}
