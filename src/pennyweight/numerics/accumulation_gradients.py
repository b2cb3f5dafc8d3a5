"""Gradients of a product whose sums are rounded: plain, or gated by what each addition lost."""

from typing import Literal

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.accumulate import (
    AccumulatorSpec,
    Addition,
    additions,
    check_operands,
    rounded_products,
    row_blocks,
)

Estimator = Literal["identity", "immediate-of", "recursive-of", "immediate-diff"]
ESTIMATORS: tuple[Estimator, ...] = ("identity", "immediate-of", "recursive-of", "immediate-diff")


@torch.no_grad()
def accumulation_gradients(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    spec: AccumulatorSpec,
    estimator: Estimator,
    *,
    update: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `accumulate` by x and weight, for one of four ideas of a derivative of rounding.

    "identity" takes the plain product's. The others gate each product k of each output by an event of its addition:
    "of", the exact sum stays below the largest; "diff", the sum changed at all. "immediate" gates the addend of that
    step alone, and the addition of a chunk's result gates that chunk; "recursive" gates everything summed before too.
    "recursive-diff" is left out: one swamped addend would take the gradient of all before it.

    Args:
        g: (M, N), by the output.
        update: the same for the weight's gradient, where that is another; None for g.
        x: (M, K); weight: (N, K).

    Returns:
        (M, K) and (N, K).

    Raises:
        NumericsError: no such estimator, or operands that are refused.

    Source: arXiv 2401.14110, section 4; the exact definition of "diff" is this library's.
    """
    check_operands(x, weight)
    if estimator not in ESTIMATORS:
        raise NumericsError(f"estimator={estimator!r}: valid are {', '.join(map(repr, ESTIMATORS))}")
    update = g if update is None else update
    if estimator == "identity" or not x.shape[1]:
        return g @ weight, update.t() @ x
    grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
    for rows in row_blocks(x, weight):
        gates = _gates(x[rows], weight, spec, estimator)  # (m, K, N)
        grad_x[rows] = torch.einsum("mkn,mn,nk->mk", gates, g[rows], weight)
        grad_weight += torch.einsum("mkn,mn,mk->nk", gates, update[rows], x[rows])
    return grad_x, grad_weight


def _gates(x: Tensor, weight: Tensor, spec: AccumulatorSpec, estimator: Estimator) -> Tensor:
    kind, event = estimator.split("-")

    def passes(step: Addition) -> Tensor:
        return step.exact.abs() < spec.largest_sum if event == "of" else step.after != step.before

    chunks = torch.zeros(0)
    inner = []
    for step in additions(rounded_products(x, weight, spec)[1], spec):
        inner.append(passes(step))
        chunks = step.after
    outer = [passes(step) for step in additions(chunks, spec)]
    # (m, chunk, chunks, N) and (m, chunks, N)
    within, between = torch.stack(inner, 1).float(), torch.stack(outer, 1).float()
    if kind == "recursive":
        within, between = (gate.flip(1).cumprod(1).flip(1) for gate in (within, between))
    return (within * between[:, None]).transpose(1, 2).flatten(1, 2)[:, : x.shape[1]]
