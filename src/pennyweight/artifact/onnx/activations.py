"""Elementwise functions, sums over dimensions and softmax, in ONNX's operators."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pennyweight.artifact.onnx.graph import Graph, Shape, Value
from pennyweight.artifact.onnx.shapes import Varies
from pennyweight.errors import ArtifactError


def operand(graph: Graph, value: Any) -> Value:
    """A tensor or a plain number as an input of an operator.

    Raises:
        ArtifactError: a number that depends on the batch size.
    """
    if isinstance(value, Value):
        return value
    if isinstance(value, Varies):
        raise ArtifactError(
            "the model computes with its batch size, which an .onnx file leaves open: use sizes for reshapes alone"
        )
    if isinstance(value, bool | int | float):
        return graph.number(float(value))
    raise ArtifactError(f"an operator takes {value!r}, a {type(value).__name__}, where ONNX takes a tensor")


def binary(op: str) -> Any:
    """An operator of two operands with broadcasting."""

    def emit(graph: Graph, shape: Shape, x: Any, y: Any, *, alpha: float = 1.0) -> Value:
        right = operand(graph, y)
        if alpha != 1.0:
            right = graph.node("Mul", [right, graph.number(alpha)], right.shape)
        return graph.node(op, [operand(graph, x), right], shape)

    return emit


def unary(op: str, **attributes: Any) -> Any:
    """An operator of one operand; `inplace` means nothing in a graph."""

    def emit(graph: Graph, shape: Shape, x: Value, inplace: bool = False) -> Value:
        return graph.node(op, [x], shape, **attributes)

    return emit


def leaky_relu(graph: Graph, shape: Shape, x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    """x where it is positive, a part of it where it is not."""
    return graph.node("LeakyRelu", [x], shape, alpha=float(negative_slope))


def relu6(graph: Graph, shape: Shape, x: Value, inplace: bool = False) -> Value:
    """Cut to [0, 6]."""
    return hardtanh(graph, shape, x, 0.0, 6.0)


def silu(graph: Graph, shape: Shape, x: Value, inplace: bool = False) -> Value:
    """x * sigmoid(x)."""
    return graph.node("Mul", [x, graph.node("Sigmoid", [x], shape)], shape)


def gelu(graph: Graph, shape: Shape, x: Value, approximate: str = "none") -> Value:
    """Exact, or by tanh."""
    return graph.node("Gelu", [x], shape, approximate=approximate)


def hardtanh(
    graph: Graph, shape: Shape, x: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Value:
    """Clip to an interval."""
    return graph.node("Clip", [x, graph.number(min_val), graph.number(max_val)], shape)


def softmax(graph: Graph, shape: Shape, x: Value, dim: int | None = None, **_unused: Any) -> Value:
    """Along one dimension."""
    return graph.node("Softmax", [x], shape, axis=_axis(dim, x))


def log_softmax(graph: Graph, shape: Shape, x: Value, dim: int | None = None, **_unused: Any) -> Value:
    """Along one dimension."""
    return graph.node("LogSoftmax", [x], shape, axis=_axis(dim, x))


def _axis(dim: int | None, x: Value) -> int:
    if dim is None:  # torch's own choice, which it warns about
        return 0 if len(x.shape) in (0, 1, 3) else 1
    return dim


def reduce(op: str) -> Any:
    """Mean or sum over some or all dimensions."""

    def emit(
        graph: Graph,
        shape: Shape,
        x: Value,
        dim: int | Sequence[int] | None = None,
        keepdim: bool = False,
        dtype: Any = None,
    ) -> Value:
        if dim is None:
            dims = list(range(len(x.shape)))
        else:
            dims = [dim] if isinstance(dim, int) else list(dim)
        return graph.node(op, [x, graph.integers(dims, "axes")], shape, keepdims=int(keepdim))

    return emit


def rms_norm(graph: Graph, shape: Shape, x: Value, *, dims: int, eps: float, weight: Any) -> Value:
    """x / sqrt(mean(x^2) + eps) over the last `dims` dimensions, times the weight where there is one."""
    reduced = (*x.shape[:-dims], *[1] * dims)
    square = graph.node("Mul", [x, x], x.shape)
    axes = graph.integers(range(-dims, 0), "axes")
    mean = graph.node("ReduceMean", [square, axes], reduced, keepdims=1)
    root = graph.node("Sqrt", [graph.node("Add", [mean, graph.number(eps)], reduced)], reduced)
    y = graph.node("Div", [x, root], shape)
    if weight is None:
        return y
    return graph.node("Mul", [y, graph.constant(np.asarray(weight), name="weight")], shape)
