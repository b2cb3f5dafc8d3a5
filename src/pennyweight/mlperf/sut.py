"""The system under test: the few lines between LoadGen and a backend. Every microsecond here is in the results.

LoadGen hands over sample ids and indices and takes answers as addresses. A backend's exception must not travel
through LoadGen, whose threads it would leave behind: it is kept, all further queries get empty answers, and the runner
raises it after the test.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pennyweight.errors import BenchmarkError
from pennyweight.mlperf.protocol import Array, Backend, SampleLibrary
from pennyweight.mlperf.settings import loadgen


class StagedSamples:
    """LoadGen's query sample library over ours: loaded samples lie side by side in one array.

    In accuracy mode LoadGen loads several sets in turn, so nothing may assume that all samples are there.
    """

    def __init__(self, library: SampleLibrary) -> None:
        self._library = library
        self._order = library.order
        self.rows = np.full(len(library), -1, dtype=np.int64)
        self.staged: Array = library.inputs[:0]

    def load(self, indices: list[int]) -> None:
        """Stage the samples of LoadGen's indices."""
        self.staged = np.ascontiguousarray(self._library.inputs[self._order[indices]])
        self.rows[indices] = np.arange(len(indices))

    def unload(self, indices: list[int]) -> None:
        """Forget them."""
        self.rows[indices] = -1
        self.staged = self._library.inputs[:0]


class SystemUnderTest:
    """What both scenarios share: guarded calls, empty answers after a failure, timings.

    Args:
        batch: most samples a backend call; answers and response objects are made once.
    """

    def __init__(self, backend: Backend, samples: StagedSamples, batch: int) -> None:
        lg = loadgen()
        self._infer = backend.infer
        self._samples = samples
        self._batch = batch
        self._complete: Callable[[list[Any]], None] = lg.QuerySamplesComplete
        self._empty = lg.QuerySampleResponse
        self._responses: list[Any] = [lg.QuerySampleResponse(0, 0, 0) for _ in range(batch)]
        self.failure: BaseException | None = None
        self.call_ns: list[int] = []

    def issue(self, ids: list[int], indices: list[int]) -> None:
        """Answer one query; never raises."""
        done = 0
        try:
            if self.failure is None:
                while done < len(ids):
                    done += self._answer(ids[done : done + self._batch], indices[done : done + self._batch])
                return
        except BaseException as error:
            self.failure = error
        self._complete([self._empty(sample, 0, 0) for sample in ids[done:]])

    def _answer(self, ids: list[int], indices: list[int]) -> int:
        count = len(ids)
        rows = self._samples.rows
        row = rows[indices[0]]
        batch = self._samples.staged[row : row + 1] if count == 1 else self._samples.staged[rows[indices]]
        started = time.perf_counter_ns()
        answers = self._infer(batch)
        self.call_ns.append(time.perf_counter_ns() - started)
        if len(answers) != count or not answers.flags.c_contiguous:
            raise BenchmarkError(
                f"the backend gave {answers.shape} for {count} samples: it must answer each one in turn"
            )
        address, size = answers.__array_interface__["data"][0], answers.itemsize
        responses = self._responses if count == self._batch else self._responses[:count]
        for position, sample in enumerate(ids):
            response = responses[position]
            response.id, response.data, response.size = sample, address + position * size, size
        self._complete(responses)  # `answers` lives until here, which is as long as LoadGen reads it
        return count

    def flush(self) -> None:
        """Nothing is held back."""
