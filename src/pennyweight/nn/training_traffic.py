"""`training_traffic`: bytes a layer keeps for its backward pass and moves through memory in one training step.

A model of an engine that stores each tensor once in the format its slot names, and reads and writes it whole; nothing
is measured here, and a simulation in float32 saves none of it.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.nn.gemm import WEIGHTED, GemmModule, as_gemm
from pennyweight.nn.quantized_batchnorm import _QuantizedBatchNorm
from pennyweight.nn.slots.chain import SlotChain
from pennyweight.nn.slots.measured import MeasuredGradient
from pennyweight.nn.surgery import match

_FLOAT_BITS = 32
_NORM = nn.modules.batchnorm._BatchNorm
Row = dict[str, float | int | str]


def training_traffic(model: nn.Module, batch: Tensor) -> list[Row]:
    """A row for each weighted layer and batch norm: bytes saved and bytes moved in a step, and the same in float32.

    The forward product reads x and W and writes y; the product to the input reads g and W and writes dx; the product to
    the weight reads g and x and writes dW. y, dx and dW are float32. With two formats of g both copies are written
    once. A norm reads x twice forward, for its statistics and to normalize, and writes y; backward it reads g and x
    twice and writes dx; its few parameters are left out.

    Args:
        batch: inputs of the model; only its shape matters.

    Returns:
        layer; saved_bytes and saved_bytes_float32 of the input kept for the backward pass; moved_bytes and
        moved_bytes_float32; all modelled.
    """
    model = copy.deepcopy(model).eval()
    layers = match(model, targets=(*WEIGHTED, _NORM))
    sizes: dict[str, tuple[int, int]] = {}

    def watch(fqn: str) -> Any:
        def count(_layer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            sizes[fqn] = (args[0].numel(), y.numel())

        return count

    handles = [layer.register_forward_hook(watch(fqn)) for fqn, layer in layers.items()]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return [
        _norm_row(fqn, layer, sizes[fqn][0]) if isinstance(layer, _NORM) else _row(fqn, as_gemm(layer), *sizes[fqn])
        for fqn, layer in layers.items()
        if fqn in sizes
    ]


def _norm_row(fqn: str, norm: nn.Module, values: int) -> Row:
    bits = gradient_bits = _FLOAT_BITS
    if isinstance(norm, _QuantizedBatchNorm):
        gradient = norm.quantizers["gradient"]
        assert isinstance(gradient, MeasuredGradient)
        bits, gradient_bits = norm.bits, gradient.format.bits
    moved = 2 * bits + _FLOAT_BITS + 2 * (gradient_bits + bits) + _FLOAT_BITS
    return {
        "layer": fqn,
        "saved_bytes": values * bits // 8,
        "saved_bytes_float32": 4 * values,
        "moved_bytes": values * moved // 8,
        "moved_bytes_float32": 4 * 8 * values,
    }


def _row(fqn: str, layer: GemmModule, inputs: int, outputs: int) -> Row:
    bits = {
        slot: _bits(getattr(layer.slots, slot))
        for slot in ("weight", "input", "grad_output_input", "grad_output_update")
    }
    weights = layer.weight.numel()
    copies = {bits["grad_output_input"], bits["grad_output_update"]} - {_FLOAT_BITS}
    moved = (
        inputs * bits["input"] + weights * bits["weight"] + outputs * _FLOAT_BITS
        + outputs * bits["grad_output_input"] + weights * bits["weight"] + inputs * _FLOAT_BITS
        + outputs * bits["grad_output_update"] + inputs * bits["input"] + weights * _FLOAT_BITS
        + outputs * sum(copies)
    )  # fmt: skip
    return {
        "layer": fqn,
        "saved_bytes": inputs * bits["input"] // 8,
        "saved_bytes_float32": inputs * 4,
        "moved_bytes": moved // 8,
        "moved_bytes_float32": 4 * (3 * inputs + 3 * weights + 3 * outputs),
    }


def _bits(chain: SlotChain) -> int:
    content = chain.quantizer
    if content is None:
        return _FLOAT_BITS
    format = getattr(content, "format", None)
    return 1 if format is None else int(format.bits)
