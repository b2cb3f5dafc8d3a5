"""Finished units on disk: a run that was killed goes on from them to the same bits."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.reconstruction.solver import FitRecord
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.nn.digest import model_digest, tensors_digest
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.numerics.affine import AffineParameters, parse_granularity
from pennyweight.numerics.formats import IntFormat, parse_format

MANIFEST = "manifest.json"
_LONGEST_NAME = 150


def fingerprint(model: nn.Module, inputs: Tensor | Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, str]:
    """What a journal belongs to, a digest a part: model, calibration data, settings."""
    named = {"input": inputs} if isinstance(inputs, Tensor) else inputs
    return {
        "model": model_digest(model),
        "calibration": tensors_digest(named),
        "settings": json.dumps(settings, sort_keys=True),
    }


class UnitJournal:
    """A folder with one file a finished unit, and a manifest that says what they belong to.

    Args:
        folder: made where it is not there.
        owner: from `fingerprint`.

    Raises:
        MethodError: the folder belongs to another model, data or settings; or cannot be written.
    """

    def __init__(self, folder: Path, owner: Mapping[str, str]) -> None:
        self._units = folder / "units"
        self._owner = dict(owner)
        try:
            self._units.mkdir(parents=True, exist_ok=True)
            manifest = folder / MANIFEST
            if manifest.exists():
                self._check(manifest)
            else:
                _write_atomically(manifest, json.dumps({"schema": 2, **self._owner}, indent=1).encode())
        except OSError as error:
            raise MethodError(f"cannot keep finished units in {folder}: {error}") from error

    def load_(self, unit: Unit, formats: str) -> FitRecord | None:
        """Put a finished unit's state in these formats into the model; None where it is not finished."""
        path = self._path(unit, formats)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            if metadata["checksum"] != _checksum(metadata["record"], tensors):
                raise ValueError("its checksum is not that of its contents")
            facts = json.loads(metadata["record"])
            for name, layer in unit.layers.items():
                _load_layer(
                    layer,
                    {key.removeprefix(f"{name}:"): t for key, t in tensors.items() if key.startswith(f"{name}:")},
                    facts["layers"][name],
                )
            return FitRecord(**facts["fit"])
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise MethodError(f"{path} cannot be used ({error}): remove it to fit the unit again") from error

    def store(self, unit: Unit, formats: str, fit: FitRecord) -> None:
        """Write a finished unit, whole or not at all."""
        tensors = {f"{name}:{key}": t for name, layer in unit.layers.items() for key, t in _layer_state(layer).items()}
        facts = {
            "fit": dataclasses.asdict(fit),
            "layers": {name: _layer_facts(layer) for name, layer in unit.layers.items()},
        }
        record = json.dumps(facts)
        data = safetensors.torch.save(tensors, metadata={"record": record, "checksum": _checksum(record, tensors)})
        try:
            _write_atomically(self._path(unit, formats), data)
        except OSError as error:
            raise MethodError(f"cannot keep unit {unit.name!r}: {error}") from error

    def _path(self, unit: Unit, formats: str) -> Path:
        name = f"{unit.name}.{formats.replace('/', '-').replace(', ', '+')}"
        if len(name) > _LONGEST_NAME:  # file systems allow 255 bytes, ".safetensors.part" among them
            name = f"{name[:_LONGEST_NAME]}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
        return self._units / f"{name}.safetensors"

    def _check(self, manifest: Path) -> None:
        try:
            found = json.loads(manifest.read_text())
            assert isinstance(found, dict)
        except (ValueError, AssertionError) as error:
            raise MethodError(f"{manifest} is damaged: remove its folder to begin anew") from error
        differing = [part for part, value in self._owner.items() if found.get(part) != value]
        if differing:
            shown = "; ".join(f"{part}: {found.get(part)} there, {self._owner[part]} now" for part in differing)
            raise MethodError(
                f"{manifest.parent} holds units of another run, with other {' and '.join(differing)} ({shown}): remove "
                f"the folder or give another one"
            )


def _checksum(record: str, tensors: Mapping[str, Tensor]) -> str:
    contents = tensors_digest(dict(sorted(tensors.items())))
    return hashlib.blake2b(f"{record}{contents}".encode(), digest_size=16).hexdigest()


def _layer_state(layer: GemmModule) -> dict[str, Tensor]:
    state = {"weight": layer.weight} if layer.bias is None else {"weight": layer.weight, "bias": layer.bias}
    for slot in ("weight", "input"):
        content = getattr(layer.slots, slot).quantizer
        if content is not None:
            state |= {f"{slot}_scale": content.scale, f"{slot}_zero_point": content.zero_point}
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def _layer_facts(layer: GemmModule) -> dict[str, Any]:
    contents = {slot: getattr(layer.slots, slot).quantizer for slot in ("weight", "input")}
    return {
        slot: [str(content.format), str(content.granularity)]
        for slot, content in contents.items()
        if content is not None
    }


@torch.no_grad()
def _load_layer(layer: GemmModule, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    layer.weight.copy_(tensors["weight"])
    if layer.bias is not None:
        layer.bias.copy_(tensors["bias"])
    for slot, kind in (("weight", IntegerWeight), ("input", IntegerInput)):
        if slot in facts:
            format, granularity = parse_format(facts[slot][0]), parse_granularity(facts[slot][1])
            assert isinstance(format, IntFormat)
            parameters = AffineParameters(
                scale=tensors[f"{slot}_scale"].to(layer.weight.device),
                zero_point=tensors[f"{slot}_zero_point"].to(layer.weight.device),
                format=format,
                granularity=granularity,
            )
            getattr(layer.slots, slot)["quantize"] = kind(parameters)


def _write_atomically(path: Path, data: bytes) -> None:
    trial = path.with_name(path.name + ".part")
    with open(trial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    trial.replace(path)
