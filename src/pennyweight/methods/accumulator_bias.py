"""Exponent biases of accumulators from what is really multiplied and added."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pennyweight.nn.accumulators import Watched, watched_products
from pennyweight.nn.calling import Batch
from pennyweight.numerics.accumulate import AccumulatorSpec
from pennyweight.numerics.checks import require_finite


def calibrated_biases(
    model: nn.Module, names: Sequence[str], inputs: Batch, spec: AccumulatorSpec, overflow_share: float
) -> dict[str, tuple[int, int]]:
    """The largest biases, hence the finest steps, at which no more than a share of values saturates.

    Args:
        names: of `nn.accumulators.accumulator_slots`; their products are watched in evaluation mode.
        inputs: one batch.
        spec: bits and chunk; its biases are not read.
        overflow_share: of products, and of exact partial sums, beyond the largest value.

    Returns:
        (product_bias, sum_bias) of each that is called. Of several matrix products, such as a convolution's groups,
        the one with the largest values decides.

    Deviations: arXiv 2401.14110 takes one pair for all layers, by a rule for independent products.
    """
    found: dict[str, tuple[int, int]] = {}

    def note(name: str, seen: Watched) -> None:
        require_finite(seen.x, f"input of {name!r}")
        require_finite(seen.weight, f"weight of {name!r}")
        products = seen.x.double()[:, :, None] * seen.weight.double().t()[None]
        short = -products.shape[1] % spec.chunk
        chunks = nn.functional.pad(products, (0, 0, 0, short)).reshape(len(products), -1, spec.chunk, products.shape[2])
        within = chunks.cumsum(2)
        between = within[:, :, -1].cumsum(1)
        own = (_bias([products], spec, overflow_share), _bias([within, between], spec, overflow_share))
        before = found.get(name, own)
        found[name] = (min(own[0], before[0]), min(own[1], before[1]))

    watched_products(model, names, inputs, note)
    return found


def _bias(values: Sequence[Tensor], spec: AccumulatorSpec, share: float) -> int:
    """The largest bias whose largest value covers all but a share of the magnitudes."""
    magnitudes = [value.abs().flatten() for value in values]
    allowed = int(share * sum(map(len, magnitudes)))
    beyond = [value.topk(min(allowed + 1, len(value))).values for value in magnitudes]
    found = torch.cat(beyond)
    largest = float(found.topk(allowed + 1).values[-1]) if len(found) else 0.0
    if largest == 0.0:
        return 0
    # The largest value of bias b is (2 - 2^-mantissa) 2^(2^exponent - 1 - b).
    fraction, exponent = math.frexp(largest / (2 - 2.0**-spec.mantissa))  # fraction in [0.5, 1)
    needed = exponent - 1 if fraction == 0.5 else exponent
    return min(max((1 << spec.exponent) - 1 - needed, (1 << spec.exponent) - 101), 100)
