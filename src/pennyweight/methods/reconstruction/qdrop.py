"""The solver of QDrop: learned rounding while a random part of the activations is left in float."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pennyweight.methods.reconstruction.adaround import AdaRoundSolver
from pennyweight.nn.slots.integer import IntegerInput
from pennyweight.nn.slots.learned import LearnedInput
from pennyweight.nn.slots.learned_rounding import DroppedInput, RoundingWeight
from pennyweight.numerics.random import Key


@dataclass(frozen=True, kw_only=True)
class QDropSolver(AdaRoundSolver):
    """Learned rounding under randomly dropped activation quantization, which makes for a flatter minimum.

    Errors are measured, and states chosen, with all activations quantized.

    Args:
        drop: probability that an activation stays in float in a step, entry by entry.

    Source: arXiv 2203.05740, section 3.3.
    """

    drop: float = 0.5

    def _input(self, frozen: IntegerInput) -> LearnedInput:
        return DroppedInput(frozen.affine, self.drop)

    def _before_step(self, inputs: Mapping[str, LearnedInput], key: Key, step: int) -> None:
        for name, input in inputs.items():
            assert isinstance(input, DroppedInput)
            input.key = key.fold("drop", name, step)

    @contextmanager
    def _as_frozen(self, weights: Mapping[str, RoundingWeight], inputs: Mapping[str, LearnedInput]) -> Iterator[None]:
        for input in inputs.values():
            assert isinstance(input, DroppedInput)
            input.key = None
        with super()._as_frozen(weights, inputs):
            yield
