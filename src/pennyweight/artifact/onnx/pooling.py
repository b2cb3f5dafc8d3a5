"""Pooling, padding and resizing in ONNX's operators."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pennyweight.artifact.onnx.graph import Graph, Shape, Value
from pennyweight.errors import ArtifactError

Sizes = int | Sequence[int]


def _repeat(value: Sizes, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value)


def max_pool(
    graph: Graph,
    shape: Shape,
    x: Value,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """Largest value of each window."""
    if return_indices:
        raise ArtifactError("a max pool with return_indices=True cannot be exported: only its values can")
    dims = len(x.shape) - 2
    return graph.node(
        "MaxPool",
        [x],
        shape,
        kernel_shape=_repeat(kernel_size, dims),
        strides=_repeat(kernel_size if stride is None else stride, dims),
        pads=_repeat(padding, dims) * 2,
        dilations=_repeat(dilation, dims),
        ceil_mode=int(ceil_mode),
    )


def avg_pool(
    graph: Graph,
    shape: Shape,
    x: Value,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """Mean of each window."""
    if divisor_override is not None:
        raise ArtifactError(f"an average pool with divisor_override={divisor_override} has no operator in ONNX")
    dims = len(x.shape) - 2
    return graph.node(
        "AveragePool",
        [x],
        shape,
        kernel_shape=_repeat(kernel_size, dims),
        strides=_repeat(kernel_size if stride is None else stride, dims),
        pads=_repeat(padding, dims) * 2,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad),
    )


def adaptive_avg_pool(graph: Graph, shape: Shape, x: Value, output_size: Any = None) -> Value:
    """Mean of equal windows, of which there are as many as asked for."""
    before, after = x.shape[2:], shape[2:]
    if all(size == 1 for size in after):
        return graph.node("GlobalAveragePool", [x], shape)
    windows = []
    for size, wanted in zip(before, after, strict=True):
        if size is None or wanted is None or size % wanted:
            raise ArtifactError(
                f"an adaptive average pool from {before} to {after} has windows of several sizes, which ONNX has no "
                f"operator for: choose an output size that divides the input's, or pad the input"
            )
        windows.append(size // wanted)
    return graph.node("AveragePool", [x], shape, kernel_shape=windows, strides=windows)


def pad(
    graph: Graph, shape: Shape, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    """torch's pairs count from the last dimension; a negative one crops."""
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    untouched = len(x.shape) - len(pad) // 2
    begins = [0] * untouched + list(pad[0::2])[::-1]
    ends = [0] * untouched + list(pad[1::2])[::-1]
    inputs = [x, graph.integers([*begins, *ends], "pads")]
    if mode == "constant":
        inputs.append(graph.number(0.0 if value is None else value))
    return graph.node("Pad", inputs, shape, mode=modes[mode])


def interpolate(
    graph: Graph,
    shape: Shape,
    x: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    """Resize to the sizes torch gave, by nearest neighbours or linearly."""
    linear = {"linear", "bilinear", "trilinear"}
    if mode not in {"nearest", *linear} or antialias:
        raise ArtifactError(
            f"interpolate with mode={mode!r}, antialias={antialias} cannot be exported: use 'nearest' or 'bilinear'"
        )
    axes = list(range(2, len(shape)))
    if scale_factor is not None and not recompute_scale_factor:  # torch then samples by the factor, not by the sizes
        factors = list(scale_factor) if isinstance(scale_factor, tuple | list) else [scale_factor] * len(axes)
        sizes = [None, graph.constant(np.array(factors, np.float32), name="scales")]
    else:
        sizes = [None, None, graph.integers([size for size in shape[2:] if size is not None], "sizes")]
    coordinates = "asymmetric" if mode == "nearest" else "align_corners" if align_corners else "half_pixel"
    return graph.node(
        "Resize",
        [x, *sizes],
        shape,
        axes=axes,
        mode="nearest" if mode == "nearest" else "linear",
        coordinate_transformation_mode=coordinates,
        nearest_mode="floor" if mode == "nearest" else None,
    )
