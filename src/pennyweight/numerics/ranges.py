"""Range estimators: which interval of values the codes should cover."""

from typing import Literal

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.numerics.affine import (
    Granularity,
    PerChannel,
    affine_parameters,
    fake_quantize,
    group_rows,
    parameter_shape,
)
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat

Estimator = Literal["minmax", "percentile", "mse"]
_SHRINKS = 80


def estimate_range(
    x: Tensor,
    granularity: Granularity,
    format: IntFormat,
    *,
    estimator: Estimator = "minmax",
    symmetric: bool = False,
    percentile: float = 99.99,
) -> tuple[Tensor, Tensor]:
    """Low and high ends for each scale.

    Args:
        x: values, of any shape; an empty tensor has the range [0, 0].
        estimator: "minmax" covers everything; "percentile" the given share of values, cutting both tails alike;
            "mse" shrinks the min-max range to the least mean square error at this format.
        symmetric: the codes will be symmetric, which "mse" takes into account.
        percentile: in (50, 100].

    Raises:
        NumericsError: `x` is not finite, the estimator unknown, or the percentile out of range.
    """
    require_finite(x, "the tensor whose range is estimated")
    if estimator not in ("minmax", "percentile", "mse"):
        raise NumericsError(f"range estimator {estimator!r} is not known; valid are 'minmax', 'percentile' and 'mse'")
    if not 50.0 < percentile <= 100.0:
        raise NumericsError(f"percentile={percentile}: the share of values covered lies in (50, 100]")
    shape = parameter_shape(x, granularity)
    rows = group_rows(x.detach().float(), granularity)
    if rows.shape[-1] == 0:
        return rows.new_zeros(shape), rows.new_zeros(shape)
    if estimator == "percentile":
        low, high = _percentile(rows, percentile)
    else:
        low, high = rows.amin(-1), rows.amax(-1)
    if estimator == "mse":
        low, high = _least_error(rows, low.clamp(max=0), high.clamp(min=0), format, symmetric)
    return low.reshape(shape), high.reshape(shape)


def _percentile(rows: Tensor, percentile: float) -> tuple[Tensor, Tensor]:
    """The order statistics nearest to the two tails' quantiles."""
    tail = (100.0 - percentile) / 200.0
    cut = round(tail * (rows.shape[-1] - 1))
    ordered = rows.sort(-1).values
    return ordered[:, cut], ordered[:, rows.shape[-1] - 1 - cut]


def _least_error(rows: Tensor, low: Tensor, high: Tensor, format: IntFormat, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Shrink each row's range in even steps and keep the best; the first candidate is the range itself."""
    best = torch.full_like(low, torch.inf)
    best_low, best_high = low.clone(), high.clone()
    for step in range(_SHRINKS):
        factor = 1.0 - step / _SHRINKS * 0.9
        parameters = affine_parameters(low * factor, high * factor, format, PerChannel(), symmetric=symmetric)
        error = fake_quantize(rows, parameters).sub_(rows).square_().mean(-1)
        better = error < best
        best = torch.where(better, error, best)
        best_low = torch.where(better, low * factor, best_low)
        best_high = torch.where(better, high * factor, best_high)
    return best_low, best_high
