"""What a run remembers of its steps: history, metrics file and progress bar, and the guard against a loss gone bad."""

import math
import time
from types import TracebackType

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.training.log import MetricsLog
from pennyweight.training.progress import Progress
from pennyweight.training.regime import Settings


class Journal:
    """Collects steps as they come and settles them together, so that a GPU is not waited for at every step.

    Args:
        history: losses of the steps before this session.
        images: images seen before this session.
        seconds: time spent before this session.
        log: where the records go; None keeps none.
        progress: what shows them.
    """

    def __init__(
        self,
        *,
        history: tuple[float, ...],
        images: int,
        seconds: float,
        log: MetricsLog | None,
        progress: Progress,
    ) -> None:
        self.history = list(history)
        self.images_seen = images
        self._images_before = images
        self._seconds_before = seconds
        self._started = time.perf_counter()
        self._pending: list[tuple[int, Settings, Tensor]] = []
        self._log = log
        self._progress = progress

    def __enter__(self) -> "Journal":
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, traceback)
        if self._log is not None:
            self._log.close()

    @property
    def seconds(self) -> float:
        """Wall-clock time of all sessions so far."""
        return self._seconds_before + time.perf_counter() - self._started

    def note(self, step: int, settings: Settings, loss: Tensor) -> None:
        """Remember a step; its loss may still be on its way from the device."""
        self._pending.append((step, settings, loss))

    def settle(self) -> None:
        """Fetch the losses noted since the last time, check, log and show them.

        Raises:
            NumericsError: a loss is not finite; the message names the first such step.
        """
        if not self._pending:
            return
        losses = torch.stack([loss for _, _, loss in self._pending]).tolist()
        for (step, settings, _), loss in zip(self._pending, losses, strict=True):
            if not math.isfinite(loss):
                raise NumericsError(
                    f"the loss is {loss} at step {step} (learning rate {settings.lr:g}): lower the learning rate, add "
                    f"warmup_steps or clip_norm, or look for NaN in data and weights; the last checkpoint is kept"
                )
            self._settle_one(step, settings, loss)
        self._pending.clear()

    def _settle_one(self, step: int, settings: Settings, loss: float) -> None:
        self.history.append(loss)
        self.images_seen += settings.batch_size * settings.duplicates
        session = time.perf_counter() - self._started
        if self._log is not None:
            self._log.write(
                {
                    "step": step,
                    "loss": loss,
                    "lr": settings.lr,
                    "batch_size": settings.batch_size,
                    "images_seen": self.images_seen,
                    "seconds": round(self._seconds_before + session, 3),
                }
            )
        rate = (self.images_seen - self._images_before) / max(session, 1e-9)
        self._progress.update(step + 1, loss, settings.lr, rate)
