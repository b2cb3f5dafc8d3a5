"""The artifact's own traced program, step by step as an ONNX graph: two tables, one of modules and one of functions."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pennyweight.artifact import program
from pennyweight.artifact.modules import kind_of
from pennyweight.artifact.onnx import activations, attention, layers, movement, pooling
from pennyweight.artifact.onnx.graph import Graph, Shape, Value
from pennyweight.artifact.onnx.quantizers import Deploy, input_codes
from pennyweight.artifact.onnx.shapes import SeenTensor, observe
from pennyweight.errors import ArtifactError
from pennyweight.nn.slots.integer import IntegerInput

FUNCTIONS: dict[str, Callable[..., Value]] = {
    "add": activations.binary("Add"),
    "sub": activations.binary("Sub"),
    "mul": activations.binary("Mul"),
    "truediv": activations.binary("Div"),
    "neg": activations.unary("Neg"),
    "getitem": movement.getitem,
    "torch.add": activations.binary("Add"),
    "torch.cat": movement.cat,
    "torch.flatten": movement.reshaped,
    "torch.matmul": activations.binary("MatMul"),
    "torch.mean": activations.reduce("ReduceMean"),
    "torch.relu": activations.unary("Relu"),
    "torch.sigmoid": activations.unary("Sigmoid"),
    "torch.tanh": activations.unary("Tanh"),
    "F.adaptive_avg_pool2d": pooling.adaptive_avg_pool,
    "F.avg_pool2d": pooling.avg_pool,
    "F.gelu": activations.gelu,
    "F.hardtanh": activations.hardtanh,
    "F.hardswish": activations.unary("HardSwish"),
    "F.interpolate": pooling.interpolate,
    "F.leaky_relu": activations.leaky_relu,
    "F.log_softmax": activations.log_softmax,
    "F.max_pool2d": pooling.max_pool,
    "F.pad": pooling.pad,
    "F.relu": activations.unary("Relu"),
    "F.relu6": activations.relu6,
    "F.scaled_dot_product_attention": attention.attention,
    "F.silu": activations.silu,
    "F.softmax": activations.softmax,
}
METHODS: dict[str, Callable[..., Value]] = {
    "contiguous": movement.same,
    "flatten": movement.reshaped,
    "mean": activations.reduce("ReduceMean"),
    "permute": movement.permute,
    "relu": activations.unary("Relu"),
    "reshape": movement.reshaped,
    "sigmoid": activations.unary("Sigmoid"),
    "softmax": activations.softmax,
    "squeeze": movement.reshaped,
    "sum": activations.reduce("ReduceSum"),
    "tanh": activations.unary("Tanh"),
    "transpose": movement.transpose,
    "unflatten": movement.reshaped,
    "unsqueeze": movement.reshaped,
    "view": movement.reshaped,
}
# Modules whose settings are their function's arguments: the function, and the settings in its order.
_AS_FUNCTION: dict[str, tuple[Callable[..., Value], tuple[str, ...]]] = {
    "adaptive_avg_pool1d": (pooling.adaptive_avg_pool, ()),
    "adaptive_avg_pool2d": (pooling.adaptive_avg_pool, ()),
    "avg_pool2d": (
        pooling.avg_pool,
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    "dropout": (movement.same, ()),
    "flatten": (movement.reshaped, ()),
    "gelu": (activations.gelu, ("approximate",)),
    "hardswish": (activations.unary("HardSwish"), ()),
    "hardtanh": (activations.hardtanh, ("min_val", "max_val")),
    "identity": (movement.same, ()),
    "leaky_relu": (activations.leaky_relu, ("negative_slope",)),
    "max_pool1d": (pooling.max_pool, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    "max_pool2d": (pooling.max_pool, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    "relu": (activations.unary("Relu"), ()),
    "relu6": (activations.hardtanh, ("min_val", "max_val")),
    "sigmoid": (activations.unary("Sigmoid"), ()),
    "silu": (activations.silu, ()),
    "softmax": (activations.softmax, ("dim",)),
    "tanh": (activations.unary("Tanh"), ()),
}
_LAYERS = {
    "linear": layers.linear,
    "conv1d": layers.convolution,
    "conv2d": layers.convolution,
    "conv3d": layers.convolution,
    "embedding": layers.embedding,
}


def translate(
    input_name: str,
    steps: list[program.Step],
    output: Any,
    modules: Mapping[str, nn.Module],
    example: Tensor,
    deploy: Deploy,
) -> tuple[Graph, Value, Value]:
    """A program as an ONNX graph.

    Args:
        modules: the module of each target, in float32 and evaluation mode.
        example: a batch; all sizes but the batch are fixed to its own.

    Returns:
        The graph, its input and its output.

    Raises:
        ArtifactError: naming the step that ONNX has no operator for.
    """
    seen = observe(input_name, steps, output, modules, example)
    graph = Graph()
    start = seen[input_name]
    entering = Value(graph.fresh("input"), start.shape)
    graph.fresh("output")
    environment: dict[str, Any] = {input_name: entering}
    for step in steps:
        found = seen[step["name"]]
        if not isinstance(found, SeenTensor):  # a size, or a tuple of sizes: known already
            environment[step["name"]] = found
            continue
        graph.scope = step["target"] if step["op"] == "module" else step["name"]
        args, kwargs = (program.decode(step[part], environment) for part in ("args", "kwargs"))
        environment[step["name"]] = _translate(graph, step, modules, found.shape, deploy, args, kwargs)
    leaving = program.decode(output, environment)
    if not isinstance(leaving, Value):
        raise ArtifactError(
            f"the model returns a {type(leaving).__name__}: an .onnx file is written of a model that returns one "
            f"tensor: wrap it in a module that returns the one that is wanted"
        )
    graph.drop_unread(leaving)
    return graph, entering, leaving


def _translate(
    graph: Graph,
    step: program.Step,
    modules: Mapping[str, nn.Module],
    shape: Shape,
    deploy: Deploy,
    args: Any,
    kwargs: Any,
) -> Value:
    try:
        if step["op"] == "module":
            return _module(graph, step["target"], modules[step["target"]], shape, deploy, *args, **kwargs)
        table = FUNCTIONS if step["op"] == "function" else METHODS
        return table[step["target"]](graph, shape, *args, **kwargs)
    except (ArtifactError, TypeError, AssertionError, AttributeError) as error:
        raise ArtifactError(f"{step['target']!r} (step {step['name']!r}) cannot be written as ONNX: {error}") from error


def _module(graph: Graph, fqn: str, module: Any, shape: Shape, deploy: Deploy, *args: Any, **kwargs: Any) -> Value:
    if isinstance(module, IntegerInput):  # of a value between layers, see `residuals`
        return input_codes(fqn, module).dequantized(graph, *args)
    kind = kind_of(fqn, module)
    if kind in _LAYERS:
        return _LAYERS[kind](graph, fqn, module, *args, shape=shape, deploy=deploy, **kwargs)
    if kind in _AS_FUNCTION:
        emit, names = _AS_FUNCTION[kind]
        return emit(graph, shape, *args, **kwargs, **{name: getattr(module, name) for name in names})
    if kind in ("zero_pad1d", "zero_pad2d"):
        return pooling.pad(graph, shape, args[0], module.padding)
    if kind.startswith("batch_norm"):
        return _batch_norm(graph, module, shape, *args, **kwargs)
    if kind == "group_norm":
        return _group_norm(graph, module, shape, *args, **kwargs)
    if kind == "layer_norm":
        return _layer_norm(graph, module, shape, *args, **kwargs)
    if kind == "rms_norm":
        eps = torch.finfo(torch.float32).eps if module.eps is None else module.eps
        weight = None if module.weight is None else module.weight.detach().numpy()
        return activations.rms_norm(graph, shape, *args, dims=len(module.normalized_shape), eps=eps, weight=weight)
    if kind == "learned_positions":
        return attention.learned_positions(graph, module, shape, *args, **kwargs)
    if kind == "rotary_positions":
        return attention.rotary_positions(graph, module, shape, *args, **kwargs)
    if kind == "matmul_product":
        return attention.matmul_product(graph, fqn, module, shape, *args, **kwargs)
    if kind == "attention_product":
        return attention.attention(graph, shape, *args, **kwargs, product=module, fqn=fqn)
    raise ArtifactError(
        f"a {type(module).__name__} has no operators in ONNX: pennyweight.export writes it into a packed artifact"
    )


def _batch_norm(graph: Graph, module: Any, shape: Shape, x: Value) -> Value:
    mean, variance = module.running_mean, module.running_var
    weight = torch.ones_like(mean) if module.weight is None else module.weight.detach()
    bias = torch.zeros_like(mean) if module.bias is None else module.bias.detach()
    stored = {"scale": weight, "bias": bias, "mean": mean, "variance": variance}
    inputs = [graph.constant(tensor.numpy(), name=name) for name, tensor in stored.items()]
    return graph.node("BatchNormalization", [x, *inputs], shape, epsilon=float(module.eps))


def _group_norm(graph: Graph, module: Any, shape: Shape, x: Value) -> Value:
    """Groups as the channels of an instance norm, which runtimes of all opsets have."""
    ones, groups = np.ones(module.num_groups, np.float32), (None, module.num_groups, None)
    parts = graph.node("Reshape", [x, graph.integers([0, module.num_groups, -1], "groups")], groups)
    inputs = [parts, graph.constant(ones, name="scale"), graph.constant(0 * ones, name="shift")]
    parts = graph.node("InstanceNormalization", inputs, groups, epsilon=float(module.eps))
    y = graph.node("Reshape", [parts, graph.integers([0, *x.shape[1:]], "sizes")], shape)  # type: ignore[list-item]
    if module.affine:
        sides = (-1, *[1] * (len(shape) - 2))
        y = graph.node("Mul", [y, graph.constant(module.weight.detach().reshape(sides).numpy(), name="weight")], shape)
        y = graph.node("Add", [y, graph.constant(module.bias.detach().reshape(sides).numpy(), name="bias")], shape)
    return y


def _layer_norm(graph: Graph, module: Any, shape: Shape, x: Value) -> Value:
    weight = torch.ones(module.normalized_shape) if module.weight is None else module.weight.detach()
    inputs = [x, graph.constant(weight.numpy(), name="weight")]
    if module.bias is not None:
        inputs.append(graph.constant(module.bias.detach().numpy(), name="bias"))
    axis = -len(module.normalized_shape)
    return graph.node("LayerNormalization", inputs, shape, axis=axis, epsilon=float(module.eps))
