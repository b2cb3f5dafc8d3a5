"""What stays the same during a run, how it is stored and how it is found again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pennyweight.data.dataset import ImageDataset
from pennyweight.data.transforms import Augment
from pennyweight.errors import CheckpointError, NumericsError
from pennyweight.methods.base import applications
from pennyweight.training.batches import BatchSource
from pennyweight.training.checkpoint import RunState, load_checkpoint, save_checkpoint
from pennyweight.training.distributed import Ranks
from pennyweight.training.journal import Journal
from pennyweight.training.objective import Objective
from pennyweight.training.regime import Regime


@dataclass(frozen=True, kw_only=True)
class Run:
    """What stays the same during a run; the model and the optimiser change in place.

    Args:
        path: of the checkpoint; None keeps none.
        every: steps between checkpoints.
        identity: what a checkpoint must agree on; see `run_identity`.
    """

    regime: Regime
    seed: int
    ranks: Ranks
    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    precision: torch.dtype
    path: Path | None
    every: int
    identity: dict[str, Any]

    def resume(self) -> RunState:
        """Where to start: at the checkpoint if there is one, else at step 0.

        Raises:
            CheckpointError: it is damaged, belongs to another run, or is not seen by all ranks.
        """
        state = RunState(step=0, history=(), seconds=0.0, scaler={})
        if self.path is not None and self.path.exists():
            state = load_checkpoint(self.path, model=self.model, optimizer=self.optimizer, identity=self.identity)
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(state.scaler)
        if not self.ranks.equal(state.step):
            raise CheckpointError(f"not all ranks see the same checkpoint {self.path}: put it on a shared disk")
        return state

    def save(self, journal: Journal) -> None:
        """Store the run as it is after a step; rank 0 writes, all ranks learn whether it could.

        Raises:
            NumericsError: a weight is not finite; nothing is written.
            CheckpointError: it cannot be written.
        """
        self.ranks.reconcile_buffers_(self.model)
        for name, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise NumericsError(
                    f"weight {name!r} is not finite after step {len(journal.history) - 1}: lower the learning rate or "
                    f"set clip_norm; the checkpoint of before is kept"
                )
        if self.path is None:
            return
        refusal: CheckpointError | None = None
        if self.ranks.rank == 0:
            state = RunState(
                step=len(journal.history),
                history=tuple(journal.history),
                seconds=journal.seconds,
                scaler=self.scaler.state_dict(),
            )
            try:
                save_checkpoint(
                    self.path,
                    model=self.model,
                    optimizer=self.optimizer,
                    identity=self.identity,
                    state=state,
                )
            except CheckpointError as error:
                refusal = error
        if self.ranks.any(refusal is not None):
            raise refusal or CheckpointError(f"rank 0 could not write checkpoint {self.path}; see its message")


def run_identity(
    model: nn.Module,
    data: ImageDataset | BatchSource,
    regime: Regime,
    seed: int,
    objective: str | Objective,
    augment: Augment | None,
    precision: str,
) -> dict[str, Any]:
    """What a checkpoint must agree on to be this run's: plain values, so that a difference can be shown."""
    return {
        "regime": {"kind": type(regime).__name__, **regime.to_dict()},
        "seed": seed,
        "objective": objective
        if isinstance(objective, str)
        else getattr(objective, "__qualname__", type(objective).__qualname__),
        "augment": None if augment is None else repr(augment),
        "precision": precision,
        "data": [data.name, data.split, len(data)] if isinstance(data, ImageDataset) else "function",
        "model": repr(model).splitlines(),
        "methods": [record.method.to_dict() for record in applications(model)],
    }
