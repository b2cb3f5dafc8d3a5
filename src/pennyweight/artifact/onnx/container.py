"""The protobuf: graphs become bytes here. The only file that imports the onnx package."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.artifact.onnx.graph import Graph, Initializer, Shape, Value
from pennyweight.errors import ArtifactError, MissingDependencyError

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit for one message
_IR_VERSION = 10  # the first that knows 4-bit integers; runtimes refuse versions newer than themselves


def onnx_package() -> Any:
    """The onnx package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx", "onnx", "write .onnx files") from error
    return onnx


def serialize(
    graph: Graph, entering: Value, leaving: Value, *, input_type: str, opset: int, metadata: Mapping[str, Any]
) -> bytes:
    """A graph as the bytes of an .onnx file; equal graphs give equal bytes.

    Args:
        entering: the input; its size that depends on the batch is called "batch" in the file.
        input_type: element type of the input.
        metadata: plain JSON values, kept under the key "pennyweight".

    Raises:
        ArtifactError: the file would exceed protobuf's 2 GB.
    """
    onnx = onnx_package()
    helper = onnx.helper
    if all(node.output != leaving.name for node in graph.nodes):  # the model hands its input through
        leaving = graph.node("Identity", [leaving], leaving.shape)
    named = {leaving.name: "output"}
    nodes = [
        helper.make_node(
            node.op,
            [named.get(name, name) for name in node.inputs],
            [named.get(node.output, node.output)],
            name=node.name,
            **_attributes(onnx, node.attributes),
        )
        for node in graph.nodes
    ]
    stored = [_tensor(onnx, initializer) for initializer in graph.initializers.values()]
    size = sum(initializer.size_bytes for initializer in graph.initializers.values())
    if size > MAX_BYTES:
        raise ArtifactError(f"the .onnx file would hold {size} bytes of weights, more than protobuf's {MAX_BYTES}")
    made = helper.make_graph(
        nodes,
        "pennyweight",
        [_info(onnx, entering.name, entering.shape, input_type)],
        [_info(onnx, "output", leaving.shape, "float32")],
        initializer=stored,
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR_VERSION, producer_name="pennyweight"
    )
    helper.set_model_props(model, {"pennyweight": json.dumps(metadata, sort_keys=True)})
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def read_metadata(data: bytes) -> dict[str, Any]:
    """What `serialize` wrote beside the graph; empty for files of other programs.

    Raises:
        ArtifactError: the bytes are no .onnx file.
    """
    onnx = onnx_package()
    try:
        model = onnx.load_from_string(data)
        props = {entry.key: entry.value for entry in model.metadata_props}
        found: dict[str, Any] = json.loads(props.get("pennyweight", "{}"))
    except Exception as error:  # protobuf's decoding error, whose class is its implementation's
        raise ArtifactError(f"not an .onnx file, or damaged ({error}): export it again") from error
    return found


def _attributes(onnx: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Element types by name become protobuf's numbers."""
    return {key: _type(onnx, value) if key == "to" else value for key, value in attributes.items()}


def _type(onnx: Any, name: str) -> int:
    number: int = getattr(onnx.TensorProto, {"float32": "FLOAT"}.get(name, name.upper()))
    return number


def _info(onnx: Any, name: str, shape: Shape, type: str) -> Any:
    sizes = ["batch" if size is None else size for size in shape]
    return onnx.helper.make_tensor_value_info(name, _type(onnx, type), sizes)


def _tensor(onnx: Any, initializer: Initializer) -> Any:
    array = initializer.array
    raw = pack_int4(array) if initializer.type == "int4" else array.tobytes()
    return onnx.helper.make_tensor(initializer.name, _type(onnx, initializer.type), array.shape, raw, raw=True)


def pack_int4(codes: NDArray[np.int8]) -> bytes:
    """Two codes a byte, the first in the low half; an odd last one alone.

    Example:
        >>> pack_int4(np.array([1, -1, 7], np.int8)).hex()
        'f107'
    """
    halves = codes.reshape(-1).astype(np.uint8) & 15
    if len(halves) % 2:
        halves = np.append(halves, np.uint8(0))
    return (halves[0::2] | (halves[1::2] << 4)).astype(np.uint8).tobytes()
