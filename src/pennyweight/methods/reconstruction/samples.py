"""What a unit learns from: its inputs and the float outputs, in memory, in a file, or computed again when asked.

All three kinds give the same bits; they trade memory against time.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from pennyweight.errors import MethodError

CacheKind = Literal["auto", "ram", "disk", "recompute"]
Pair = tuple[Tensor, Tensor]
PASS = 64
"""Samples a forward pass when everything is looked at once."""


@runtime_checkable
class UnitSamples(Protocol):
    """Inputs and targets of one unit."""

    @property
    def count(self) -> int:
        """Calibration samples."""

    def batch(self, indices: Tensor) -> Pair:
        """Inputs and targets of some samples; a module called several times a forward has its calls one after another.

        Args:
            indices: (n,) int64.
        """

    def __iter__(self) -> Iterator[Pair]:
        """All samples in order, some at a time."""


class StoredSamples:
    """Samples in memory or in a memory-mapped file.

    Args:
        calls: for each call of the module, its inputs and targets, samples first.
    """

    def __init__(self, calls: Sequence[Pair]) -> None:
        self._calls = list(calls)

    @property
    def count(self) -> int:
        """Calibration samples."""
        return len(self._calls[0][0])

    def batch(self, indices: Tensor) -> Pair:
        """Inputs and targets of some samples."""
        return (
            torch.cat([x[indices] for x, _ in self._calls]),
            torch.cat([y[indices] for _, y in self._calls]),
        )

    def __iter__(self) -> Iterator[Pair]:
        return _in_order(self)


class RecomputedSamples:
    """Samples computed by the models each time they are asked for.

    Args:
        count: calibration samples.
        compute: gives inputs and targets for indices.
    """

    def __init__(self, count: int, compute: Callable[[Tensor], Pair]) -> None:
        self._count = count
        self._compute = compute

    @property
    def count(self) -> int:
        """Calibration samples."""
        return self._count

    def batch(self, indices: Tensor) -> Pair:
        """Inputs and targets of some samples."""
        return self._compute(indices)

    def __iter__(self) -> Iterator[Pair]:
        return _in_order(self)


def _in_order(samples: UnitSamples) -> Iterator[Pair]:
    for start in range(0, samples.count, PASS):
        yield samples.batch(torch.arange(start, min(start + PASS, samples.count)))


class Collector:
    """Gathers what forward passes record for one unit.

    Args:
        count: samples to come.
        folder: where to keep them in a file; None for memory.
    """

    def __init__(self, count: int, folder: Path | None) -> None:
        self._count = count
        self._folder = folder
        self._calls: list[Pair] = []
        self._filled = 0

    def add(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Append one pass: a tensor a call.

        Raises:
            MethodError: a tensor's first dimension does not count samples.
        """
        if not self._calls:
            self._calls = [(self._room(x), self._room(y)) for x, y in zip(inputs, targets, strict=True)]
        size = len(inputs[0])
        for (x_all, y_all), x, y in zip(self._calls, inputs, targets, strict=True):
            for whole, part in ((x_all, x), (y_all, y)):
                if part.shape[1:] != whole.shape[1:] or len(part) != size or self._filled + size > self._count:
                    raise MethodError(
                        f"a unit handles tensors of shape {tuple(part.shape)} after {tuple(whole.shape[1:])} a sample: "
                        f"calibration samples must have one shape, samples first"
                    )
                whole[self._filled : self._filled + size] = part
        self._filled += size

    def samples(self) -> StoredSamples:
        """What was gathered."""
        assert self._filled == self._count, (self._filled, self._count)
        return StoredSamples(self._calls)

    def _room(self, example: Tensor) -> Tensor:
        shape = (self._count, *example.shape[1:])
        if self._folder is None:
            return torch.empty(shape, dtype=example.dtype)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Unlinked at once: the space is freed when the tensor is, whatever happens to this process.
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".samples") as file:
            numel = max(1, torch.Size(shape).numel())
            return torch.from_file(file.name, shared=True, size=numel, dtype=example.dtype)[
                : torch.Size(shape).numel()
            ].reshape(shape)


def available_bytes() -> int:
    """Memory that is free now, or could be freed at once."""
    try:
        with open("/proc/meminfo") as lines:
            found = next(line for line in lines if line.startswith("MemAvailable"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return 4 << 30  # nowhere to ask: assume a small machine


class SomeSamples:
    """A part of other samples.

    Args:
        samples: all of them.
        indices: those that belong to the part, (n,) int64.
    """

    def __init__(self, samples: UnitSamples, indices: Tensor) -> None:
        self._samples = samples
        self._indices = indices

    @property
    def count(self) -> int:
        """Calibration samples."""
        return len(self._indices)

    def batch(self, indices: Tensor) -> Pair:
        """Inputs and targets of some samples."""
        return self._samples.batch(self._indices[indices])

    def __iter__(self) -> Iterator[Pair]:
        return _in_order(self)
