"""`operation_counts`: what each layer of a model does in one inference, as records that energy models take."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.hardware.energy import LayerCounts
from pennyweight.nn.calling import Batch
from pennyweight.nn.execution import execution_of
from pennyweight.nn.recurrent import slot_recurrent_
from pennyweight.nn.slots.binary import BinaryInput, BinaryWeight
from pennyweight.nn.slots.chain import SlotChain

Bits = tuple[int, int]
"""Of a weight and of an input."""


def operation_counts(model: nn.Module, batch: Batch, bits: Mapping[str, Bits] | None = None) -> list[LayerCounts]:
    """A record for each weighted layer, the gates of recurrent cells included, for one sample.

    What happens between layers (norms, activations, the gates' functions) is left out, and so is reuse: a layer that
    runs once a step of a sequence reads its weights once a step.

    Args:
        batch: an example, best of two samples or more.
        bits: of the layers' operands by name, where the modules do not say it themselves; None asks their slots.

    Raises:
        MethodError: no weighted layer runs, or a slot's content has no number of bits.
    """
    model = copy.deepcopy(model)
    slot_recurrent_(model)
    records = []
    for layer in execution_of(model, batch, level="hooks").layers:
        weight_bits, input_bits = (
            _slot_bits(layer.fqn, model.get_submodule(layer.fqn)) if bits is None else bits[layer.fqn]
        )
        is_table = layer.kind == "Embedding"
        records.append(
            LayerCounts(
                layer=layer.fqn,
                macs=layer.macs,
                weight_bits=weight_bits,
                input_bits=input_bits,
                weights=layer.weight_numel,
                weight_reads=layer.calls * (layer.output_numel if is_table else layer.weight_numel),
                inputs=0 if is_table else layer.calls * layer.input_numel,
                outputs=layer.calls * layer.output_numel,
            )
        )
    return records


def _slot_bits(fqn: str, layer: nn.Module) -> Bits:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    own = 8 * weight.element_size()
    slots = getattr(layer, "slots", None)
    if not isinstance(slots, nn.Module):
        return own, own
    return _chain_bits(fqn, slots.weight, own), _chain_bits(fqn, slots.input, own)


def _chain_bits(fqn: str, chain: object, own: int) -> int:
    content = chain.quantizer if isinstance(chain, SlotChain) else None
    if content is None:
        return own
    if isinstance(content, BinaryWeight | BinaryInput):
        return 1
    found = getattr(getattr(content, "format", content), "bits", None)
    if not isinstance(found, int):
        raise MethodError(
            f"layer {fqn!r} holds {type(content).__name__}, which has no number of bits: of an artifact give the "
            f"artifact itself, not its model"
        )
    return found
