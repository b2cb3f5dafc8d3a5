"""What every backend holds its model's answers against before anything is timed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import BenchmarkError


def require_logits(name: str, logits: NDArray[Any], samples: int) -> int:
    """The number of classes a backend answers.

    Args:
        name: of the backend.
        logits: its outputs in the warm-up.
        samples: it was given.

    Raises:
        BenchmarkError: the outputs are no (samples, classes), or not finite.
    """
    if logits.ndim != 2 or len(logits) != samples:
        raise BenchmarkError(f"backend {name!r} answers shape {logits.shape} for {samples} samples, not (n, classes)")
    if not np.isfinite(logits).all():
        broken = int((~np.isfinite(logits)).any(1).sum())
        raise BenchmarkError(
            f"backend {name!r} answers NaN or infinity for {broken} of {samples} samples: an arg max means nothing"
        )
    return int(logits.shape[1])
