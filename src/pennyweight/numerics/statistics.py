"""What rounding did to a tensor: error, angle, and the share of values clamped or lost."""

from dataclasses import dataclass

import torch
from torch import Tensor


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean square difference; 0 for empty tensors."""
    return (x.double() - y.double()).square().mean() if x.numel() else torch.zeros((), dtype=torch.float64)


def max_abs_error(x: Tensor, y: Tensor) -> Tensor:
    """Largest absolute difference; 0 for empty tensors."""
    return (x.double() - y.double()).abs().max() if x.numel() else torch.zeros((), dtype=torch.float64)


def sqnr_db(x: Tensor, y: Tensor) -> Tensor:
    """Signal-to-quantization-noise ratio 10 log10(sum x^2 / sum (x - y)^2) in dB; infinite where y = x."""
    noise = (x.double() - y.double()).square().sum()
    signal = x.double().square().sum()
    return torch.where(noise == 0, torch.inf, 10 * torch.log10(signal / noise))


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of the angle between two tensors; 1 when both are zero, 0 when one is."""
    norms = x.double().norm() * y.double().norm()
    both_zero = (x.double().norm() == 0) & (y.double().norm() == 0)
    return torch.where(norms > 0, (x.double() * y.double()).sum() / norms, both_zero.double())


def kurtosis(x: Tensor) -> Tensor:
    """Fourth central moment over the squared variance: 3 for a normal, large where few values lie far out; 0 where
    nothing varies."""
    if x.numel() == 0:
        return torch.zeros((), dtype=torch.float64)
    centred = x.double() - x.double().mean()
    variance = centred.square().mean()
    return torch.where(variance > 0, centred.pow(4).mean() / variance.square(), 0.0)


@dataclass(frozen=True)
class QuantReport:
    """One tensor before and after quantization.

    Args:
        sqnr_db: signal-to-noise ratio in dB.
        cosine: cosine of the angle between before and after.
        saturated: share of values beyond the largest or below the smallest representable one.
        zero: share of values that are zero afterwards.
        underflow: share of non-zero values that became zero.
    """

    sqnr_db: float
    cosine: float
    saturated: float
    zero: float
    underflow: float


def quant_report(x: Tensor, quantized: Tensor, low: Tensor | float, high: Tensor | float) -> QuantReport:
    """Compare a tensor with its quantized self.

    Args:
        low: smallest representable value, broadcastable to `x`.
        high: largest representable value.
    """
    count = max(1, x.numel())
    return QuantReport(
        sqnr_db=float(sqnr_db(x, quantized)),
        cosine=float(cosine(x, quantized)),
        saturated=float(((x < low) | (x > high)).sum()) / count,
        zero=float((quantized == 0).sum()) / count,
        underflow=float(((quantized == 0) & (x != 0)).sum()) / count,
    )
