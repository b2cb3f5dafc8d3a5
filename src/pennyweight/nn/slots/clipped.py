"""Slot contents of quantized networks: few levels of a fixed range, and neural gradients on their own scale.

What is computed is in `numerics.clipped`. One bit for weights and activations is `binary`'s contents.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pennyweight.nn.slots.chain import Codes, SlotContent, Stage
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.numerics.affine import AffineParameters, PerTensor
from pennyweight.numerics.clipped import linear_codes, log_quant, require_gradient_format, scaled_codes, unit_step
from pennyweight.numerics.formats import Format, IntFormat, LogFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding


class _Clipped(SlotContent):
    """LinearQuant or LogQuant; the gradient passes where the value is in the range, its ends included.

    Args:
        format: integers, whose codes span [-1, 1] or [0, 1], or powers of two up to 1.
    """

    stage: ClassVar[Stage] = "quantize"
    scale: Tensor | None

    def __init__(self, format: IntFormat | LogFormat) -> None:
        super().__init__()
        assert isinstance(format, IntFormat) or format.max_exponent == 0, format
        self.format = format
        step = torch.tensor(unit_step(format)) if isinstance(format, IntFormat) else None
        self.register_buffer("scale", step, persistent=False)

    def codes(self, x: Tensor) -> Codes:
        """Integer codes and their step; powers of two are values as they are."""
        if isinstance(self.format, LogFormat):
            return log_quant(x, self.format), None
        return linear_codes(x, self.format, self.scale), self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The quantized values."""
        values, scale = self.codes(x)
        return values if scale is None else values * scale

    def _affine(self) -> AffineParameters:
        assert isinstance(self.format, IntFormat), self.format
        assert self.scale is not None
        return AffineParameters(self.scale, torch.zeros_like(self.scale), self.format, PerTensor())

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}"


class ClippedWeight(_Clipped):
    """Latent weights on few levels of [-1, 1], clipped to it after each step; they take no weight decay.

    Args:
        format: signed integers or powers of two.
        clip: project the latent weights.
        lr_scale: multiplies their learning rate.

    Source: arXiv 1609.07061, section 3 and algorithm 1.
    """

    decays = False

    def __init__(self, format: IntFormat | LogFormat, *, clip: bool = True, lr_scale: float = 1.0) -> None:
        assert isinstance(format, LogFormat) or format.signed, format
        super().__init__(format)
        self.clip = clip
        self.lr_scale = lr_scale

    def project_(self, parameter: nn.Parameter) -> None:
        """Clip the latent weights to [-1, 1]."""
        if self.clip:
            parameter.clamp_(-1.0, 1.0)

    def frozen(self) -> IntegerWeight:
        """The same integer codes with stored parameters."""
        return IntegerWeight(self._affine())

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}, clip={self.clip}, lr_scale={self.lr_scale:.4g}"


class ClippedInput(_Clipped):
    """Activations on few levels of [-1, 1], or of [0, 1] in unsigned formats.

    Source: arXiv 1609.07061, section 3.
    """

    def frozen(self) -> IntegerInput:
        """The same integer codes with stored parameters."""
        return IntegerInput(self._affine())


class ScaledGradient(SlotContent):
    """A neural gradient as codes of one scale, its largest magnitude being the largest code.

    Codes and scale are handed over apart, so that both backward products multiply integers. Infinity and NaN pass as
    they are, so that a loss scaler sees them.

    Args:
        format: signed integers, powers of two up to 1, or binary.
        rounding: "stochastic" or "nearest_even".
        key: root of the counter-based draws; a buffer counts them, so that a resumed run draws what an uninterrupted
            one would have. Two contents with one key draw alike: both products then see one copy.

    Source: arXiv 1609.07061, section 3, as arXiv 1606.06160 writes it out.
    """

    stage: ClassVar[Stage] = "quantize"
    draws: Tensor

    def __init__(self, format: Format, rounding: Rounding = "stochastic", key: Key | None = None) -> None:
        super().__init__()
        require_gradient_format(format)
        assert key is not None or rounding != "stochastic", "stochastic rounding needs a key"
        self.format = format
        self.rounding: Rounding = rounding
        self.key = key
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def codes(self, x: Tensor) -> Codes:
        """Codes and scale of this gradient."""
        key = None if self.key is None else self.key.fold(int(self.draws))
        self.draws.add_(1)
        return scaled_codes(x, self.format, self.rounding, key)

    def forward(self, x: Tensor) -> Tensor:
        """The quantized gradient."""
        values, scale = self.codes(x)
        return values if scale is None else values * scale

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}, rounding={self.rounding}"
