"""What the values of a program look like, seen by running it on two batch sizes: what differs depends on the batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.artifact.onnx.graph import Shape
from pennyweight.artifact.program import Program, Step
from pennyweight.errors import ArtifactError


@dataclass(frozen=True)
class SeenTensor:
    """A tensor; sizes that depend on the batch are None."""

    shape: Shape
    dtype: torch.dtype


@dataclass(frozen=True)
class Varies:
    """A plain number that depends on the batch size, such as x.size(0)."""


Seen = Any
"""`SeenTensor`, `Varies`, a plain value, or a tuple of these."""


class _Recorder(Program):
    """A program that notes what each of its steps gives."""

    def __init__(self, input_name: str, steps: list[Step], output: Any, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(input_name, steps, output, modules)
        self.notes: dict[str, Any] = {}

    def _call(self, step: Step, args: Any, kwargs: Any) -> Any:
        result = super()._call(step, args, kwargs)
        self.notes[step["name"]] = _note(result)
        return result


@torch.no_grad()
def observe(
    input_name: str, steps: list[Step], output: Any, modules: Mapping[str, nn.Module], example: Tensor
) -> dict[str, Seen]:
    """Run a program on the example batch, and on one with a sample more.

    Returns:
        What each step, and the input, looks like.

    Raises:
        ArtifactError: the program fails on the example.
    """
    notes = []
    for batch in (example, torch.cat([example, example[:1]])):
        recorder = _Recorder(input_name, steps, output, modules).eval()
        try:
            recorder(batch)
        except Exception as error:  # whatever torch raises on a batch of the wrong shape
            raise ArtifactError(
                f"the model fails on an example of shape {tuple(batch.shape)} ({error}): give an example_input with "
                f"the samples along its first dimension"
            ) from error
        notes.append({input_name: _note(batch)} | recorder.notes)
    return {name: _merge(first, notes[1][name]) for name, first in notes[0].items()}


def _note(value: Any) -> Any:
    """A value without its numbers: nothing of the batch is kept alive."""
    if isinstance(value, Tensor):
        return SeenTensor(tuple(value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(_note(item) for item in value)
    return value


def _merge(first: Any, second: Any) -> Seen:
    if isinstance(first, SeenTensor) and isinstance(second, SeenTensor):
        shape = tuple(a if a == b else None for a, b in zip(first.shape, second.shape, strict=True))
        return SeenTensor(shape, first.dtype)
    if isinstance(first, tuple):
        return tuple(_merge(a, b) for a, b in zip(first, second, strict=True))
    return first if first == second else Varies()
