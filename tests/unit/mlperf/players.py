"""Backends that behave in one particular way, and a library whose right answers are known."""

import time
from typing import Any

import numpy as np

from pennyweight.mlperf import SampleLibrary


def library(count: int = 1000, seed: int = 0) -> SampleLibrary:
    """Sample i holds the number i; its label is i % 7, so that sorted prefixes would be noticed."""
    return SampleLibrary(np.arange(count, dtype=np.float32)[:, None], np.arange(count) % 7, seed=seed)


class Honest:
    """Answers i % 7, and remembers what it was asked."""

    name = "honest"
    numerics = "exact"
    threads = 1

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.open = False

    def prepare(self, inputs: Any, max_batch: int) -> None:
        self.open = True
        self.batches.clear()

    def infer(self, batch: Any) -> Any:
        self.batches.append(batch[:, 0].copy())
        return (batch[:, 0] % 7).astype(np.int32)

    def close(self) -> None:
        self.open = False


class Sleeper(Honest):
    """Takes the same time for every call."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def infer(self, batch: Any) -> Any:
        time.sleep(self.seconds)
        return super().infer(batch)


class Failing(Honest):
    """Raises at the n-th call after preparation."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def infer(self, batch: Any) -> Any:
        if len(self.batches) >= self.at:
            raise self.error
        return super().infer(batch)


class Short(Honest):
    """Forgets the last answer of each batch."""

    def infer(self, batch: Any) -> Any:
        return super().infer(batch)[:-1]
