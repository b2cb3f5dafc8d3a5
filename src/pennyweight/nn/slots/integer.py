"""Integer slot contents: affine codes for weights and activations, and a running range for a net's first input."""

from typing import ClassVar

import torch
from torch import Tensor

from pennyweight.nn.slots.chain import Codes, SlotContent, Stage
from pennyweight.numerics.affine import AffineParameters, Granularity
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.ste import clamp_ste, round_ste


class _Affine(SlotContent):
    """round(x / scale) + zero_point, clamped to the format; what enters the product is code - zero_point."""

    stage: ClassVar[Stage] = "quantize"
    scale: Tensor
    zero_point: Tensor

    def __init__(self, parameters: AffineParameters) -> None:
        super().__init__()
        self.format: IntFormat = parameters.format
        self.granularity: Granularity = parameters.granularity
        self.register_buffer("scale", parameters.scale.detach().clone())
        self.register_buffer("zero_point", parameters.zero_point.detach().clone())

    @property
    def parameters_(self) -> AffineParameters:
        """Scale, zero point, format and granularity as the plain record the numerics work on."""
        return AffineParameters(
            scale=self.scale, zero_point=self.zero_point, format=self.format, granularity=self.granularity
        )

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}, granularity={self.granularity}"
