"""How stages measure accuracy, and what they keep of it so that arms can be compared sample by sample."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pennyweight.recipes.work import Record, Work
from pennyweight.training import evaluate

CORRECT = "correct.npy"


def measure_accuracy(
    model: nn.Module | Callable[[Tensor], Tensor], work: Work, *, objective: str = "cross_entropy"
) -> Record:
    """Classify the test split; which samples were right goes into the stage's folder."""
    data = work.data.test
    found = evaluate(model, data, objective=objective)
    keep_correct((found.predictions == data.labels.cpu()).numpy(), work)
    interval = found.interval
    return {
        "value": found.accuracy,
        "low": interval.low,
        "high": interval.high,
        "n": found.n,
        "loss": found.loss,
    }


def keep_correct(correct: NDArray[np.bool_], work: Work) -> None:
    """Store which test samples were right, (n,) in the data's order."""
    np.save(work.folder / CORRECT, correct, allow_pickle=False)


def read_correct(folder: Path) -> NDArray[np.bool_] | None:
    """Which test samples were right, as a stage stored it; None where it stored nothing readable."""
    try:
        found = np.load(folder / CORRECT, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.dtype == np.bool_ and found.ndim == 1 else None
