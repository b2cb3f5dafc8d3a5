"""What can be asked of a model whose products are summed in few bits: its accumulators, what they lose, underflow."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.calling import Batch, call
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmLinear
from pennyweight.nn.modes import in_mode
from pennyweight.nn.slots.chain import GemmSlots, Product
from pennyweight.nn.slots.low_bit_accumulator import LowBitAccumulator
from pennyweight.nn.summed_product import SummedProduct
from pennyweight.numerics.accumulation_rates import AccumulatorRates, RateCounter

_PRODUCTS = 1 << 20  # of numbers, shown of one layer and batch
_MATRICES = 32  # of one layer's groups, or heads of samples


def accumulator_slots(model: nn.Module) -> dict[str, GemmSlots | SummedProduct]:
    """What has a slot for an accumulator: layers' slots by the layers' names, and products of activations."""
    found: dict[str, GemmSlots | SummedProduct] = {}
    for name, module in model.named_modules():
        if isinstance(module, GemmLinear | GemmConv1d | GemmConv2d | GemmConv3d):
            found[name] = module.slots
        elif isinstance(module, SummedProduct):
            found[name] = module
    return found


def accumulators(model: nn.Module) -> Iterator[tuple[str, LowBitAccumulator]]:
    """The accumulators of few bits, by the names of `accumulator_slots`."""
    for name, slots in accumulator_slots(model).items():
        if isinstance(slots.accumulator, LowBitAccumulator):
            yield name, slots.accumulator


def require_accumulators(model: nn.Module) -> dict[str, LowBitAccumulator]:
    """The accumulators of few bits.

    Raises:
        MethodError: there are none.
    """
    found = dict(accumulators(model))
    if not found:
        raise MethodError("no layer of the model sums in few bits: apply LBA first")
    return found


def set_underflow_(model: nn.Module, on: bool, only: Collection[str] | None = None) -> None:
    """Switch underflow of accumulators: off in the first stage of fine-tuning, on in the second.

    Args:
        only: names of `accumulator_slots`; None for all.

    Raises:
        MethodError: no layer sums in few bits.

    Source: arXiv 2401.14110, section 3 (fine-tuning in two stages).
    """
    for name, content in require_accumulators(model).items():
        if only is None or name in only:
            content.spec = dataclasses.replace(content.spec, underflow=on)


@dataclass(frozen=True, eq=False)
class Watched:
    """Some rows of one matrix product that was computed.

    Args:
        x: (M, K).
        weight: (N, K).
    """

    x: Tensor
    weight: Tensor


class _Watch(nn.Module):
    """Stands in an accumulator's slot and shows what is multiplied."""

    def __init__(self, show: Callable[[Watched], None], then: nn.Module | None) -> None:
        super().__init__()
        self.show, self.then = show, then

    def forward(self, multiply: Product, x: Tensor, weight: Tensor) -> Tensor:
        pairs = multiply.matrices(x, weight)[0]
        pairs = pairs[:: -(-len(pairs) // _MATRICES)] if pairs else []
        for left, right in pairs:
            rows = max(1, _PRODUCTS // max(1, right.numel() * len(pairs)))
            self.show(Watched(left[:: max(1, -(-len(left) // rows))].detach(), right.detach()))
        found: Tensor = multiply(x, weight) if self.then is None else self.then(multiply, x, weight)
        return found


@torch.no_grad()
def watched_products(
    model: nn.Module, names: Sequence[str], inputs: Batch, note: Callable[[str, Watched], None]
) -> None:
    """Run one batch in evaluation mode and show the products of some slots, evenly thinned where they are many.

    Args:
        names: of `accumulator_slots`.
        inputs: one batch.
        note: called with a name and what was multiplied there.
    """
    slots = {name: found for name, found in accumulator_slots(model).items() if name in set(names)}
    before = {name: found.accumulator for name, found in slots.items()}
    try:
        for name, found in slots.items():
            found.accumulator = _Watch(lambda seen, name=name: note(name, seen), before[name])  # type: ignore[misc]
        with in_mode(model, training=False):
            call(model, inputs)
    finally:
        for name, found in slots.items():
            found.accumulator = before[name]


def accumulator_rates(model: nn.Module, inputs: Batch) -> Mapping[str, AccumulatorRates]:
    """Overflow, underflow and swamping on one batch, by the names of `accumulator_slots`.

    Products that are many are counted in part, rows evenly spaced.

    Raises:
        MethodError: no layer sums in few bits.
    """
    found = require_accumulators(model)
    counters = {name: RateCounter(content.spec) for name, content in found.items()}
    watched_products(model, list(found), inputs, lambda name, seen: counters[name].add(seen.x, seen.weight))
    return {name: counter.rates() for name, counter in counters.items()}
