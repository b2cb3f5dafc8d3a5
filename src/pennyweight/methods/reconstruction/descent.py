"""Gradient descent on a unit's output error: mini-batches by key, the best state kept, the start among the candidates.

What is learned, and how states are frozen, is said by the solver.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pennyweight.errors import NumericsError
from pennyweight.methods.reconstruction.samples import UnitSamples
from pennyweight.methods.reconstruction.solver import Errors, FitRecord, output_errors
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.methods.reconstruction.window import window_loss
from pennyweight.nn.modes import only_learning
from pennyweight.numerics.random import Key, permutation

_STRIKES = 3


@dataclass(frozen=True)
class Learned:
    """Parameters learned at one rate.

    Args:
        parameters: of the unit's layers or slot contents.
        lr: Adam's rate.
    """

    parameters: Sequence[nn.Parameter]
    lr: float


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Settings of the descent.

    Args:
        steps: of Adam.
        batch_size: samples a step; all of them where there are fewer.
        cosine: let the rates fall to 0 along a cosine; else they stay.
        eps: Adam's; by default too small to be felt, so that steps do not depend on the size of gradients.
        evaluate_every: steps between looks at the error over all samples.
        keep_best: end with the best state seen, the start included; else with the last.
        positions: share of the output positions that a step looks at, see `window_loss`.
    """

    steps: int
    batch_size: int
    cosine: bool = True
    eps: float = 1e-16
    evaluate_every: int = 100
    keep_best: bool = True
    positions: float = 1.0

    def run(
        self,
        unit: Unit,
        samples: UnitSamples,
        heldout: UnitSamples | None,
        learned: Sequence[Learned],
        key: Key,
        *,
        penalty: Callable[[int], Tensor] | None = None,
        before_step: Callable[[int], None] | None = None,
        measured: Callable[[], "Errors"] | None = None,
        measured_heldout: Callable[[], "Errors"] | None = None,
    ) -> FitRecord:
        """Descend.

        Args:
            penalty: added to the mean squared error, a function of the step.
            before_step: called with the number of each step.
            measured: error over all samples as the frozen unit would have it; by default the unit as it stands.
            measured_heldout: the same over the samples held out.

        Raises:
            NumericsError: the loss was not finite three times.
        """
        look = measured or (lambda: output_errors(unit, samples))
        look_heldout = measured_heldout or (lambda: output_errors(unit, heldout)) if heldout is not None else None
        parameters = [parameter for group in learned for parameter in group.parameters]
        start, start_heldout = look(), look_heldout() if look_heldout else None
        best, best_heldout, best_state, best_step = start, start_heldout, _copy(parameters), 0
        if parameters and self.steps:
            batches = _Batches(samples.count, self.batch_size, key)
            groups = [{"params": list(group.parameters), "lr": group.lr} for group in learned]
            optimizer = torch.optim.Adam(groups, eps=self.eps)
            halvings = 0
            for step in range(self.steps):
                if before_step is not None:
                    before_step(step)
                factor = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.cosine else 1.0
                for group, settings in zip(optimizer.param_groups, learned, strict=True):
                    group["lr"] = settings.lr * factor * 0.5**halvings
                x, y = samples.batch(batches.next())
                loss_of = partial(self._loss, unit, x, y, key, penalty, step)
                if not _step(loss_of, optimizer, parameters):
                    halvings += 1
                    if halvings == _STRIKES:
                        _restore(parameters, best_state)
                        raise NumericsError(
                            f"the loss of unit {unit.name!r} or its gradient was not finite {_STRIKES} times, last at "
                            f"step {step}: lower the learning rates"
                        )
                    _restore(parameters, best_state)
                if (step + 1) % self.evaluate_every == 0 or step + 1 == self.steps:
                    now, now_heldout = look(), look_heldout() if look_heldout else None
                    better = (now_heldout or now).mse < (best_heldout or best).mse
                    if better or (not self.keep_best and step + 1 == self.steps):
                        best, best_heldout, best_state, best_step = now, now_heldout, _copy(parameters), step + 1
            _restore(parameters, best_state)
        return FitRecord(
            mse_before=start.mse,
            mse_after=best.mse,
            sqnr_before_db=start.sqnr_db,
            sqnr_after_db=best.sqnr_db,
            heldout_before=None if start_heldout is None else start_heldout.mse,
            heldout_after=None if best_heldout is None else best_heldout.mse,
            steps=self.steps,
            kept_start=best_step == 0,
        )

    def _loss(
        self, unit: Unit, x: Tensor, y: Tensor, key: Key, penalty: Callable[[int], Tensor] | None, step: int
    ) -> Tensor:
        loss = window_loss(unit, x, y, self.positions, key.fold("window", step))
        return loss if penalty is None else loss + penalty(step)


class _Batches:
    """Indices of mini-batches: a permutation after the other, cut into batches, drawn by key."""

    def __init__(self, count: int, size: int, key: Key) -> None:
        self._count, self._size, self._key = count, min(size, count), key
        self._round = 0
        self._left = torch.empty(0, dtype=torch.int64)

    def next(self) -> Tensor:
        if self._size == self._count:
            return torch.arange(self._count)
        if len(self._left) < self._size:
            # The rest of a permutation is dropped, so that no sample comes twice in a batch.
            self._left = permutation(self._count, self._key.fold("batches", self._round))
            self._round += 1
        taken, self._left = self._left[: self._size], self._left[self._size :]
        return taken


def _step(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> bool:
    """One step; False, and nothing changed, where the loss or a gradient is not finite."""
    with torch.enable_grad(), only_learning(parameters):
        loss = loss_of()
        # Only what is learned gets gradients; the rest of the unit stays untouched.
        gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    if not bool(torch.isfinite(loss)) or not all(g is None or bool(torch.isfinite(g).all()) for g in gradients):
        return False
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None
    return True


def _copy(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def _restore(parameters: Sequence[nn.Parameter], state: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, state, strict=True):
        parameter.copy_(value)
