"""The protocol of all solvers, and what each says of a unit it has fitted."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from pennyweight.errors import NumericsError
from pennyweight.methods.reconstruction.samples import UnitSamples
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.numerics.random import Key


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """What fitting a unit came to.

    Args:
        mse_before: mean squared error of the unit's output on its samples at the start, round to nearest.
        mse_after: the same at the end.
        sqnr_before_db: signal to noise at the start; `sqnr_after_db` likewise.
        heldout_before: mean squared error on samples the solver did not fit; None where none were held out.
        heldout_after: the same at the end.
        steps: of optimisation.
        kept_start: nothing better than the start was found.
    """

    mse_before: float
    mse_after: float
    sqnr_before_db: float
    sqnr_after_db: float
    heldout_before: float | None = None
    heldout_after: float | None = None
    steps: int = 0
    kept_start: bool = False


@runtime_checkable
class Solver(Protocol):
    """Fits one unit.

    On entry the unit's layers hold `IntegerWeight` and perhaps `IntegerInput` contents, rounded to nearest. On exit
    they do again, and the weights lie on the grid, so that rounding them changes nothing.
    """

    def fit(self, unit: Unit, samples: UnitSamples, heldout: UnitSamples | None, key: Key) -> FitRecord:
        """Change weights, biases, scales and zero points of the unit's layers.

        Args:
            samples: to fit.
            heldout: to choose the best state by, where there are any.
            key: of all random choices.
        """


@dataclass(frozen=True)
class Errors:
    """Mean squared error and signal to noise of a unit's output."""

    mse: float
    sqnr_db: float


@torch.no_grad()
def output_errors(unit: Unit, samples: UnitSamples) -> Errors:
    """How far the unit, as it is now, is from its targets over all samples."""
    error = signal = 0.0
    count = 0
    for x, y in samples:
        error += float(unit.loss_terms(unit.module(x), y).double().sum())
        signal += float((y.relu() if unit.rectified else y).double().square().sum())
        count += y.numel()
    if count == 0:
        return Errors(0.0, math.inf)
    if math.isinf(error) or math.isinf(signal):
        raise NumericsError(
            f"the squared outputs of unit {unit.name!r} leave float32: are the data normalized as in training?"
        )
    return Errors(error / count, math.inf if error == 0 else 10 * math.log10(max(signal, 1e-300) / error))
