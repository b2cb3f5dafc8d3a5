"""`TorchBackend`: any callable on float tensors, an eager module or a loaded artifact, as a classifier."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pennyweight import ops
from pennyweight.bench.backends.logits import require_logits
from pennyweight.errors import BenchmarkError


class TorchBackend:
    """Runs a model eagerly under inference mode and answers the arg max of its logits.

    Args:
        model: (n, ...) float tensor -> (n, classes) logits.
        name: in reports.
        numerics: formats, and what is executed and what simulated.
        threads: for torch and for our kernels while prepared; what was set before is put back by `close`.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], *, name: str, numerics: str, threads: int = 1) -> None:
        if threads < 1:
            raise BenchmarkError(f"threads={threads}: a backend computes with at least 1")
        self.name, self.numerics, self.threads = name, numerics, threads
        self._model = model.eval() if isinstance(model, nn.Module) else model
        self._device = torch.device("cpu")
        if isinstance(model, nn.Module):
            self._device = next((parameter.device for parameter in model.parameters()), self._device)
        self._before: tuple[int, int] | None = None

    def prepare(self, inputs: NDArray[Any], max_batch: int) -> None:
        """Set the thread counts and warm up at batch 1 and at the largest batch."""
        if self._before is None:
            self._before = (torch.get_num_threads(), ops.num_threads())
        torch.set_num_threads(self.threads)
        ops.set_num_threads(self.threads)
        for batch in (inputs[:1], inputs[:max_batch]):
            for _ in range(3):
                logits = self._logits(batch)
        self.num_classes = require_logits(self.name, logits.float().cpu().numpy(), len(batch))

    @torch.inference_mode()
    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Class indices, (n, ...) float -> (n,) int32."""
        answers: NDArray[np.int32] = self._logits(batch).argmax(-1).to(torch.int32).cpu().numpy()
        return answers

    @torch.inference_mode()
    def _logits(self, batch: NDArray[Any]) -> Tensor:
        outputs = self._model(torch.from_numpy(batch).to(self._device))
        if not isinstance(outputs, Tensor):
            raise BenchmarkError(
                f"backend {self.name!r} answers a {type(outputs).__name__}: wrap the model in a module that returns "
                f"its logits"
            )
        return outputs

    def close(self) -> None:
        """Put the thread counts back."""
        if self._before is not None:
            torch.set_num_threads(self._before[0])
            ops.set_num_threads(self._before[1])
            self._before = None
