"""Products of activations and what surrounds them: matmul, attention in its steps, positions."""

from typing import Any

import numpy as np
import torch
from torch import nn

from pennyweight.artifact.onnx.graph import Graph, Shape, Value
from pennyweight.artifact.onnx.quantizers import input_codes
from pennyweight.errors import ArtifactError
from pennyweight.nn.positions import LearnedPositions, RotaryPositions
from pennyweight.nn.products import AttentionProduct, MatmulProduct
from pennyweight.nn.slots.chain import SlotChain


def _through(graph: Graph, fqn: str, chain: SlotChain | None, x: Value) -> Value:
    """An operand through its slot: the values its codes stand for."""
    if chain is None or chain.quantizer is None:
        return x
    return input_codes(fqn, chain.quantizer).dequantized(graph, x)


def matmul_product(graph: Graph, fqn: str, module: MatmulProduct, shape: Shape, left: Value, right: Value) -> Value:
    """A product of two activations."""
    operands = [_through(graph, fqn, module.left, left), _through(graph, fqn, module.right, right)]
    return graph.node("MatMul", operands, shape)


def attention(
    graph: Graph,
    shape: Shape,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    product: AttentionProduct | None = None,
    fqn: str = "",
) -> Value:
    """`scaled_dot_product_attention` in its steps, each product's operands through their slots where it has some.

    Raises:
        ArtifactError: it takes a mask.
    """
    if attn_mask is not None:
        raise ArtifactError("attention with attn_mask cannot be exported: use is_causal, or none")
    chains = dict.fromkeys(("query", "key", "value", "probability"))
    if product is not None:
        chains |= {name: getattr(product, name) for name in chains}
    width = query.shape[-1]
    assert width is not None
    query, key, value = (
        _through(graph, fqn, chains[name], x) for name, x in (("query", query), ("key", key), ("value", value))
    )
    if enable_gqa:
        key, value = _repeated(graph, key, query), _repeated(graph, value, query)
    order = list(range(len(key.shape)))
    turned = graph.transpose(key, [*order[:-2], order[-1], order[-2]])
    scores = graph.node("MatMul", [query, turned], (*query.shape[:-1], key.shape[-2]))
    factor = graph.number(width**-0.5 if scale is None else scale)
    scores = graph.node("Mul", [scores, factor], scores.shape)
    if is_causal:
        rows, columns = scores.shape[-2:]
        assert rows is not None
        assert columns is not None
        mask = np.triu(np.full((rows, columns), -np.inf, np.float32), 1)
        scores = graph.node("Add", [scores, graph.constant(mask, name="causal_mask")], scores.shape)
    probability = graph.node("Softmax", [scores], scores.shape, axis=-1)
    return graph.node("MatMul", [_through(graph, fqn, chains["probability"], probability), value], shape)


def _repeated(graph: Graph, x: Value, query: Value) -> Value:
    """(batch, kv_heads, n, d) -> (batch, heads, n, d), each head repeated for the query heads that share it."""
    heads, kv_heads = query.shape[-3], x.shape[-3]
    assert heads is not None
    assert kv_heads is not None
    if heads == kv_heads:
        return x
    owners = graph.integers([head // (heads // kv_heads) for head in range(heads)], "owners")
    return graph.node("Gather", [x, owners], (*x.shape[:-3], heads, *x.shape[-2:]), axis=len(x.shape) - 3)


def learned_positions(graph: Graph, module: LearnedPositions, shape: Shape, x: Value, start: int = 0) -> Value:
    """One vector a position is added."""
    length = x.shape[-2]
    assert length is not None
    rows = module.weight.detach().numpy()[start : start + length]
    return graph.node("Add", [x, graph.constant(rows, name="positions")], shape)


def rotary_positions(graph: Graph, module: RotaryPositions, shape: Shape, x: Value, start: int = 0) -> Value:
    """Pairs of neighbouring values turned: x * cos + (pairs exchanged, one sign changed) * sin."""
    length, width = x.shape[-2:]
    assert length is not None
    assert width is not None
    cos, sin = _angles(module, start, length)
    exchanged = graph.integers([place ^ 1 for place in range(width)], "pairs")
    other = graph.node("Gather", [x, exchanged], x.shape, axis=len(x.shape) - 1)
    kept = graph.node("Mul", [x, graph.constant(cos, name="cos")], x.shape)
    turned = graph.node("Mul", [other, graph.constant(sin, name="sin")], x.shape)
    return graph.node("Add", [kept, turned], shape)


def _angles(module: nn.Module, start: int, length: int) -> tuple[Any, Any]:
    """(length, width) factors of a value and of its neighbour, read off the module by turning the two unit vectors."""
    assert isinstance(module, RotaryPositions)
    pair = torch.eye(2).repeat(1, module.head_dim // 2)[:, None].expand(-1, length, -1)
    with torch.no_grad():
        from_even, from_odd = module(pair, start).numpy()
    even = np.arange(module.head_dim) % 2 == 0
    return np.where(even, from_even, from_odd), np.where(even, from_odd, from_even)
