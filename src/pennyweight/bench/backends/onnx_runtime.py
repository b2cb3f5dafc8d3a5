"""`OnnxRuntimeBackend`: an .onnx file, ours or another program's, executed by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.artifact.onnx import open_session, read_metadata, run
from pennyweight.errors import BenchmarkError


class OnnxRuntimeBackend:
    """Runs an .onnx file on the CPU and answers the arg max of its logits.

    Args:
        path: the file; its input takes (n, ...) float32, its output is (n, classes).
        name: in reports; None for the file's name without its ending.
        threads: within an operator; they belong to the session.

    Raises:
        ArtifactError: the file is missing or damaged, or ONNX Runtime refuses it.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, *, name: str | None = None, threads: int = 1) -> None:
        if threads < 1:
            raise BenchmarkError(f"threads={threads}: a backend computes with at least 1")
        path = Path(path)
        self._session: Any = open_session(path, threads=threads)
        self.name, self.threads = name or path.stem, threads
        self.size_bytes = path.stat().st_size
        found = read_metadata(path.read_bytes())
        formats = found.get("numerics", "formats not stated in the file")
        self.numerics = f"{formats}, executed by ONNX Runtime" + (f", for {d}" if (d := found.get("deploy")) else "")

    def prepare(self, inputs: NDArray[Any], max_batch: int) -> None:
        """Warm up at batch 1 and at the largest batch."""
        for batch in (inputs[:1], inputs[:max_batch]):
            for _ in range(3):
                answers = self.infer(batch)
        if answers.shape != (len(batch),):
            raise BenchmarkError(f"backend {self.name!r} answers shape {answers.shape} for {len(batch)} samples")

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Class indices, (n, ...) float -> (n,) int32."""
        answers: NDArray[np.int32] = run(self._session, batch).argmax(-1).astype(np.int32)
        return answers

    def close(self) -> None:
        """Nothing to put back: the threads end with the session."""
