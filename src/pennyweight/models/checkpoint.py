"""Weights from a file into a model, without unpickling code and without a half-loaded model."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.errors import CheckpointError

_TORCH_SUFFIXES = (".th", ".pt", ".pth", ".ckpt")
_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIX = "module."  # what torch's DataParallel puts before every name
_OPTIONAL = "num_batches_tracked"  # absent from checkpoints older than torch 0.4.1, and unused by default


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a float checkpoint into a model, in place; everything is checked before anything is changed.

    Args:
        model: its state-dict names decide what is expected.
        path: .th, .pt, .pth or .ckpt (torch's format, read with weights_only=True) or .safetensors. A dictionary
            nested under "state_dict" or "model" is found, the prefix "module." removed.

    Raises:
        CheckpointError: missing, unreadable or unsafe file; names missing, left over, or of another shape.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"checkpoint {file} does not exist")
    found = {name.removeprefix(_PREFIX): value for name, value in _read(file).items()}
    wanted = model.state_dict()
    problems = [
        f"{name!r} has shape {tuple(found[name].shape)} in the file and {tuple(wanted[name].shape)} in the model"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    problems += [f"{name!r} is missing" for name in wanted if name not in found and not name.endswith(_OPTIONAL)]
    problems += [f"{name!r} is not in the model" for name in found if name not in wanted]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(f"checkpoint {file} does not fit {type(model).__name__}: {shown}")
    model.load_state_dict({**wanted, **found})


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    if file.suffix not in _TORCH_SUFFIXES:
        raise CheckpointError(
            f"checkpoint {file}: unknown kind {file.suffix!r}; known: {', '.join((*_TORCH_SUFFIXES, '.safetensors'))}"
        )
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged files torch raises whatever its parsers stumble over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"checkpoint {file} is damaged or holds more than tensors and plain values, which is not loaded: {reason}"
        ) from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"checkpoint {file} holds a {type(content).__name__}, not a dictionary of tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"checkpoint {file}: entry {name!r} is a {type(value).__name__}, not a tensor")
    return content


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"checkpoint {file} is damaged: {error}") from error
