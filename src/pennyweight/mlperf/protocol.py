"""What the referee asks of a player: `Backend`; and what it plays with: `SampleLibrary`."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import BenchmarkError

Array = NDArray[Any]


@runtime_checkable
class Backend(Protocol):
    """A system that turns samples into answers.

    Attributes:
        name: in reports.
        numerics: formats, and what is executed and what simulated.
        threads: it computes with.
    """

    name: str
    numerics: str
    threads: int

    def prepare(self, inputs: Array, max_batch: int) -> None:
        """Warm up on a few samples, (n, ...), at batch 1 and `max_batch`; untimed."""
        ...

    def infer(self, batch: Array) -> Array:
        """Answers for a batch, (n, ...) -> (n, ...): class indices as int32 for classifiers. Timed."""
        ...

    def close(self) -> None:
        """Give back what `prepare` took."""
        ...


class NullBackend:
    """Answers 0 to everything at once: what is left to measure is LoadGen and our adapter."""

    name = "null"
    numerics = "none"
    threads = 1

    def __init__(self) -> None:
        self._answers = np.zeros(0, dtype=np.int32)

    def prepare(self, inputs: Array, max_batch: int) -> None:
        """Make the answers."""
        self._answers = np.zeros(max(1, max_batch), dtype=np.int32)

    def infer(self, batch: Array) -> Array:
        """As many zeros as there are samples."""
        return self._answers[: len(batch)]

    def close(self) -> None:
        """Nothing to give back."""


@dataclass(frozen=True, eq=False)
class SampleLibrary:
    """Preprocessed samples in host memory, and their labels.

    LoadGen's performance set is always the first samples of a library; a data set sorted by class would be measured on
    a biased prefix. So LoadGen's index i is our sample `order[i]`, a permutation by seed that reports record.

    Args:
        inputs: (n, ...) as the backend takes them; preprocessing is untimed.
        labels: (n,) class indices.
        seed: of the permutation.
    """

    inputs: Array
    labels: Array
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that there are samples and a label for each."""
        if len(self.inputs) == 0 or len(self.inputs) != len(self.labels):
            raise BenchmarkError(
                f"the sample library holds {len(self.inputs)} inputs and {len(self.labels)} labels: it needs one "
                f"label for each of at least one input"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def order(self) -> Array:
        """Our sample for each of LoadGen's indices."""
        return np.random.Generator(np.random.Philox(key=self.seed)).permutation(len(self.inputs))
