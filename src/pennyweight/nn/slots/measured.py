"""Integer slot contents of 8-bit training: ranges are measured while training, zero is always on the grid.

Gradients pass every quantizer unchanged, clamped values included, as in the method's code. Frozen ranges are
`integer`'s contents, which an artifact stores.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pennyweight.nn.slots.chain import Codes, SlotContent, Stage
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.numerics.affine import (
    AffineParameters,
    Granularity,
    PerGroup,
    PerTensor,
    affine_parameters,
    dequantize,
    group_rows,
    parameter_shape,
    quantize,
)
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.covering import covering_parameters
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding
from pennyweight.numerics.ste import straight_through


def _centred(x: Tensor, parameters: AffineParameters) -> Codes:
    """Codes minus zero point and their scale; the gradient of x / scale."""
    scale, zero_point = parameters.scale, parameters.zero_point
    if scale.numel() > 1:
        shape = (-1, *[1] * (x.dim() - 1))
        wide_scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    else:
        wide_scale, zero_point = scale.reshape(()), zero_point.reshape(())
    steps = x / wide_scale
    format = parameters.format
    codes = steps.detach().round().clamp(format.min - zero_point, format.max - zero_point)
    return straight_through(steps, codes), scale


class MeasuredInput(SlotContent):
    """Activations as affine codes, the range being the mean over the batch of each sample's minimum and maximum.

    Values beyond the mean range are clamped. Evaluation uses a running mean of the ranges, whose first batch counts
    whole; before any batch was seen it uses the batch's own.

    Args:
        format: of the codes.
        momentum: weight of the newest batch in the running range, torch's meaning.
        over: "sample" averages each sample's extremes; "batch" takes the whole batch's, and clamps nothing in training.

    Source: arXiv 1805.11046, section 5, and its code.
    Deviations: zero is a code; the running range is not the last batch's, as an inverted momentum in the code had it.
    """

    stage: ClassVar[Stage] = "quantize"
    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self, format: IntFormat, momentum: float = 0.1, over: Literal["sample", "batch"] = "sample") -> None:
        super().__init__()
        self.over = over
        self.format = format
        self.momentum = momentum
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def affine(self, x: Tensor) -> AffineParameters:
        """Scale and zero point for this batch; while training the running range moves.

        Raises:
            NumericsError: `x` is not finite.
        """
        low, high = self.low, self.high
        if self.training or int(self.batches) == 0:
            low, high = self._batch_range(x.detach())
        if self.training:
            weight = self.momentum if int(self.batches) else 1.0
            self.low.lerp_(low, weight)
            self.high.lerp_(high, weight)
            self.batches.add_(1)
        return affine_parameters(low, high, self.format, PerTensor(), symmetric=False)

    def _batch_range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        require_finite(x, "the activations to quantize")
        if x.numel() == 0:
            return self.low.new_zeros(()), self.high.new_zeros(())
        samples = (x.reshape(x.shape[0], -1) if x.dim() > 1 else x[None]).float()
        low, high = samples.aminmax(dim=1)
        return (low.mean(), high.mean()) if self.over == "sample" else (low.amin(), high.amax())

    def codes(self, x: Tensor) -> Codes:
        """Codes minus zero point, and the scale."""
        return _centred(x, self.affine(x))

    def forward(self, x: Tensor) -> Tensor:
        """The quantized values."""
        values, scale = self.codes(x)
        assert scale is not None
        return values * scale

    def frozen(self) -> IntegerInput | None:
        """The content of evaluation with fixed parameters; None before any batch was seen."""
        if int(self.batches) == 0:
            return None
        return IntegerInput(affine_parameters(self.low, self.high, self.format, PerTensor(), symmetric=False))

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}, momentum={self.momentum}, over={self.over}"


class MeasuredWeight(SlotContent):
    """Weights as affine codes between the minimum and maximum of each output channel, or of the tensor.

    Args:
        format: of the codes.
        granularity: a channel or the tensor.
        master: format of the latent weights between steps, on the same range, rounded stochastically after each step;
            None keeps them in float.
        key: root of those draws.

    Source: arXiv 1805.11046, section 5.
    """

    stage: ClassVar[Stage] = "quantize"
    draws: Tensor

    def __init__(
        self, format: IntFormat, granularity: Granularity, master: IntFormat | None = None, key: Key | None = None
    ) -> None:
        super().__init__()
        assert not isinstance(granularity, PerGroup), granularity
        assert master is None or key is not None, "stochastic rounding of master weights needs a key"
        self.format = format
        self.granularity = granularity
        self.master = master
        self.key = key
        if master is not None:
            self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def affine(self, weight: Tensor) -> AffineParameters:
        """Scales and zero points of these weights.

        Raises:
            NumericsError: a weight is not finite.
        """
        require_finite(weight, "the weight to quantize")
        rows = group_rows(weight.detach().float(), self.granularity)
        shape = parameter_shape(weight, self.granularity)
        low, high = rows.aminmax(dim=1) if rows.numel() else (rows.new_zeros(shape), rows.new_zeros(shape))
        return affine_parameters(
            low.reshape(shape), high.reshape(shape), self.format, self.granularity, symmetric=False
        )

    def codes(self, x: Tensor) -> Codes:
        """Codes minus zero point, and the scale of each output channel."""
        return _centred(x, self.affine(x))

    def forward(self, x: Tensor) -> Tensor:
        """The quantized weights."""
        values, scale = self.codes(x)
        assert scale is not None
        return values * (scale.reshape(-1, *[1] * (x.dim() - 1)) if scale.numel() > 1 else scale)

    @torch.no_grad()
    def project_(self, parameter: nn.Parameter) -> None:
        """Round the latent weights to the master format; rounding to nearest would lose every small update."""
        if self.master is None:
            return
        assert self.key is not None
        low, high = parameter.aminmax()
        affine = covering_parameters(low, high, self.master)
        key = self.key.fold(int(self.draws))
        self.draws.add_(1)
        parameter.copy_(dequantize(quantize(parameter, affine, "stochastic", key), affine))

    def frozen(self, weight: Tensor) -> IntegerWeight:
        """The content of evaluation with fixed parameters."""
        return IntegerWeight(self.affine(weight))

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}, granularity={self.granularity}, master={self.master}"


class MeasuredGradient(SlotContent):
    """A neural gradient as affine codes between its own minimum and maximum, without bias when rounded stochastically.

    Zero stays zero. Infinity and NaN pass as they are, so that a loss scaler sees them.

    Args:
        format: of the codes.
        rounding: "stochastic" or "nearest_even".
        key: root of the counter-based draws; a buffer counts them, so that a resumed run draws what an uninterrupted
            one would have. Two contents with one key draw alike: both products then see one copy.

    Source: arXiv 1805.11046, section 4.
    """

    stage: ClassVar[Stage] = "quantize"
    draws: Tensor

    def __init__(self, format: IntFormat, rounding: Rounding = "stochastic", key: Key | None = None) -> None:
        super().__init__()
        assert key is not None or rounding != "stochastic", "stochastic rounding needs a key"
        self.format = format
        self.rounding: Rounding = rounding
        self.key = key
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def affine(self, g: Tensor) -> AffineParameters | None:
        """Scale and zero point of this gradient; None where it has no finite range."""
        if g.numel() == 0:
            return None
        low, high = g.aminmax()
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            return None
        return covering_parameters(low, high, self.format)

    def forward(self, x: Tensor) -> Tensor:
        """The quantized gradient."""
        affine = self.affine(x)
        key = None if self.key is None else self.key.fold(int(self.draws))
        self.draws.add_(1)
        if affine is None:
            return x
        return dequantize(quantize(x, affine, self.rounding, key), affine).to(x.dtype)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"format={self.format}, rounding={self.rounding}"
