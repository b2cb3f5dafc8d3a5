"""What an accumulator of few bits loses: overflow, underflow and swamping, counted."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.numerics.accumulate import (
    AccumulatorSpec,
    Addition,
    additions,
    check_operands,
    rounded_products,
    row_blocks,
)


@dataclass(frozen=True, kw_only=True)
class AccumulatorRates:
    """What was lost, as shares.

    Args:
        product_overflow: of products, beyond the largest.
        product_underflow: of products that are not 0, below the smallest.
        overflow: of additions, beyond the largest.
        underflow: of additions whose exact sum is not 0, below the smallest.
        swamping: of additions of something to something, after which the sum is what it was.
    """

    product_overflow: float
    product_underflow: float
    overflow: float
    underflow: float
    swamping: float


class RateCounter:
    """Counts over any number of products, such as the groups of a convolution or the heads of an attention."""

    def __init__(self, spec: AccumulatorSpec) -> None:
        self._spec = spec
        self._count: Counter[str] = Counter()

    @torch.no_grad()
    def add(self, x: Tensor, weight: Tensor) -> None:
        """Count all products and additions of x @ weight.T but those of padding."""
        check_operands(x, weight)
        for rows in row_blocks(x, weight) if x.shape[1] else []:
            exact, products = rounded_products(x[rows], weight, self._spec)
            size = exact.abs()
            found = {
                "product_over": size > self._spec.largest_product,
                "nonzero": size > 0,
                "product_under": (size > 0) & (size < self._spec.smallest_product),
            }
            self._count["products"] += len(x[rows]) * x.shape[1] * len(weight)
            self._count.update({name: int(events.sum()) for name, events in found.items()})
            chunks = products[:, 0]
            for step in additions(products, self._spec):
                chunks = step.after
                self._note(step)
            for step in additions(chunks, self._spec):
                self._note(step)

    def _note(self, step: Addition) -> None:
        magnitude, live = step.exact.abs(), step.addend != 0
        left, both = live & (magnitude > 0), live & (step.before != 0)
        found = {
            "sums": live,
            "over": live & (magnitude > self._spec.largest_sum),
            "left": left,
            "under": left & (magnitude < self._spec.smallest_sum),
            "both": both,
            "swamped": both & (step.after == step.before),
        }
        self._count.update({name: int(events.sum()) for name, events in found.items()})

    def rates(self) -> AccumulatorRates:
        """The shares so far; 0 where nothing was counted."""
        count = self._count
        return AccumulatorRates(
            product_overflow=count["product_over"] / max(1, count["products"]),
            product_underflow=count["product_under"] / max(1, count["nonzero"]),
            overflow=count["over"] / max(1, count["sums"]),
            underflow=count["under"] / max(1, count["left"]),
            swamping=count["swamped"] / max(1, count["both"]),
        )


def accumulation_rates(x: Tensor, weight: Tensor, spec: AccumulatorSpec) -> AccumulatorRates:
    """Overflow, underflow and swamping of one product."""
    counter = RateCounter(spec)
    counter.add(x, weight)
    return counter.rates()
