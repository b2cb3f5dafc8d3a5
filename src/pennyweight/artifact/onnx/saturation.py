"""Sixteen bits in between: which layers' products can overflow on x86 processors without VNNI, and what to do."""

import numpy as np
from torch import nn

from pennyweight.artifact.onnx.quantizers import input_codes, weight_codes
from pennyweight.artifact.onnx.session import saturates
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight, RunningInput

_MOST = (1 << 15) - 1


def saturating_layers(model: nn.Module) -> tuple[str, ...]:
    """Layers with weights so large that two products of codes could leave 16 bits.

    x86 processors with AVX2 or AVX-512 but without VNNI multiply uint8 by int8 in pairs, which they add in 16 bits,
    saturating. With activation codes up to 255 that cannot happen while two weight codes of the same sign add up to
    at most 128, as codes of 7 bits always do.

    Returns:
        Their names. Which weights make a pair is the runtime's choice, so any two of an output channel count.
    """
    found = []
    for fqn, module in model.named_modules():
        if not isinstance(module, GemmModule) or module.weight.numel() < 2:
            continue
        entering, content = module.slots.input.quantizer, module.slots.weight.quantizer
        if not isinstance(entering, IntegerInput | RunningInput) or not isinstance(content, IntegerWeight):
            continue
        codes = weight_codes(fqn, module.weight, content)
        assert codes is not None
        rows = np.sort(codes.codes.reshape(len(codes.codes), -1).astype(np.int64), axis=1)
        pairs = max(int(rows[:, -2:].sum(1).max()), -int(rows[:, :2].sum(1).min()))
        if pairs * input_codes(fqn, entering).most > _MOST:
            found.append(fqn.removeprefix("calls.").replace("/", "."))
    return tuple(found)


def saturation_warnings(model: nn.Module) -> tuple[str, ...]:
    """What to say of a model that may saturate: about this machine, or about others."""
    layers = saturating_layers(model)
    if not layers:
        return ()
    names = ", ".join(layers[:3]) + (", ..." if len(layers) > 3 else "")
    where = "this processor has" if saturates() else "x86 processors that have AVX2 or AVX-512 but"
    return (
        f"products of {len(layers)} layers ({names}) can overflow 16 bits, and saturate, on {where} no VNNI: quantize "
        f"with 7-bit weights (weights='int7', the reduce_range of other tools) for such machines",
    )
