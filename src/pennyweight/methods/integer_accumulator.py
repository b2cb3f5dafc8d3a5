"""`IntegerAccumulator`: sums of integer codes that wrap around or saturate."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pennyweight.errors import MethodError, NumericsError
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.nn.slots import integer_accumulator as content
from pennyweight.nn.slots.chain import GemmSlots
from pennyweight.nn.surgery import match
from pennyweight.numerics.integer_accumulate import IntAccumulatorSpec, Overflow


@dataclass(frozen=True, kw_only=True)
class IntegerAccumulator(Method):
    """Sum the integer codes of quantized layers in an integer accumulator of few bits.

    What: what a layer's quantizers hand over is multiplied exactly and summed from 0 in the order channel, row,
    column; beyond the range a sum wraps around, or stays at its end. Scales and biases follow in float32. Gradients are
    those of the plain product.

    When to use: after `RoundToNearest`, `Int8Training` or another method that quantizes weights and inputs, to see how
    many bits its sums need. `A2Q` makes weights that need few.

    Caveats: simulated. A sum that saturates is computed term by term, some hundred times slower than one that wraps.

    Source: the two behaviours are those of arXiv 2007.13242 (wrapping) and of saturating processors.

    Args:
        bits: of the accumulator, sign included.
        overflow: "wrap" or "saturate".
    """

    bits: int = 16
    overflow: Overflow = "wrap"

    targets: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, nn.Conv1d, nn.Conv2d)
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.accumulator", "gemm.backend"})
    paper: ClassVar[Paper] = Paper(
        "2007.13242", "WrapNet: Neural Net Inference with Ultra-Low-Resolution Arithmetic", 2020
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self._spec()

    def _spec(self) -> IntAccumulatorSpec:
        try:
            return IntAccumulatorSpec(bits=self.bits, overflow=self.overflow)
        except NumericsError as error:
            raise MethodError(str(error)) from error

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        layers = match(model, self.include, self.exclude, self.targets)
        slots: dict[str, GemmSlots] = {}
        for fqn, layer in layers.items():
            own = getattr(layer, "slots", None)
            if not isinstance(own, GemmSlots) or own.weight.quantizer is None or own.input.quantizer is None:
                raise MethodError(
                    f"layer {fqn!r} does not multiply integer codes: quantize its weights and activations first, or "
                    f"exclude=({fqn!r},)"
                )
            slots[fqn] = own
        for own in slots.values():
            own.fill("accumulator", content.IntegerAccumulator(self._spec()))
        return Applied(method=self, changed=tuple(layers))
