"""An ONNX graph while it is being built: plain nodes and arrays. The protobuf is made of it by `container`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int | None, ...]
ElementType = Literal["float32", "int8", "uint8", "int4", "int32", "int64", "bool"]


@dataclass(frozen=True)
class Value:
    """One tensor of the graph.

    Args:
        name: it goes by.
        shape: of it; None for a size that depends on the batch.
    """

    name: str
    shape: Shape


@dataclass(frozen=True)
class Node:
    """One operator call with one output."""

    op: str
    inputs: tuple[str, ...]
    output: str
    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Initializer:
    """A stored tensor; int4 values lie in an int8 array."""

    name: str
    array: NDArray[Any]
    type: ElementType

    @property
    def size_bytes(self) -> int:
        """Bytes of its data in the file; two int4 values share one."""
        return -(-self.array.size // 2) if self.type == "int4" else self.array.nbytes


class Graph:
    """Nodes in order and initializers; equal calls and equal arrays are kept once."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.initializers: dict[str, Initializer] = {}
        self.scope = ""  # names of nodes begin with the layer or step they belong to
        self._calls: dict[Any, Value] = {}
        self._makers: dict[str, Node] = {}
        self._arrays: dict[Any, Value] = {}
        self._taken: set[str] = set()

    def node(self, op: str, inputs: Sequence[Value | None], shape: Sequence[int | None], **attributes: Any) -> Value:
        """Append a call.

        Args:
            op: of the domain ai.onnx.
            inputs: None leaves an optional one out.
            shape: of the output.
            attributes: those that are None are left out.
        """
        given = {key: value for key, value in attributes.items() if value is not None}
        names = tuple("" if value is None else value.name for value in inputs)
        call = (op, names, repr(sorted(given.items())))
        if call not in self._calls:
            name = self.fresh(f"{self.scope}/{op}" if self.scope else op)
            self.nodes.append(Node(op, names, name, name, given))
            self._makers[name] = self.nodes[-1]
            self._calls[call] = Value(name, tuple(shape))
        return self._calls[call]

    def constant(self, array: Any, type: ElementType | None = None, name: str = "constant") -> Value:
        """A stored tensor; one that is there already serves again.

        Args:
            type: of its elements; by default that of the array.
            name: begins with the scope.
        """
        array = np.asarray(array)
        if array.ndim:  # ascontiguousarray would give a number a dimension
            array = np.ascontiguousarray(array)
        kind: Any = str(array.dtype) if type is None else type
        key = (kind, array.shape, array.tobytes())
        if key not in self._arrays:
            fresh = self.fresh(f"{self.scope}/{name}" if self.scope else name)
            self.initializers[fresh] = Initializer(fresh, array, kind)
            self._arrays[key] = Value(fresh, array.shape)
        return self._arrays[key]

    def maker(self, value: Value) -> Node | None:
        """The call that gives a value; None for the input and stored tensors."""
        return self._makers.get(value.name)

    def drop_unread(self, output: Value) -> None:
        """Forget calls and stored tensors that the output does not depend on."""
        read, live = {output.name}, []
        for node in reversed(self.nodes):
            if node.output in read:
                live.append(node)
                read.update(node.inputs)
        self.nodes = live[::-1]
        self.initializers = {name: stored for name, stored in self.initializers.items() if name in read}

    def fresh(self, name: str) -> str:
        """The name, with a number where it is taken."""
        candidate, number = name, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate

    def reshape(self, x: Value, shape: Shape) -> Value:
        """Other sizes for the same values; at most one may depend on the batch."""
        if x.shape == shape:
            return x
        assert sum(size is None for size in shape) <= 1, shape
        sizes = np.array([-1 if size is None else size for size in shape], np.int64)
        return self.node("Reshape", [x, self.constant(sizes, name="shape")], shape)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """Dimensions in another order."""
        return self.node("Transpose", [x], [x.shape[axis] for axis in order], perm=list(order))

    def number(self, value: float) -> Value:
        """A float32 number."""
        return self.constant(np.float32(value), name="number")

    def integers(self, values: Sequence[int], name: str = "integers") -> Value:
        """A list of int64, as operators take sizes and axes."""
        return self.constant(np.array(values, np.int64), name=name)
