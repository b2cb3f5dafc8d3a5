"""What an accumulator of few bits loses: overflow, underflow and swamping, counted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.numerics.accumulate import AccumulatorSpec, additions, check_operands, rounded_products, row_blocks


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


@torch.no_grad()
def accumulation_rates(x: Tensor, weight: Tensor, spec: AccumulatorSpec) -> AccumulatorRates:
    """Overflow, underflow and swamping of a product, over all its products and additions but those of padding."""
    check_operands(x, weight)
    count = dict.fromkeys(("products", "over", "nonzero", "under", "sums", "sum_over", "sum_live", "sum_under"), 0)
    count |= {"both": 0, "swamped": 0}
    for rows in row_blocks(x, weight) if x.shape[1] else []:
        exact, products = rounded_products(x[rows], weight, spec)
        size = exact.abs()
        count["products"] += len(x[rows]) * x.shape[1] * len(weight)
        count["over"] += int((size > spec.largest_product).sum())
        count["nonzero"] += int((size > 0).sum())
        count["under"] += int(((size > 0) & (size < spec.smallest_product)).sum())
        chunks = products[:, 0]
        for values in (products, None):
            for step in additions(chunks if values is None else values, spec):
                magnitude, live = step.exact.abs(), step.addend != 0
                both = live & (step.before != 0)
                count["sums"] += int(live.sum())
                count["sum_over"] += int((live & (magnitude > spec.largest_sum)).sum())
                count["sum_live"] += int((live & (magnitude > 0)).sum())
                count["sum_under"] += int((live & (magnitude > 0) & (magnitude < spec.smallest_sum)).sum())
                count["both"] += int(both.sum())
                count["swamped"] += int((both & (step.after == step.before)).sum())
                chunks = step.after
    return AccumulatorRates(
        product_overflow=count["over"] / max(1, count["products"]),
        product_underflow=count["under"] / max(1, count["nonzero"]),
        overflow=count["sum_over"] / max(1, count["sums"]),
        underflow=count["sum_under"] / max(1, count["sum_live"]),
        swamping=count["swamped"] / max(1, count["both"]),
    )
