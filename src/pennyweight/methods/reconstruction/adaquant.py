"""The solver of AdaQuant: weights, biases, scales and zero points learned together by Adam."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pennyweight.methods.reconstruction.descent import Descent, Learned
from pennyweight.methods.reconstruction.samples import UnitSamples
from pennyweight.methods.reconstruction.solver import FitRecord
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.nn.slots.learned import LearnedInput, LearnedWeight
from pennyweight.numerics.random import Key

Tuned = Literal["weight", "bias", "weight_scale", "input_scale"]
Rates = Literal["relative", "reference"]
TUNED: tuple[Tuned, ...] = ("weight", "bias", "weight_scale", "input_scale")


@dataclass(frozen=True, kw_only=True)
class AdaQuantSolver:
    """Minimise the error of a unit's output over everything that decides its codes.

    Args:
        tune: what is learned. ("weight_scale", "input_scale") alone is range learning.
        rates: "relative" steps in proportion to the values' own sizes and lets the rates fall along a cosine;
            "reference" takes the constants of the paper's code, which fit tensors of about unit size.
        steps: of Adam, a unit.
        batch_size: samples a step.
        keep_best: end with the best state seen, the start included.
        weight_rate: relative rate of weights, of their standard deviation.
        positions: share of output positions a step looks at.

    Source: arXiv 2006.10518, equation 2, and its code for the reference rates.
    Deviations: one Adam with four rates instead of four Adams, which is the same; the codes of weights are symmetric;
        biases stay in float; with relative rates a cosine schedule, without which large steps end above the start.
    """

    tune: tuple[Tuned, ...] = TUNED
    rates: Rates = "relative"
    steps: int = 1000
    batch_size: int = 50
    keep_best: bool = True
    weight_rate: float = 3e-3
    positions: float = 0.25

    def fit(self, unit: Unit, samples: UnitSamples, heldout: UnitSamples | None, key: Key) -> FitRecord:
        """Learn, keep the best, freeze."""
        contents = {name: _learned_contents(layer, self.rates) for name, layer in unit.layers.items()}
        spread = _output_spread(samples)
        learned = [
            group
            for name, layer in unit.layers.items()
            for group in self._groups(layer, contents[name], spread)
            if group.parameters
        ]
        descent = Descent(
            steps=self.steps,
            batch_size=self.batch_size,
            cosine=self.rates == "relative",
            eps=1e-8 if self.rates == "reference" else 1e-16,
            keep_best=self.keep_best,
            positions=self.positions,
        )
        try:
            return descent.run(unit, samples, heldout, learned, key)
        finally:
            for name, layer in unit.layers.items():
                freeze_(layer, *contents[name])

    def _groups(
        self, layer: GemmModule, contents: tuple[LearnedWeight, LearnedInput | None], spread: float
    ) -> list[Learned]:
        weight, input = contents
        reference = self.rates == "reference"
        tuned: list[tuple[Tuned, list[nn.Parameter], float]] = [
            ("weight", [layer.weight], 1e-5 if reference else self.weight_rate * _std(layer.weight)),
            ("bias", [] if layer.bias is None else [layer.bias], 1e-3 if reference else 1e-3 * spread),
            ("weight_scale", [weight.offset], 1e-3),
        ]
        if input is not None:
            # The reference learns the range at an absolute 0.1; the contents' units are ranges, so rates are pure.
            tuned.append(("input_scale", [input.offset, input.zero_offset], 1e-1 if reference else 1e-3))
        return [Learned(parameters, lr) for name, parameters, lr in tuned if name in self.tune]


def _learned_contents(layer: GemmModule, rates: Rates) -> tuple[LearnedWeight, LearnedInput | None]:
    """Put learned contents in the place of the frozen ones."""
    weight = layer.slots.weight.quantizer
    assert isinstance(weight, IntegerWeight)
    reference = rates == "reference"
    steps = weight.format.num_levels - 1
    learned = LearnedWeight(weight.affine, torch.full_like(weight.scale, 1 / steps) if reference else None)
    layer.slots.weight["quantize"] = learned
    found = layer.slots.input.quantizer
    if found is None:
        return learned, None
    assert isinstance(found, IntegerInput)
    steps = found.format.num_levels - 1
    units = (torch.full_like(found.scale, 1 / steps), 1 / found.scale) if reference else (None, None)
    input = LearnedInput(found.affine, *units)
    layer.slots.input["quantize"] = input
    return learned, input


@torch.no_grad()
def freeze_(layer: GemmModule, weight: LearnedWeight, input: LearnedInput | None) -> None:
    """Put frozen contents back, and the weight on its grid."""
    layer.weight.copy_(weight.on_grid(layer.weight))
    layer.slots.weight["quantize"] = weight.frozen()
    if input is not None:
        layer.slots.input["quantize"] = input.frozen()


def _std(x: Tensor) -> float:
    return float(x.detach().std(correction=0))


def _output_spread(samples: UnitSamples) -> float:
    """Standard deviation of the first targets, which biases are measured by."""
    _, y = next(iter(samples))
    return _std(y)
