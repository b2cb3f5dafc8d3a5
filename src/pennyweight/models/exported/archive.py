"""A .pt2 archive as JSON and tensors. Nothing in it is unpickled: files that hold pickled weights are refused.

torch.export.load is not used: it unpickles example inputs and constants, evaluates the expressions of symbolic shapes,
and looks functions up by whatever name the file gives.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.errors import RecipeError

SCHEMA = 8
"""Major version of the schema of torch 2.9 to 2.13."""
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
"""The schema's numbers of types."""
_AGAIN = "save it again with torch.export.save of a current torch"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is read of a file.

    Args:
        graph: nodes, inputs, outputs and the shapes of values, as the schema writes them.
        signature: what the graph's inputs and outputs stand for.
        tensors: parameters, buffers and constants by name; one object where the file shares one.
    """

    graph: Mapping[str, Any]
    signature: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def read_archive(path: Path) -> Archive:
    """Read a file that torch.export.save wrote.

    Raises:
        RecipeError: it is no such file, of another version, or holds pickled objects or compiled code.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return _read(file)
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise RecipeError(f"it cannot be read ({error}); {_AGAIN}") from error


def _read(file: zipfile.ZipFile) -> Archive:
    found = {name.partition("/")[2]: name for name in file.namelist()}
    if "models/model.json" not in found:
        raise RecipeError(f"it holds no models/model.json; {_AGAIN}")
    if any(name.startswith("data/aotinductor/") for name in found):
        raise RecipeError("it holds compiled code, which is not run: export the model without compiling it")
    if (order := found.get("byteorder")) is not None and file.read(order) != b"little":
        raise RecipeError("its numbers are big-endian: save it on another machine")
    content = json.loads(file.read(found["models/model.json"]))
    version = content["schema_version"]["major"]
    if version != SCHEMA:
        raise RecipeError(f"it is of schema {version}, and {SCHEMA} is read; {_AGAIN}")
    tensors: dict[str, Tensor] = {}
    shared: dict[tuple[Any, ...], Tensor] = {}
    for folder in ("weights", "constants"):
        listed = f"data/{folder}/model_{folder}_config.json"
        if listed not in found:
            raise RecipeError(f"it holds no {listed}; {_AGAIN}")
        for name, payload in json.loads(file.read(found[listed]))["config"].items():
            record = found.get(f"data/{folder}/{payload['path_name']}")
            tensors[name] = _tensor(name, payload, file, record, shared)
    module = content["graph_module"]
    return Archive(graph=module["graph"], signature=module["signature"], tensors=tensors)


def _tensor(
    name: str,
    payload: Mapping[str, Any],
    file: zipfile.ZipFile,
    record: str | None,
    shared: dict[tuple[Any, ...], Tensor],
) -> Tensor:
    """One tensor from raw bytes; names for the same bytes get the same tensor."""
    meta = payload["tensor_meta"]
    if payload["use_pickle"] or meta is None:
        raise RecipeError(f"{name!r} is a pickled object, which is not loaded: export a model of plain tensors alone")
    if record is None:
        raise RecipeError(f"the bytes of {name!r} are missing; {_AGAIN}")
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None or meta["layout"] != 7:
        raise RecipeError(
            f"{name!r} is of type {meta['dtype']} and layout {meta['layout']}: only dense numbers are read"
        )
    sizes, strides = _integers(meta["sizes"]), _integers(meta["strides"])
    (offset,) = _integers([meta["storage_offset"]])
    key = (record, offset, sizes, strides, dtype, payload["is_param"])
    if key not in shared:
        raw = bytearray(file.read(record))
        flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.zeros(0, dtype=dtype)
        # A clone, so that a damaged file's strides cannot make weights overlap.
        tensor = torch.as_strided(flat, sizes, strides, offset).clone()
        shared[key] = nn.Parameter(tensor, requires_grad=meta["requires_grad"]) if payload["is_param"] else tensor
    return shared[key]


def _integers(values: list[Mapping[str, int]]) -> tuple[int, ...]:
    return tuple(int(value["as_int"]) for value in values)
