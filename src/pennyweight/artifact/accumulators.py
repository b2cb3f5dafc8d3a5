"""How an accumulator is written into an artifact: its kind and its settings, as plain data."""

import dataclasses
from typing import Any

from torch import nn

from pennyweight.errors import ArtifactError
from pennyweight.nn.slots.integer_accumulator import IntegerAccumulator
from pennyweight.nn.slots.low_bit_accumulator import LowBitAccumulator
from pennyweight.numerics.accumulate import AccumulatorSpec
from pennyweight.numerics.integer_accumulate import IntAccumulatorSpec


def encode_accumulator(content: nn.Module) -> dict[str, Any]:
    """As plain data; estimators of gradients play no part in inference.

    Raises:
        ArtifactError: something else fills the slot.
    """
    if isinstance(content, LowBitAccumulator):
        return {"kind": "float", **dataclasses.asdict(content.spec)}
    if isinstance(content, IntegerAccumulator):
        return {"kind": "integer", **dataclasses.asdict(content.spec)}
    raise ArtifactError(f"sums in a {type(content).__name__} cannot be exported")


def decode_accumulator(spec: dict[str, Any]) -> LowBitAccumulator | IntegerAccumulator:
    """The content an `encode_accumulator` wrote; a wrong kind or setting raises KeyError, TypeError or ValueError."""
    settings = {name: value for name, value in spec.items() if name != "kind"}
    if spec["kind"] == "integer":
        return IntegerAccumulator(IntAccumulatorSpec(**settings))
    if spec["kind"] == "float":
        return LowBitAccumulator(AccumulatorSpec(**settings))
    raise KeyError(f"accumulator of kind {spec['kind']!r}")
