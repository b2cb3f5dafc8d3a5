"""Operators that move values without computing: slices, joins and changes of shape."""

from collections.abc import Sequence
from typing import Any

from pennyweight.artifact.onnx.graph import Graph, Shape, Value
from pennyweight.errors import ArtifactError

_END = (1 << 63) - 1


def reshaped(graph: Graph, shape: Shape, x: Value, *_sizes: Any, **_named: Any) -> Value:
    """Any change of shape that keeps the order: the sizes torch gave serve, whatever they were computed from."""
    if sum(size is None for size in shape) > 1:
        raise ArtifactError(f"a reshape spreads the batch over several dimensions of {shape}, which ONNX cannot say")
    return graph.reshape(x, shape)


def same(_graph: Graph, _shape: Shape, x: Value, *_args: Any, **_named: Any) -> Value:
    """The tensor itself."""
    return x


def transpose(graph: Graph, _shape: Shape, x: Value, dim0: int, dim1: int) -> Value:
    """Two dimensions exchanged."""
    order = list(range(len(x.shape)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return graph.transpose(x, order)


def permute(graph: Graph, _shape: Shape, x: Value, *dims: Any) -> Value:
    """Dimensions in another order."""
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    return graph.transpose(x, [dim % len(x.shape) for dim in order])


def cat(graph: Graph, shape: Shape, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Joined along one dimension."""
    return graph.node("Concat", tensors, shape, axis=dim)


def getitem(graph: Graph, shape: Shape, x: Value, index: Any) -> Value:
    """Slices, numbers, `...` and None; no indexing by tensors."""
    starts, ends, axes, steps = [], [], [], []
    for axis, part in _by_axis(x, index):
        if isinstance(part, slice):
            bounds = (part.start, part.stop, part.step)
            if bounds == (None, None, None):
                continue
            start, stop, step = 0 if part.start is None else part.start, part.stop, part.step or 1
        elif isinstance(part, int):
            start, stop, step = part, part + 1 if part != -1 else None, 1
        else:
            start = stop = step = part
        if not all(isinstance(bound, int) or bound is None for bound in (start, stop, step)) or step < 1:
            raise ArtifactError(f"index {part!r} cannot be exported: only fixed numbers and slices can")
        starts.append(start)
        ends.append(_END if stop is None else stop)
        axes.append(axis)
        steps.append(step)
    if not axes:
        return reshaped(graph, shape, x)
    sliced = list(x.shape)
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = sliced[axis]
        sliced[axis] = None if size is None else len(range(size)[start:stop:step])
    lists = [graph.integers(values, name) for values, name in ((starts, "starts"), (ends, "ends"))]
    lists += [graph.integers(axes, "axes"), graph.integers(steps, "steps")]
    return reshaped(graph, shape, graph.node("Slice", [x, *lists], sliced))


def _by_axis(x: Value, index: Any) -> list[tuple[int, Any]]:
    """Each part of an index with the dimension it is for; new dimensions come with the final shape."""
    parts = [part for part in (index if isinstance(index, tuple) else (index,)) if part is not None]
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        missing = len(x.shape) - len(parts) + 1
        parts[place : place + 1] = [slice(None)] * missing
    return list(enumerate(parts))
