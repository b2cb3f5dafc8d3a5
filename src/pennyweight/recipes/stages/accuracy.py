"""How stages measure accuracy, and what they keep of it so that arms can be compared sample by sample."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pennyweight.numerics.measure import interval_proportion
from pennyweight.recipes.work import Record, Work
from pennyweight.training import evaluate
from pennyweight.training.perplexity import perplexity

CORRECT = "correct.npy"


def measure_accuracy(
    model: nn.Module | Callable[[Tensor], Tensor], work: Work, *, objective: str = "cross_entropy"
) -> Record:
    """Classify the test split; which samples were right goes into the stage's folder.

    Of a text every token is a sample, read in windows that overlap by half; its perplexity is there too.
    """
    if work.data.is_text:
        return _measure_text(model, work)
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


def _measure_text(model: nn.Module | Callable[[Tensor], Tensor], work: Work) -> Record:
    context = work.data.context
    found = perplexity(model, work.data.test_text, context, max(1, context // 2))
    keep_correct(found.correct.numpy(), work)
    share = interval_proportion(int(found.correct.sum()), found.n)
    return {
        "value": share.value,
        "low": share.low,
        "high": share.high,
        "n": found.n,
        "loss": found.loss,
        "perplexity": min(found.value, sys.float_info.max),  # JSON knows no infinity
        "perplexity_low": min(found.interval.low, sys.float_info.max),
        "perplexity_high": min(found.interval.high, sys.float_info.max),
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
