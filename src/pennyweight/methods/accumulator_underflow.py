"""`AccumulatorUnderflow`: the second stage of fine-tuning a net that sums in few bits."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.reconstruction.gathering import gathered
from pennyweight.nn.accumulators import accumulator_rates, accumulators, set_underflow_
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmLinear
from pennyweight.nn.summed_product import SummedProduct
from pennyweight.nn.surgery import match


@dataclass(frozen=True, kw_only=True)
class AccumulatorUnderflow(Method):
    """Switch underflow on in accumulators that `LBA(underflow=False)` gave a net.

    What: from now on products and sums below the smallest value of the accumulator's format become 0. Nothing else of
    the layers changes.

    When to use: between the two stages of fine-tuning. Weights whose products flush to 0 get gradients that say
    nothing, so a first, longer stage trains without underflow; the second, short and with a tenth of the rate, trains
    with the format as the hardware has it.

    Measured here: see `docs/lba.md`.

    Caveats: before it is applied the accumulator is simulated with exponents that no hardware of so few bits has.

    Source: arXiv 2401.14110, section 3.

    Args:
        rates: also count on calibration data what each accumulator loses from now on, as a table of the report.
        max_samples: calibration samples read at most.
    """

    rates: bool = False
    max_samples: int = 16

    targets: ClassVar[tuple[type[nn.Module], ...]] = (GemmLinear, GemmConv1d, GemmConv2d, SummedProduct)
    touches: ClassVar[frozenset[str]] = frozenset({"accumulator.underflow"})
    paper: ClassVar[Paper] = Paper("2401.14110", "Towards Cheaper Inference with Lower Bit-Width Accumulators", 2024)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.max_samples < 1:
            raise MethodError(f"max_samples={self.max_samples}: at least 1 sample is measured")

    def needs_data(self) -> bool:
        """Where losses are counted."""
        return self.rates

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The accumulators of few bits among the matching modules."""
        matched = match(model, self.include, self.exclude, self.targets)
        chosen = [fqn for fqn, _ in accumulators(model) if fqn in matched]
        if not chosen:
            raise MethodError("no matching layer sums in few bits: apply LBA(underflow=False) first")
        return dict.fromkeys(chosen, self.touches)

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        chosen = tuple(self.claims(model))
        set_underflow_(model, True, only=chosen)
        rows: list[dict[str, Any]] = []
        if self.rates and not context.rehearsal:
            assert context.data is not None
            found = accumulator_rates(model, gathered(context.data, self.max_samples))
            rows = [{"accumulator": fqn, **dataclasses.asdict(found[fqn])} for fqn in chosen]
        return Applied(method=self, changed=chosen, tables={"losses of accumulators": rows} if rows else {})
