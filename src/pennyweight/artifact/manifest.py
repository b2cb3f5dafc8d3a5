"""The container: one safetensors file whose header carries a JSON manifest. Reading it executes nothing.

The manifest holds a digest of every tensor and of itself. That finds damage and careless edits; it is no signature.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pennyweight.errors import ArtifactError

FORMAT = "pennyweight-artifact"
VERSION = 1
_HEADER_KEY = "pennyweight"


def digest(tensor: Tensor) -> str:
    """sha256 of a tensor's dtype, shape and bytes."""
    flat = tensor.detach().cpu().contiguous()
    head = f"{flat.dtype}:{tuple(flat.shape)}:".encode()
    return hashlib.sha256(head + flat.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def write(path: Path, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write manifest and tensors atomically: the file is whole under its name, or not there.

    Returns:
        The manifest as written, with format, version and digests.

    Raises:
        ArtifactError: the folder cannot be written or the disk is full; what stood at `path` before is untouched.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    full = {
        "format": FORMAT,
        "version": VERSION,
        **manifest,
        "digests": {name: digest(tensor) for name, tensor in tensors.items()},
    }
    header = json.dumps({"manifest": full, "digest": _manifest_digest(full)}, sort_keys=True)
    data = safetensors.torch.save(dict(tensors), metadata={_HEADER_KEY: header})
    replace_file(path, data)
    return full


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically: it is whole under its name, or what stood there before is untouched.

    Raises:
        ArtifactError: the folder cannot be written or the disk is full.
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise ArtifactError(
            f"cannot write {path} ({len(data)} bytes): {error.strerror or error}; free space or choose another folder"
        ) from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read and verify an artifact.

    Raises:
        ArtifactError: the file is missing, truncated, tampered with, of another kind, or of an unknown version.
    """
    if not path.is_file():
        raise ArtifactError(f"no artifact at {path}: make one with pennyweight.export(model, path, ...)")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER_KEY)
            # Copies: torch rounds some float products otherwise where memory is not aligned, and the file may change.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or not an artifact ({error}): export it again") from error
    if header is None:
        raise ArtifactError(f"{path} is a safetensors file without pennyweight's manifest: not an artifact")
    try:
        content = json.loads(header)
        manifest, claimed = content["manifest"], content["digest"]
        kind, version = manifest["format"], manifest["version"]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"the manifest of {path} is damaged ({error!r}): export it again") from error
    if kind != FORMAT or version != VERSION:
        raise ArtifactError(
            f"{path} is {kind!r} version {version!r}; this pennyweight reads {FORMAT!r} version {VERSION}: "
            f"export it again, or install the release that wrote it"
        )
    if claimed != _manifest_digest(manifest):
        raise ArtifactError(f"the manifest of {path} was changed after it was written: export it again")
    _check_tensors(path, manifest, tensors)
    return manifest, tensors


def _check_tensors(path: Path, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    digests = manifest.get("digests", {})
    if set(digests) != set(tensors):
        odd = sorted(set(digests) ^ set(tensors))
        raise ArtifactError(f"{path} lists other tensors than it holds ({', '.join(odd[:5])}): export it again")
    for name, tensor in tensors.items():
        if digest(tensor) != digests[name]:
            raise ArtifactError(f"tensor {name!r} of {path} was changed after it was written: export it again")


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
