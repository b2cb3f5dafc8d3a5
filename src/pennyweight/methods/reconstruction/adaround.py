"""The solver of learned rounding: each weight goes to one of its two neighbouring codes, by a rectified sigmoid."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pennyweight.methods.reconstruction.descent import Descent, Learned
from pennyweight.methods.reconstruction.samples import UnitSamples
from pennyweight.methods.reconstruction.solver import Errors, FitRecord, output_errors
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.nn.slots.learned import LearnedInput
from pennyweight.nn.slots.learned_rounding import RoundingWeight
from pennyweight.numerics.random import Key

Chosen = Literal["rounding", "bias", "input_scale"]
CHOSEN: tuple[Chosen, ...] = ("rounding", "bias", "input_scale")
TRAVEL = 60.0
"""How far V may go in all, steps times rate; the reference's 20 000 steps at 1e-3 make 20."""


@dataclass(frozen=True, kw_only=True)
class RoundingSchedule:
    """How strongly weights are pressed to decide, by the step.

    Args:
        steps: of the descent.
        weight: of the penalty; see `AdaRoundSolver`.
        warmup: share of the steps without a penalty.
        betas: exponent at its start and at its end: a large one presses only those that have nearly decided.
    """

    steps: int
    weight: float
    warmup: float = 0.2
    betas: tuple[float, float] = (20.0, 2.0)

    def beta(self, step: int) -> float | None:
        """The exponent; None while there is no penalty. It falls along half a cosine."""
        begin = self.warmup * self.steps
        if step < begin or self.weight == 0:
            return None
        done = (step - begin) / (self.steps - begin)
        start, end = self.betas
        return end + 0.5 * (start - end) * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class AdaRoundSolver:
    """Minimise the error of a unit's output over which way each weight is rounded.

    Args:
        tune: what is learned beside the rounding, if anything: "bias", "input_scale".
        steps: of Adam, a unit.
        batch_size: samples a step.
        rate: of V at the start; None for 60 / steps.
        regularization: weight of the penalty.
        keep_best: end with the best hard-rounded state seen, the start included.
        positions: share of output positions a step looks at.

    Source: arXiv 2004.10568, section 3; the penalty's weight, rate and exponents from the code of arXiv 2102.05426.
    Deviations: the penalty is regularization * variance of the targets / output channels * the sum over the unit's
        weights of 1 - |2 h(V) - 1|^beta, beside the squared error averaged over all entries. The reference sums the
        error over channels and knows no variance: for targets of variance 1 the two agree up to a common factor, and
        Adam does not feel that.
    """

    tune: tuple[Chosen, ...] = CHOSEN
    steps: int = 1000
    batch_size: int = 50
    rate: float | None = None
    regularization: float = 0.1
    keep_best: bool = True
    positions: float = 0.25

    def fit(self, unit: Unit, samples: UnitSamples, heldout: UnitSamples | None, key: Key) -> FitRecord:
        """Learn softly, judge hard, keep the best, freeze."""
        weights = {name: _rounding(layer, hard=self._decided) for name, layer in unit.layers.items()}
        inputs = {
            name: input for name, layer in unit.layers.items() if (input := self._learned_input(layer)) is not None
        }
        power = _power(samples)
        learned = [group for group in self._groups(unit, weights, inputs, math.sqrt(power)) if group.parameters]
        schedule = RoundingSchedule(steps=self.steps, weight=0.0 if self._decided else self.regularization)
        channels = list(unit.layers.values())[-1].weight.shape[0]

        def penalty(step: int) -> Tensor:
            beta = schedule.beta(step)
            if beta is None:
                return torch.zeros(())
            undecided = torch.stack([weight.undecided(beta) for weight in weights.values()]).sum()
            return self.regularization * power / channels * undecided

        def measured(samples: UnitSamples) -> Errors:
            with self._as_frozen(weights, inputs):
                return output_errors(unit, samples)

        descent = Descent(
            steps=self.steps,
            batch_size=self.batch_size,
            cosine=True,
            keep_best=self.keep_best,
            positions=self.positions,
        )
        try:
            return descent.run(
                unit,
                samples,
                heldout,
                learned,
                key,
                penalty=penalty,
                before_step=lambda step: self._before_step(inputs, key, step),
                measured=lambda: measured(samples),
                measured_heldout=None if heldout is None else lambda: measured(heldout),
            )
        finally:
            for name, layer in unit.layers.items():
                _freeze_(layer, weights[name], inputs.get(name))

    @property
    def _decided(self) -> bool:
        """Choices that are not learned are made from the start, so that nothing is fitted to float weights."""
        return "rounding" not in self.tune

    def _groups(
        self, unit: Unit, weights: Mapping[str, RoundingWeight], inputs: Mapping[str, LearnedInput], spread: float
    ) -> Iterator[Learned]:
        rate = TRAVEL / max(self.steps, 1) if self.rate is None else self.rate
        for name, layer in unit.layers.items():
            if "rounding" in self.tune:
                yield Learned([weights[name].choice], rate)
            if "bias" in self.tune and layer.bias is not None:
                yield Learned([layer.bias], 1e-3 * spread)
            if "input_scale" in self.tune and name in inputs:
                yield Learned([inputs[name].offset, inputs[name].zero_offset], 1e-3)

    def _learned_input(self, layer: GemmModule) -> LearnedInput | None:
        """Put a learned input in the place of the frozen one."""
        found = layer.slots.input.quantizer
        if found is None:
            return None
        assert isinstance(found, IntegerInput)
        input = self._input(found)
        layer.slots.input["quantize"] = input
        return input

    def _input(self, frozen: IntegerInput) -> LearnedInput:
        return LearnedInput(frozen.affine)

    def _before_step(self, inputs: Mapping[str, LearnedInput], key: Key, step: int) -> None:
        """What changes from step to step; nothing here."""

    @contextmanager
    def _as_frozen(self, weights: Mapping[str, RoundingWeight], inputs: Mapping[str, LearnedInput]) -> Iterator[None]:
        """The unit as it will be when it is frozen."""
        for weight in weights.values():
            weight.hard = True
        try:
            yield
        finally:
            for weight in weights.values():
                weight.hard = self._decided


def _rounding(layer: GemmModule, *, hard: bool) -> RoundingWeight:
    """Put a rounding weight in the place of the frozen one."""
    frozen = layer.slots.weight.quantizer
    assert isinstance(frozen, IntegerWeight)
    weight = RoundingWeight(frozen.affine, layer.weight)
    weight.hard = hard
    layer.slots.weight["quantize"] = weight
    return weight


@torch.no_grad()
def _freeze_(layer: GemmModule, weight: RoundingWeight, input: LearnedInput | None) -> None:
    """Put frozen contents back, and the weight on its grid."""
    layer.weight.copy_(weight.on_grid())
    layer.slots.weight["quantize"] = weight.frozen()
    if input is not None:
        layer.slots.input["quantize"] = input.frozen()


def _power(samples: UnitSamples) -> float:
    """Mean square of the first targets about their mean."""
    _, y = next(iter(samples))
    return float(y.detach().var(correction=0))
