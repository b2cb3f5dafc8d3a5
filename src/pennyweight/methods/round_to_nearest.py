"""`RoundToNearest`: the plainest post-training quantization, and the baseline every better one must beat."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.calibration import observe_inputs
from pennyweight.nn.folding import fold_batchnorm_
from pennyweight.nn.gemm import WEIGHTED, GemmModule, as_gemm
from pennyweight.nn.slots.integer import IntegerInput, IntegerWeight
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.affine import (
    AffineParameters,
    PerGroup,
    PerTensor,
    affine_parameters,
    dequantize,
    parse_granularity,
    quantize,
)
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat, parse_format
from pennyweight.numerics.ranges import estimate_range
from pennyweight.numerics.statistics import sqnr_db


@dataclass(frozen=True, kw_only=True)
class RoundToNearest(Method):
    """Round trained weights, and activations, to the nearest integer codes, without any further training.

    What: batch norm is folded into the layers before it; each matched layer gets symmetric weight codes and affine
    activation codes, whose ranges come from a few calibration batches.

    When to use: 8 bits, nearly always without loss; below 5 bits as the baseline for methods that adapt the codes.

    Measured here: W8A8 of the public CIFAR-10 ResNet-20: 91.71 against 91.73 (`results/claims-*`).

    Caveats: the arithmetic is simulated in float32 (sums of integer codes are exact below 2^24); storage is real.

    Source: the affine scheme of arXiv 1712.05877, section 2.1; the baseline of arXiv 2006.10518.

    Args:
        weights: integer format of the weights, 2 to 8 bits, or None to leave them.
        activations: integer format of the layers' inputs, 2 to 8 bits, or None to leave them.
        granularity: "tensor", "channel" (an output channel) or "group:N" (N consecutive inputs) for weights.
        weight_range: how weight ranges are estimated: "minmax", "percentile" or "mse".
        activation_range: the same for activations.
        percentile: share of values inside the range, for "percentile".
        fold_batchnorm: fold batch norm first; False keeps it in float.
        max_samples: calibration samples read at most.
    """

    weights: str | None = "int8"
    activations: str | None = "int8"
    granularity: str = "channel"
    weight_range: str = "mse"
    activation_range: str = "mse"
    percentile: float = 99.99
    fold_batchnorm: bool = True
    max_samples: int = 512

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.weight.quantize", "gemm.input.quantize"})
    paper: ClassVar[Paper] = Paper("1712.05877", "Quantization and Training of Neural Networks", 2017)

    def __post_init__(self) -> None:
        """Check the settings."""
        for role in ("weights", "activations"):
            value = getattr(self, role)
            if value is not None:
                self._format(role, value)
        if self.weights is None and self.activations is None:
            raise MethodError("weights and activations are both None: nothing to round")
        parse_granularity(self.granularity)
        for role in ("weight_range", "activation_range"):
            if getattr(self, role) not in ("minmax", "percentile", "mse"):
                raise MethodError(f"{role}={getattr(self, role)!r}: valid are 'minmax', 'percentile' and 'mse'")
        if self.max_samples < 1:
            raise MethodError(f"max_samples={self.max_samples}: calibration needs at least 1 sample")

    @staticmethod
    def _format(role: str, value: str) -> IntFormat:
        parsed = parse_format(value)
        if not isinstance(parsed, IntFormat) or not 2 <= parsed.bits <= 8:
            raise MethodError(f"{role}={value!r}: RoundToNearest takes integer formats of 2 to 8 bits, such as 'int8'")
        return parsed

    def needs_data(self) -> bool:
        """Activation ranges come from calibration data."""
        return self.activations is not None

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The operand slots that are not left alone."""
        roles = {"gemm.weight.quantize": self.weights, "gemm.input.quantize": self.activations}
        slots = frozenset(slot for slot, value in roles.items() if value is not None)
        return dict.fromkeys(match(model, self.include, self.exclude, self.targets), slots)

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        layers = match(model, self.include, self.exclude, self.targets)
        # Whatever can go wrong goes wrong here, before the model is changed.
        for fqn, layer in layers.items():
            self._check(fqn, layer)
        inputs: dict[str, Tensor] = {}
        if self.activations is not None:
            assert context.data is not None
            inputs = observe_inputs(model, list(layers), context.data, self.max_samples)
        folded = fold_batchnorm_(model) if self.fold_batchnorm else []
        swaps: dict[str, nn.Module] = {fqn: as_gemm(layer) for fqn, layer in layers.items()}
        metrics: dict[str, float | str] = {"folded_batchnorms": len(folded)}
        for fqn, layer in swaps.items():
            assert isinstance(layer, GemmModule)
            metrics |= {f"{fqn}.{key}": value for key, value in self._quantize(layer, inputs.get(fqn)).items()}
        swap_modules_(model, swaps)
        skipped = {
            fqn: "left out by include/exclude"
            for fqn, module in model.named_modules()
            if isinstance(module, WEIGHTED) and fqn not in layers
        }
        return Applied(method=self, changed=tuple(swaps), skipped=skipped, metrics=metrics)

    def _check(self, fqn: str, layer: nn.Module) -> None:
        assert isinstance(layer.weight, Tensor)
        require_finite(layer.weight, f"weight of layer {fqn!r}")
        if isinstance(parse_granularity(self.granularity), PerGroup) and layer.weight.dim() != 2:
            raise MethodError(
                f"granularity={self.granularity!r} is for Linear layers; {fqn!r} is a {type(layer).__name__}"
            )

    def _quantize(self, layer: GemmModule, seen: Tensor | None) -> dict[str, float]:
        metrics = {}
        if self.weights is not None:
            parameters = self._weight_parameters(layer)
            layer.slots.fill("weight", IntegerWeight(parameters))
            rounded = dequantize(quantize(layer.weight.detach(), parameters), parameters)
            metrics["weight_sqnr_db"] = round(float(sqnr_db(layer.weight.detach(), rounded)), 2)
        if seen is not None:
            parameters = self._activation_parameters(seen)
            layer.slots.fill("input", IntegerInput(parameters))
            metrics["input_sqnr_db"] = round(
                float(sqnr_db(seen, dequantize(quantize(seen, parameters), parameters))), 2
            )
        return metrics

    def _weight_parameters(self, layer: GemmModule) -> AffineParameters:
        assert self.weights is not None
        format, granularity = self._format("weights", self.weights), parse_granularity(self.granularity)
        low, high = self._range(layer.weight.detach(), granularity, format, self.weight_range, symmetric=True)
        return affine_parameters(low, high, format, granularity, symmetric=True)

    def _activation_parameters(self, seen: Tensor) -> AffineParameters:
        assert self.activations is not None
        format = self._format("activations", self.activations)
        low, high = self._range(seen, PerTensor(), format, self.activation_range, symmetric=False)
        return affine_parameters(low, high, format, PerTensor(), symmetric=False)

    def _range(
        self, x: Tensor, granularity: Any, format: IntFormat, estimator: Any, symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        return estimate_range(
            x, granularity, format, estimator=estimator, symmetric=symmetric, percentile=self.percentile
        )
