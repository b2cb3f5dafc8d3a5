"""What can be asked of a model whose layers sum in few bits: its layers, what they lose, and underflow on or off."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.calling import Batch, call
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.modes import in_mode
from pennyweight.nn.slots.chain import Product
from pennyweight.nn.slots.low_bit_accumulator import LowBitAccumulator
from pennyweight.numerics.accumulation_rates import AccumulatorRates, accumulation_rates

_PRODUCTS = 1 << 22


@dataclass(frozen=True, eq=False)
class Watched:
    """One matrix product that a layer computes.

    Args:
        x: (M, K), some rows of it.
        weight: (N, K).
    """

    x: Tensor
    weight: Tensor


class _Watch(nn.Module):
    """Stands in a layer's accumulator slot and shows what it multiplies."""

    def __init__(self, show: Callable[[Watched], None], then: nn.Module | None) -> None:
        super().__init__()
        self.show, self.then = show, then

    def forward(self, multiply: Product, x: Tensor, weight: Tensor) -> Tensor:
        for left, right in multiply.matrices(x, weight)[0]:
            rows = max(1, _PRODUCTS // max(1, right.numel()))
            stride = -(-len(left) // rows)
            self.show(Watched(left[::stride].detach(), right.detach()))
        found: Tensor = multiply(x, weight) if self.then is None else self.then(multiply, x, weight)
        return found


@torch.no_grad()
def watched_products(
    model: nn.Module, names: Sequence[str], inputs: Batch, note: Callable[[str, Watched], None]
) -> None:
    """Run one batch in evaluation mode and show every product of the named layers, evenly thinned where it is large."""
    layers = {name: model.get_submodule(name) for name in names}
    before: dict[str, nn.Module | None] = {}
    for name, layer in layers.items():
        assert isinstance(layer, GemmModule)
        before[name] = layer.slots.accumulator
        layer.slots.accumulator = _Watch(lambda seen, name=name: note(name, seen), before[name])  # type: ignore[misc]
    try:
        with in_mode(model, training=False):
            call(model, inputs)
    finally:
        for name, layer in layers.items():
            assert isinstance(layer, GemmModule)
            layer.slots.accumulator = before[name]


def accumulators(model: nn.Module) -> Iterator[tuple[str, LowBitAccumulator]]:
    """The layers that sum in few bits, by name."""
    for name, module in model.named_modules():
        if isinstance(module, GemmModule) and isinstance(module.slots.accumulator, LowBitAccumulator):
            yield name, module.slots.accumulator


def set_underflow_(model: nn.Module, on: bool) -> None:
    """Switch underflow of all accumulators: off in the first stage of fine-tuning, on in the second.

    Raises:
        MethodError: no layer sums in few bits.

    Source: arXiv 2401.14110, section 3 (fine-tuning in two stages).
    """
    found = [content for _, content in accumulators(model)]
    if not found:
        raise MethodError("no layer sums in few bits: apply LBA first")
    for content in found:
        content.spec = dataclasses.replace(content.spec, underflow=on)


def accumulator_rates(model: nn.Module, inputs: Batch) -> Mapping[str, AccumulatorRates]:
    """Overflow, underflow and swamping of each layer on one batch; of a grouped convolution, its last group's.

    Raises:
        MethodError: no layer sums in few bits.
    """
    specs = {name: content.spec for name, content in accumulators(model)}
    if not specs:
        raise MethodError("no layer sums in few bits: apply LBA first")
    found: dict[str, AccumulatorRates] = {}

    def note(name: str, seen: Watched) -> None:
        found[name] = accumulation_rates(seen.x, seen.weight, specs[name])

    watched_products(model, list(specs), inputs, note)
    return found
