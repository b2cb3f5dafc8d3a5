"""Exponent biases of accumulators from what layers really multiply and add."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.nn.accumulators import Watched, watched_products
from pennyweight.nn.calling import Batch
from pennyweight.numerics.accumulate import AccumulatorSpec


def calibrated_biases(
    model: nn.Module, names: Sequence[str], inputs: Batch, spec: AccumulatorSpec, overflow_share: float
) -> dict[str, tuple[int, int]]:
    """The largest biases, hence the finest steps, at which no more than a share of values saturates.

    Args:
        names: layers, whose products are watched in evaluation mode.
        inputs: one batch.
        spec: bits and chunk; its biases are not read.
        overflow_share: of products, and of partial sums, beyond the largest value.

    Returns:
        (product_bias, sum_bias) of each layer that is called.

    Deviations: arXiv 2401.14110 takes one pair for all layers, by a rule for independent products.
    """
    found: dict[str, tuple[int, int]] = {}

    def note(name: str, seen: Watched) -> None:
        products = seen.x.double()[:, :, None] * seen.weight.double().t()[None]
        short = -products.shape[1] % spec.chunk
        chunks = nn.functional.pad(products, (0, 0, 0, short)).reshape(len(products), -1, spec.chunk, products.shape[2])
        within = chunks.cumsum(2)
        sums = torch.cat([within.flatten(), within[:, :, -1].cumsum(1).flatten()])
        own = (_bias(products, spec, overflow_share), _bias(sums, spec, overflow_share))
        before = found.get(name, own)
        found[name] = (min(own[0], before[0]), min(own[1], before[1]))

    watched_products(model, names, inputs, note)
    return found


def _bias(values: Any, spec: AccumulatorSpec, share: float) -> int:
    """The largest bias whose largest value covers all but a share of the magnitudes."""
    magnitudes: Tensor = values.abs().flatten()
    allowed = int(share * len(magnitudes))
    largest = float(magnitudes.kthvalue(len(magnitudes) - allowed).values)
    if largest == 0.0:
        return 0
    # (2 - 2^-m) 2^(2^e - 1 - bias) >= largest
    exponent = math.ceil(math.log2(largest / (2 - 2.0**-spec.mantissa)))
    bias = (1 << spec.exponent) - 1 - exponent
    return min(max(bias, (1 << spec.exponent) - 101), 100)
