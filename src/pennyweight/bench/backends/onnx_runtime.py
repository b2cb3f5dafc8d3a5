"""`OnnxRuntimeBackend`: an .onnx file, ours or another program's, executed by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.artifact.onnx import open_session, read_metadata, run
from pennyweight.bench.backends.logits import require_logits
from pennyweight.errors import BenchmarkError


class OnnxRuntimeBackend:
    """Runs an .onnx file on the CPU and answers the arg max of its logits.

    Args:
        path: the file; its one input takes (n, ...) float32, its output is (n, classes). Where n is fixed to 1, samples
            of a batch run one by one.
        name: in reports; None for the file's name without its ending.
        threads: within an operator; they belong to the session.

    Raises:
        ArtifactError: the file is missing or damaged, or ONNX Runtime refuses it.
        BenchmarkError: it has other inputs or outputs.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, *, name: str | None = None, threads: int = 1) -> None:
        if threads < 1:
            raise BenchmarkError(f"threads={threads}: a backend computes with at least 1")
        path = Path(path)
        self._session: Any = open_session(path, threads=threads)
        self._one_by_one = _fixed_to_one(path, self._session)
        self.name, self.threads = name or path.stem, threads
        self.size_bytes = path.stat().st_size
        found = read_metadata(path.read_bytes())
        formats = found.get("numerics", "formats not stated in the file")
        self.numerics = f"{formats}, executed by ONNX Runtime" + (f", for {d}" if (d := found.get("deploy")) else "")

    def prepare(self, inputs: NDArray[Any], max_batch: int) -> None:
        """Warm up at batch 1 and at the largest batch."""
        for batch in (inputs[:1], inputs[:max_batch]):
            for _ in range(3):
                logits = self._logits(batch)
        self.num_classes = require_logits(self.name, logits, len(batch))

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Class indices, (n, ...) float -> (n,) int32."""
        answers: NDArray[np.int32] = self._logits(batch).argmax(-1).astype(np.int32)
        return answers

    def _logits(self, batch: NDArray[Any]) -> NDArray[Any]:
        if self._one_by_one:
            return np.concatenate([run(self._session, sample[None]) for sample in batch])
        return run(self._session, batch)

    def close(self) -> None:
        """Nothing to put back: the threads end with the session."""


def _fixed_to_one(path: Path, session: Any) -> bool:
    """Whether the file takes one sample at a time; refuses what is no classifier of float32 samples."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        names = [[value.name for value in values] for values in (inputs, outputs)]
        raise BenchmarkError(f"{path} has the inputs {names[0]} and outputs {names[1]}: one of each can be measured")
    if inputs[0].type != "tensor(float)":
        raise BenchmarkError(f"{path}: input {inputs[0].name!r} takes {inputs[0].type}, and the samples are float32")
    batch = inputs[0].shape[0] if inputs[0].shape else None
    if isinstance(batch, int) and batch != 1:
        raise BenchmarkError(
            f"{path}: input {inputs[0].name!r} is fixed to batches of {batch}: export it with a free first dimension"
        )
    return batch == 1
