"""Checkpoints: one safetensors file that holds all a run needs to go on bit for bit, replaced atomically.

Tensors are the model's state and the optimiser's; the file's metadata holds a JSON header and a digest of both. The
digest finds damage, it does not prove who wrote the file. Nothing is unpickled.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from pennyweight.errors import CheckpointError

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run is, apart from its tensors.

    Args:
        step: optimiser steps done.
        history: loss of each of them.
        seconds: wall-clock time spent, over all sessions.
        scaler: state of the gradient scaler; empty where none is used.
    """

    step: int
    history: tuple[float, ...]
    seconds: float
    scaler: dict[str, Any]


def save_checkpoint(
    path: Path, *, model: nn.Module, optimizer: Optimizer, identity: dict[str, Any], state: RunState
) -> None:
    """Write a checkpoint; the file of before is replaced only when the new one is whole and on the disk.

    Args:
        path: the file; its folder is made.
        identity: plain values that tell this run from others; loading compares them.

    Raises:
        CheckpointError: the disk is full or the path cannot be written (the file of before is left as it was), or the
            model's state holds something that is not a tensor.
    """
    tensors = {f"model:{name}": value for name, value in _model_state(model).items()}
    tensors |= {f"optimizer:{name}": value for name, value in _optimizer_state(model, optimizer).items()}
    tensors["history"] = torch.tensor(state.history, dtype=torch.float64)
    # Clones: tied parameters share memory, which the format refuses.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    header = json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "step": state.step,
            "seconds": state.seconds,
            "scaler": state.scaler,
            "torch": torch.__version__,
            "identity": identity,
        },
        sort_keys=True,
    )
    metadata = {"pennyweight_checkpoint": header, "sha256": _digest(header, tensors)}
    _write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_checkpoint(path: Path, *, model: nn.Module, optimizer: Optimizer, identity: dict[str, Any]) -> RunState:
    """Put a checkpoint's tensors into the model and the optimiser, after everything about it has been checked.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or belongs to another run; the message names the first
            difference and nothing has been changed.
    """
    header, tensors = _read(path)
    difference = _first_difference(header["identity"], json.loads(json.dumps(identity)), "")
    if difference is not None:
        raise CheckpointError(
            f"checkpoint {path} belongs to another run: {difference}; resume with the settings it was made with, or "
            f"give this run a checkpoint file of its own"
        )
    model_tensors = {name[6:]: value for name, value in tensors.items() if name.startswith("model:")}
    expected = _model_state(model)
    for name in sorted(expected.keys() | model_tensors.keys()):
        saved, now = model_tensors.get(name), expected.get(name)
        if saved is None or now is None or saved.shape != now.shape or saved.dtype != now.dtype:
            raise CheckpointError(
                f"checkpoint {path} belongs to another model: tensor {name!r} is {_describe(saved)} in the checkpoint, "
                f"{_describe(now)} in the model"
            )
    model.load_state_dict(model_tensors)
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for name, value in tensors.items():
        if name.startswith("optimizer:"):
            _, key, fqn = name.split(":", 2)
            parameter = parameters[fqn]
            # torch counts an optimiser's steps on the CPU; everything else lies beside its parameter.
            optimizer.state[parameter][key] = value if value.dim() == 0 else value.to(parameter.device)
    return RunState(
        step=header["step"],
        history=tuple(tensors["history"].tolist()),
        seconds=header["seconds"],
        scaler=header["scaler"],
    )


def _model_state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"the model's state {name!r} is a {type(value).__name__}: a checkpoint holds tensors only"
            )
    return state


def _optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    state = {}
    for fqn, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:  # sgd without momentum keeps an empty place
                assert isinstance(value, Tensor), f"optimizer state {key!r} is a {type(value).__name__}"
                state[f"{key}:{fqn}"] = value
    return state


def _describe(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _digest(header: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {_describe(tensors[name])}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_atomically(path: Path, payload: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is on the disk too
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        kept = "the one of before is kept" if path.is_file() else "there was none before"
        raise CheckpointError(f"cannot write checkpoint {path}: {error.strerror or error}; {kept}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"cannot read checkpoint {path}: {error}; it is truncated or no checkpoint: delete it to start afresh"
        ) from error
    text = metadata.get("pennyweight_checkpoint")
    if text is None:
        raise CheckpointError(f"{path} is a safetensors file but no checkpoint of pennyweight: choose another path")
    if metadata.get("sha256") != _digest(text, tensors):
        raise CheckpointError(f"checkpoint {path} is damaged: its digest does not match; delete it to start afresh")
    header = json.loads(text)
    if header["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path} has format version {header['format_version']}, this pennyweight reads "
            f"{FORMAT_VERSION}: resume with the version that wrote it"
        )
    return header, tensors


def _first_difference(saved: Any, now: Any, where: str) -> str | None:
    """The first place where two trees of plain values differ, in words; None where they are equal."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in sorted(saved.keys() | now.keys()):
            inside = f"{where}.{key}" if where else key
            found = _first_difference(saved.get(key), now.get(key), inside)
            if found is not None:
                return found
        return None
    if isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        pairs = enumerate(zip(saved, now, strict=True))
        found_all = (_first_difference(a, b, f"{where}[{i}]") for i, (a, b) in pairs)
        return next((found for found in found_all if found is not None), None)
    if saved == now:
        return None
    return f"{where} is {saved!r} in the checkpoint, {now!r} now"
