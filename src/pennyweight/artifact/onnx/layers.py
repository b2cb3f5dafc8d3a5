"""Weighted layers, quantized or float: linear, convolution, embedding."""

from typing import Any

from torch import Tensor, nn

from pennyweight.artifact import modules
from pennyweight.artifact.onnx.graph import Graph, Shape, Value
from pennyweight.artifact.onnx.quantizers import Deploy, InputCodes, WeightCodes, input_codes, int32_bias, weight_codes

_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # torch's words, and ONNX's


class _Operands:
    """What a weighted layer multiplies, with the codes its slots prescribe.

    Args:
        module: the layer, in float32.
        x: what enters it.
    """

    def __init__(self, graph: Graph, fqn: str, module: nn.Module, x: Value, deploy: Deploy) -> None:
        self.graph, self.deploy, self.x = graph, deploy, x
        weight, bias = module.weight, getattr(module, "bias", None)
        assert isinstance(weight, Tensor)
        self.values = weight.detach().numpy()
        self.bias_values = bias.detach().numpy() if isinstance(bias, Tensor) else None
        weight_content, input_content = modules.contents(fqn, module)
        self.codes: WeightCodes | None = None
        self.input: InputCodes | None = None
        if weight_content is not None:
            self.codes = weight_codes(fqn, weight.detach(), weight_content)
        if input_content is not None:
            self.input = input_codes(fqn, input_content)
            grouped = self.codes is not None and self.codes.group is not None
            self.x = self.input.centred(graph, x) if grouped else self.input.dequantized(graph, x)
        # The scales of a sum of products of codes are one a channel, so that a bias can be a code too.
        self.in_integers = self.input is not None and self.codes is not None and self.codes.group is None

    def weight(self, *, transposed: bool = False) -> Value:
        if self.codes is not None:
            return self.codes.dequantized(self.graph, self.deploy, transposed=transposed)
        return self.graph.constant(self.values.T if transposed else self.values, name="weight")

    def bias(self) -> Value | None:
        """The bias, as a code where the layer multiplies codes."""
        if self.bias_values is None:
            return None
        if self.in_integers:
            assert self.input is not None
            assert self.codes is not None
            return int32_bias(self.graph, self.bias_values, self.input.scale, self.codes.scale)
        return self.float_bias()

    def float_bias(self) -> Value | None:
        if self.bias_values is None:
            return None
        return self.graph.constant(self.bias_values, name="bias")


def linear(graph: Graph, fqn: str, module: nn.Module, input: Value, *, shape: Shape, deploy: Deploy) -> Value:
    """A linear layer: Gemm on a matrix, MatMul on tokens.

    With groups always MatMul, whose blocks along the sum ONNX Runtime executes on four-bit codes.
    """
    operands = _Operands(graph, fqn, module, input, deploy)
    grouped = operands.codes is not None and operands.codes.group is not None
    if len(input.shape) == 2 and not grouped:
        return graph.node("Gemm", [operands.x, operands.weight(), operands.bias()], shape, transB=1)
    y = graph.node("MatMul", [operands.x, operands.weight(transposed=True)], shape)
    if grouped and operands.input is not None:
        y = graph.node("Mul", [y, graph.number(operands.input.scale)], shape)
    bias = operands.float_bias()
    return y if bias is None else graph.node("Add", [y, bias], shape)


def convolution(graph: Graph, fqn: str, module: Any, input: Value, *, shape: Shape, deploy: Deploy) -> Value:
    """A convolution of any rank; zeros are padded after quantization, where zero is a code of its own."""
    pads = _pads(module)
    if module.padding_mode == "zeros":
        input, pads = _absorbed(graph, input, pads)
    operands = _Operands(graph, fqn, module, input, deploy)
    entering = operands.x
    if module.padding_mode != "zeros":
        entering, pads = _padded(graph, entering, pads, module.padding_mode), [0] * len(pads)
    inputs = [entering, operands.weight(), operands.bias()]
    return graph.node(
        "Conv",
        inputs if inputs[-1] is not None else inputs[:2],
        shape,
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        dilations=list(module.dilation),
        group=module.groups,
        pads=pads,
    )


def embedding(graph: Graph, fqn: str, module: nn.Module, input: Value, *, shape: Shape, deploy: Deploy) -> Value:
    """Rows of a table. Whole channels of codes are looked up as codes; groups are dequantized before."""
    operands = _Operands(graph, fqn, module, input, deploy)
    codes = operands.codes
    if codes is None or codes.group is not None or codes.zero_point is not None or deploy == "size":
        return graph.node("Gather", [operands.weight(), input], shape, axis=0)
    rows = graph.node("Gather", [graph.constant(codes.codes, name="weight"), input], shape, axis=0)
    values = graph.node("Cast", [rows], shape, to="float32")
    scale = graph.constant(codes.scale, name="weight_scale")
    if codes.scale.ndim:
        column = graph.constant(codes.scale[:, None], name="weight_scale")
        scale = graph.node("Gather", [column, input], (*input.shape, 1), axis=0)
    return graph.node("Mul", [values, scale], shape)


def _pads(module: Any) -> list[int]:
    """ONNX's order: all beginnings, then all ends."""
    if isinstance(module.padding, str):
        pairs = module._reversed_padding_repeated_twice  # (begin, end) of the last dimension first
        return [*pairs[0::2][::-1], *pairs[1::2][::-1]]
    return [*module.padding, *module.padding]


def _absorbed(graph: Graph, x: Value, pads: list[int]) -> tuple[Value, list[int]]:
    """What a layer of zeros was put around, and the convolution's pads with these: a runtime would not melt the two."""
    node, dims = graph.maker(x), len(pads) // 2
    if node is None or node.op != "Pad" or node.attributes["mode"] != "constant":
        return x, pads
    source, sizes, value = node.inputs
    outer = graph.initializers[sizes].array.reshape(2, -1)
    if graph.initializers[value].array != 0 or outer[:, :-dims].any() or (outer < 0).any():
        return x, pads
    inner = [int(inside + outside) for inside, outside in zip(pads, outer[:, -dims:].reshape(-1), strict=True)]
    shape = [size if size is None else int(size - sum(outer[:, axis])) for axis, size in enumerate(x.shape)]
    return Value(source, tuple(shape)), inner


def _padded(graph: Graph, x: Value, pads: list[int], mode: str) -> Value:
    dims = len(pads) // 2
    shape = list(x.shape)
    for axis in range(dims):
        size = shape[2 + axis]
        assert size is not None
        shape[2 + axis] = size + pads[axis] + pads[dims + axis]
    order = graph.integers([0, 0, *pads[:dims], 0, 0, *pads[dims:]], "pads")
    return graph.node("Pad", [x, order], shape, mode=_PAD_MODES[mode])
