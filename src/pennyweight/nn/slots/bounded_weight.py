"""A weight slot content whose codes cannot overflow an integer accumulator."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pennyweight.errors import NumericsError
from pennyweight.nn.slots.chain import Codes, SlotContent, Stage
from pennyweight.numerics.a2q import a2q_bound_, a2q_limit, a2q_scale
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.ste import straight_through


class BoundedWeight(SlotContent):
    """Symmetric codes rounded towards zero, with a fixed scale an output channel and a bound on their magnitudes' sum.

    The bound holds for latent weights that were projected; `project_` does that after each step.

    Args:
        weight: the layer's, which says the scales, see `a2q_scale`.
        format: a signed integer format.
        accumulator_bits: in which no sum may overflow.
        input_bits: of the input's codes, taken as unsigned, which any zero point allows for.

    Source: arXiv 2308.13504.
    """

    stage: ClassVar[Stage] = "quantize"
    scale: Tensor

    def __init__(self, weight: Tensor, format: IntFormat, accumulator_bits: int, input_bits: int) -> None:
        super().__init__()
        assert format.signed, format
        self.format, self.accumulator_bits, self.input_bits = format, accumulator_bits, input_bits
        self.limit = a2q_limit(accumulator_bits, input_bits, signed_input=False)
        require_finite(weight, "the weight to quantize")
        scale = a2q_scale(weight.detach(), format.max, accumulator_bits, input_bits)
        self.register_buffer("scale", scale)

    def codes(self, x: Tensor) -> Codes:
        """Codes and the scale of each output channel.

        Raises:
            NumericsError: the weights were changed and not projected.
        """
        steps = x / self.scale.reshape(-1, *[1] * (x.dim() - 1))
        codes = steps.detach().trunc().clamp(-self.format.max, self.format.max)
        largest = float(codes.flatten(1).abs().sum(1).amax()) if codes.numel() else 0.0
        if not largest <= self.limit:
            raise NumericsError(
                f"codes of an output channel sum to {largest:g} in magnitude, and {self.limit} is the most that "
                f"{self.accumulator_bits} bits allow: call pennyweight.nn.project_(model) after each change of weights"
            )
        return straight_through(steps, codes), self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The quantized weights."""
        values, scale = self.codes(x)
        assert scale is not None
        return values * scale.reshape(-1, *[1] * (x.dim() - 1))

    @torch.no_grad()
    def project_(self, parameter: nn.Parameter) -> None:
        """Move the latent weights to the nearest ones within the bound."""
        a2q_bound_(parameter, self.accumulator_bits, self.input_bits, scale=self.scale)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}, accumulator_bits={self.accumulator_bits}, limit={self.limit}"
