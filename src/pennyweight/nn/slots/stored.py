"""A weight slot content for weights that are codes already, as an artifact stores them."""

from typing import ClassVar

from torch import Tensor

from pennyweight.nn.slots.chain import Codes, SlotContent, Stage


class StoredCodes(SlotContent):
    """The layer's weight holds the codes themselves; nothing is left to compute but their scale.

    Args:
        scale: of the codes, one for all or one an output channel; None where the weight holds values.
    """

    stage: ClassVar[Stage] = "quantize"

    def __init__(self, scale: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def codes(self, x: Tensor) -> Codes:
        """The weight as it is, and the scale."""
        scale = self.scale
        assert scale is None or isinstance(scale, Tensor)
        return x, scale

    def forward(self, x: Tensor) -> Tensor:
        """The weight's values."""
        values, scale = self.codes(x)
        if scale is None:
            return values
        return values * (scale.reshape(-1, *[1] * (x.dim() - 1)) if scale.numel() > 1 else scale)
