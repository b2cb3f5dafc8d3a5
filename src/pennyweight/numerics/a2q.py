"""Weights that cannot overflow an integer accumulator: a bound on the sum of magnitudes of each output channel."""

import torch
from torch import Tensor

from pennyweight.errors import NumericsError

_CANDIDATES = 33


def a2q_limit(accumulator_bits: int, input_bits: int, *, signed_input: bool) -> int:
    """The largest sum of |weight codes| of an output channel at which no input makes any partial sum overflow.

    Args:
        accumulator_bits: of a two's-complement accumulator, sign included.
        input_bits: of the input's codes.
        signed_input: codes of both signs, at most 2^(bits - 1) in magnitude; else at most 2^bits - 1, which also holds
            for affine codes minus their zero point, whatever it is.

    Raises:
        NumericsError: not even one product of a weight of 1 fits.

    Source: arXiv 2308.13504, section 3.
    Deviations: unsigned codes end at 2^bits - 1, the paper's 2^bits is one more.

    Example:
        >>> a2q_limit(16, 8, signed_input=False), a2q_limit(16, 8, signed_input=True)
        (128, 255)
    """
    largest = 1 << (input_bits - 1) if signed_input else (1 << input_bits) - 1
    limit = ((1 << (accumulator_bits - 1)) - 1) // largest
    if limit < 1:
        raise NumericsError(
            f"accumulator_bits={accumulator_bits}: one input code of {input_bits} bits, up to {largest}, overflows "
            f"it; take more bits, or fewer for the input"
        )
    return limit


@torch.no_grad()
def a2q_bound_(
    weight: Tensor, accumulator_bits: int, input_bits: int, *, signed_input: bool = False, scale: Tensor | float = 1.0
) -> Tensor:
    """Move each output channel to the nearest weights whose codes, rounded towards zero, cannot overflow; in place.

    Args:
        weight: (N, ...) latent weights; weight / scale rounded towards zero are its codes.
        scale: of the codes, one for all or one a channel.

    Returns:
        `weight`; channels within the bound stay as they are.

    Raises:
        NumericsError: see `a2q_limit`; or a weight is not finite.

    Source: arXiv 2308.13504, section 4.
    Deviations: a Euclidean projection after each step, where the paper learns the norm of a parametrization.

    Example:
        >>> a2q_bound_(torch.tensor([[100.0, -50.0, 1.0]]), 16, 8)
        tensor([[ 89., -39.,   0.]])
    """
    limit = a2q_limit(accumulator_bits, input_bits, signed_input=signed_input)
    steps = torch.as_tensor(scale, dtype=torch.float64, device=weight.device)
    steps = steps.reshape(-1, 1) if steps.numel() > 1 else steps.reshape(())
    rows = weight.reshape(len(weight), weight[:1].numel()).double() / steps
    if not bool(torch.isfinite(rows).all()):
        raise NumericsError("a weight to bound is not finite: look for a rate of learning that is too high")
    if rows.numel():
        weight.copy_((_onto_l1_ball(rows, limit) * steps).reshape(weight.shape))
    return weight


@torch.no_grad()
def a2q_scale(weight: Tensor, largest_code: int, accumulator_bits: int, input_bits: int) -> Tensor:
    """A scale for each output channel at which bounding and rounding towards zero change the weights least.

    The finest, largest weight over largest code, lets few weights survive a tight bound; the coarsest, at which all
    weights are within it, rounds most of them to 0. Between both the best of some is taken, by squared error.

    Args:
        weight: (N, ...), of input codes that are unsigned or centred.
        largest_code: of the weights' format.

    Returns:
        (N,) float32, 1 for channels of zeros.
    """
    limit = a2q_limit(accumulator_bits, input_bits, signed_input=False)
    rows = weight.reshape(len(weight), weight[:1].numel()).double()
    if not rows.numel():
        return weight.new_ones(len(weight), dtype=torch.float32)
    finest = rows.abs().amax(1) / largest_code
    coarsest = torch.maximum(finest, rows.abs().sum(1) / limit)
    best, found = torch.full_like(finest, torch.inf), torch.ones_like(finest)
    for share in torch.linspace(0, 1, _CANDIDATES, dtype=torch.float64):
        scale = finest ** (1 - share) * coarsest**share
        scale = torch.where(finest > 0, scale, 1.0)[:, None]
        codes = _onto_l1_ball(rows / scale, limit).trunc()
        error = (codes * scale - rows).square().sum(1)
        found = torch.where(error < best, scale[:, 0], found)
        best = torch.minimum(error, best)
    return found.float()


def _onto_l1_ball(rows: Tensor, radius: int) -> Tensor:
    """The nearest point of each row whose magnitudes sum to at most the radius: all shrink by one threshold.

    Source: Duchi et al., Efficient projections onto the l1-ball (ICML 2008), figure 1.
    """
    magnitude = rows.abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - radius
    count = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    kept = (ordered * count > excess).sum(1, keepdim=True).clamp(min=1)
    threshold = (excess.gather(1, kept - 1) / kept).clamp(min=0)
    is_inside = magnitude.sum(1, keepdim=True) <= radius
    shrunk = rows.sign() * (magnitude - threshold).clamp(min=0)
    return torch.where(is_inside, rows, shrunk)
