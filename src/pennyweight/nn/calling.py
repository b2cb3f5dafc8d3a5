"""How a model is called on a batch, whatever its inputs are called and whatever it returns.

Calibration data comes as tensors, as tuples whose first entry is the input, or as mappings of named inputs, as Hugging
Face models take them. Labels are never looked at.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError, PennyweightError
from pennyweight.nn.refusal import refusal

Batch = Tensor | tuple[Tensor, ...] | list[Tensor] | Mapping[str, Tensor]
"""One batch of model inputs, samples along the first dimension."""


def inputs_of(batch: Batch) -> Tensor | dict[str, Tensor]:
    """The inputs alone: a tensor, or tensors by name.

    Raises:
        MethodError: labels are among the named inputs, or what is given is no tensor.
    """
    if isinstance(batch, Mapping):
        if labels := sorted({"labels", "label", "targets"} & set(batch)):
            raise MethodError(
                f"the calibration batch holds {labels[0]!r}: labels are not used; leave them out, "
                f"{{name: tensor for name, tensor in batch.items() if name != {labels[0]!r}}}"
            )
        return dict(batch)
    if not isinstance(batch, Tensor) and (not isinstance(batch, tuple | list) or not batch):
        raise MethodError(f"a calibration batch is a {type(batch).__name__}, expected a tensor of model inputs")
    x = batch if isinstance(batch, Tensor) else batch[0]
    if not isinstance(x, Tensor):
        raise MethodError(f"a calibration batch holds a {type(x).__name__}, expected a tensor of model inputs")
    return x


def num_samples(batch: Batch) -> int:
    """Samples in the batch."""
    x = inputs_of(batch)
    return len(x if isinstance(x, Tensor) else next(iter(x.values())))


def take_samples(batch: Batch, chosen: slice | Tensor) -> Tensor | dict[str, Tensor]:
    """Some samples of the batch's inputs."""
    x = inputs_of(batch)
    return x[chosen] if isinstance(x, Tensor) else {name: value[chosen] for name, value in x.items()}


def call(model: nn.Module, batch: Batch) -> Any:
    """Whatever the model returns for the batch, moved to the model's device first.

    Raises:
        MethodError: the model cannot be called with such a batch.
    """
    x = inputs_of(batch)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        if isinstance(x, Tensor):
            return model(x.to(device))
        return model(**{name: value.to(device) for name, value in x.items()})
    except (PennyweightError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # what torch raises for a wrong dtype or shape
        raise MethodError(refusal(model, x, error)) from error


def output_tensor(output: Any) -> Tensor:
    """The one tensor that stands for a model's output: itself, its logits, or the first entry.

    Raises:
        MethodError: there is no such tensor.
    """
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "last_hidden_state"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise MethodError(
        f"the model returns a {type(output).__name__}, expected a tensor, logits, or a tuple with a tensor first: wrap "
        f"it in a module that returns the tensor to compare"
    )
