"""Slot contents of learned rounding: weights that learn to go up or down, inputs left in float here and there.

They stand in a slot while a solver works and are frozen to plain integer contents afterwards.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pennyweight.nn.slots.chain import Codes, SlotContent, Stage
from pennyweight.nn.slots.integer import IntegerWeight
from pennyweight.nn.slots.learned import LearnedInput
from pennyweight.numerics.affine import (
    AffineParameters,
    Granularity,
    PerGroup,
    dequantize,
    expand,
)
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key, random_bits

ZETA, GAMMA = 1.1, -0.1
"""Ends that the sigmoid is stretched to before it is cut to [0, 1], so that 0 and 1 are reached."""
_INSIDE = 1e-6  # of a step; kept from both cuts at the start, where the gradient would vanish
_CHOICES = 256  # a byte of random bits an entry: four entries share a 32-bit word


class RoundingWeight(SlotContent):
    """Weights between two neighbouring codes: floor + h(V), where h is the rectified sigmoid and V is learned.

    Soft, the weight starts as the float weight itself, cut to the format's range. Hard, it lies on the grid: up where
    V >= 0, and before anything was learned that is the nearest code.

    Args:
        parameters: of the codes; they stay as they are.
        weight: the float weight to round. The content answers for this weight, whatever it is later called with.

    Source: arXiv 2004.10568, equations 22 to 24.
    Deviations: floor is kept within the format's range less one, so that a weight beyond the range has two codes to
        choose from as well, and no code needs to be cut.
    """

    stage: ClassVar[Stage] = "quantize"
    scale: Tensor
    zero_point: Tensor
    floor: Tensor

    def __init__(self, parameters: AffineParameters, weight: Tensor) -> None:
        super().__init__()
        self.format: IntFormat = parameters.format
        self.granularity: Granularity = parameters.granularity
        self.hard = False
        self.register_buffer("scale", parameters.scale.detach().clone())
        self.register_buffer("zero_point", parameters.zero_point.detach().clone())
        zero_point = expand(self.zero_point, weight, self.granularity)
        low, high = self.format.min - zero_point, self.format.max - zero_point
        steps = weight.detach() / expand(self.scale, weight, self.granularity)
        floor = torch.minimum(torch.maximum(steps.floor(), low), high - 1)
        nearest = torch.minimum(torch.maximum(steps.round(), low), high)
        start = rectified_sigmoid_inverse((steps - floor).clamp(_INSIDE, 1 - _INSIDE))
        # The sign decides, and a tie must fall as the nearest code's does.
        start = torch.where(nearest > floor, start.clamp(min=_INSIDE), start.clamp(max=-_INSIDE))
        self.register_buffer("floor", floor)
        self.choice = nn.Parameter(start)

    @property
    def share(self) -> Tensor:
        """h(V) in [0, 1]: how far up each weight is."""
        share: Tensor = _RectifiedSigmoid.apply(self.choice)
        return share

    def codes(self, x: Tensor) -> Codes:
        """Codes minus zero point, fractional while soft, and the scale; with groups the values themselves."""
        assert x.shape == self.floor.shape, (x.shape, self.floor.shape)
        codes = self.floor + ((self.choice.detach() >= 0).to(x.dtype) if self.hard else self.share)
        if isinstance(self.granularity, PerGroup):
            return codes * expand(self.scale, codes, self.granularity), None
        return codes, self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The weight as it is now."""
        values, scale = self.codes(x)
        return values if scale is None else values * expand(scale, x, self.granularity)

    def undecided(self, beta: float) -> Tensor:
        """Sum over all weights of 1 - |2 h(V) - 1|^beta, which is 0 where each is up or down."""
        return (1 - (2 * self.share - 1).abs().pow(beta)).sum()

    @property
    def affine(self) -> AffineParameters:
        """The parameters it was made with."""
        return AffineParameters(
            scale=self.scale, zero_point=self.zero_point, format=self.format, granularity=self.granularity
        )

    def frozen(self) -> IntegerWeight:
        """The content that stays when learning is over."""
        return IntegerWeight(self.affine)

    @torch.no_grad()
    def on_grid(self) -> Tensor:
        """The weight's hard values, which the frozen content leaves as they are."""
        zero_point = expand(self.zero_point, self.floor, self.granularity)
        return dequantize(self.floor + (self.choice >= 0).to(self.floor.dtype) + zero_point, self.affine)


class DroppedInput(LearnedInput):
    """Activations of which random entries stay in float while a unit is learned.

    Args:
        parameters: where learning starts.
        probability: that an entry stays in float; rounded to a multiple of 1/256.

    Source: arXiv 2203.05740, section 3.3.
    """

    def __init__(self, parameters: AffineParameters, probability: float) -> None:
        super().__init__(parameters)
        self.probability = probability
        self.key: Key | None = None
        """Of the entries to leave in float; None quantizes all of them."""

    def codes(self, x: Tensor) -> Codes:
        """Codes minus zero point, and x / scale itself where an entry is left in float; the scale."""
        codes, scale = super().codes(x)
        if self.key is None:
            return codes, scale
        assert scale is not None
        return torch.where(coin_flips(x.shape, self.probability, self.key, x.device), x / scale, codes), scale


def coin_flips(shape: torch.Size, probability: float, key: Key, device: torch.device | None = None) -> Tensor:
    """True with the probability, rounded to a multiple of 1/256, by key; of the shape, bool."""
    count = shape.numel()
    words = random_bits((-(-count // 4),), key, device)
    parts = torch.stack([(words >> shift) & (_CHOICES - 1) for shift in (0, 8, 16, 24)], dim=-1)
    return (parts.flatten()[:count] < round(probability * _CHOICES)).reshape(shape)


def rectified_sigmoid_inverse(share: Tensor) -> Tensor:
    """The V with h(V) = share, for shares in [0, 1]."""
    return -torch.log((ZETA - GAMMA) / (share - GAMMA) - 1)


class _RectifiedSigmoid(torch.autograd.Function):
    """clamp(sigmoid(V) (zeta - gamma) + gamma, 0, 1) with its exact gradient, 0 where it is cut."""

    @staticmethod
    def forward(ctx: Any, choice: Tensor) -> Tensor:
        sigmoid = torch.sigmoid(choice)
        ctx.save_for_backward(sigmoid)
        return (sigmoid * (ZETA - GAMMA) + GAMMA).clamp_(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor]:
        (g,) = grads
        (sigmoid,) = ctx.saved_tensors
        stretched = sigmoid * (ZETA - GAMMA) + GAMMA
        inside = (stretched > 0) & (stretched < 1)
        return (torch.where(inside, g * sigmoid * (1 - sigmoid) * (ZETA - GAMMA), 0.0),)
