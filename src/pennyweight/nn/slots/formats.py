"""Which integer formats a model's slots hold, as plain values: the part of its state that is no tensor."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pennyweight.nn.slots.chain import SlotChain
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.numerics.affine import AffineParameters, parse_granularity
from pennyweight.numerics.formats import IntFormat, parse_format

_KINDS: Mapping[str, type[IntegerWeight] | type[IntegerInput]] = {"weight": IntegerWeight, "input": IntegerInput}


def integer_formats(model: nn.Module) -> dict[str, dict[str, Any]]:
    """By name of the slot: kind, format, granularity and shape of the scales of its affine codes; {} for no codes."""
    found: dict[str, dict[str, Any]] = {}
    for name, chain in model.named_modules():
        if isinstance(chain, SlotChain):
            content = chain.quantizer
            kind = next((kind for kind, type_ in _KINDS.items() if type(content) is type_), None)
            found[name] = {}
            if kind is not None:
                assert isinstance(content, IntegerWeight | IntegerInput)
                found[name] = {
                    "kind": kind,
                    "format": str(content.format),
                    "granularity": str(content.granularity),
                    "shape": list(content.scale.shape),
                }
    return found


def set_integer_formats_(model: nn.Module, formats: Mapping[str, Mapping[str, Any]]) -> None:
    """Give slots codes of the formats that `integer_formats` found; a state dict fills them thereafter.

    Contents of other kinds stay as they are; a slot that had no affine codes loses those it has.
    """
    for name, facts in formats.items():
        chain = model.get_submodule(name)
        assert isinstance(chain, SlotChain)
        if isinstance(chain.quantizer, IntegerWeight | IntegerInput):
            chain.pop("quantize")
        if facts:
            device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
            chain.fill(_KINDS[facts["kind"]](_blank(facts, device)), name)


def _blank(facts: Mapping[str, Any], device: torch.device) -> AffineParameters:
    format = parse_format(facts["format"])
    assert isinstance(format, IntFormat)
    scale = torch.ones(facts["shape"], device=device)
    granularity = parse_granularity(facts["granularity"])
    return AffineParameters(scale=scale, zero_point=torch.zeros_like(scale), format=format, granularity=granularity)
