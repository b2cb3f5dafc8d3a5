"""`Int8Training`: weights, activations and neural gradients of 8 bits or fewer while training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.calibration import first_samples
from pennyweight.methods.range_batchnorm import measure_ranges_
from pennyweight.methods.rounding import integer_format
from pennyweight.nn.gemm import WEIGHTED, GemmModule, as_gemm
from pennyweight.nn.quantized_batchnorm import QUANTIZED_OF
from pennyweight.nn.range_batchnorm import RANGE_OF
from pennyweight.nn.slots.exact_integer import BlockedProduct
from pennyweight.nn.slots.measured import MeasuredGradient, MeasuredInput, MeasuredWeight
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.affine import PerGroup, parse_granularity
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat, parse_format
from pennyweight.numerics.order_statistics import RangeScale
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding

_MAX_SAMPLES = 512
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, kw_only=True)
class Int8Training(Method):
    """Train with 8-bit weights, activations and gradients, the weights' own gradient product in high precision.

    What: each matched layer multiplies integer codes of weight and input. Backward, the neural gradient is taken twice:
    rounded stochastically to `gradients` for the product that travels on to the layers below, and as it came for the
    product that moves the weights, which is not on the critical path (gradient bifurcation). Batch norms become
    quantized Range BN. Latent weights stay in float; first and last layer are quantized like all.

    When to use: training from scratch, or going on from a float model with `apply_` and then `train`. Keep 8 bits for
    gradients unless a trial says that fewer do. `include` and `exclude` name batch norms as they name layers.

    Claim: state of the art on ImageNet with 8-bit weights, activations and most gradients (arXiv 1805.11046).

    Measured here: digits, 3 convolutions, 10 seeds: 0.17 points above float [-0.22, +0.56]. MNIST, 4 convolutions,
    ranges of the batch, 4 seeds: 0.09 below [-0.29, +0.11]; the method's own ranges 0.33 below. 4-bit gradients
    there, 5 seeds: bifurcation is worth 0.57 points [0.30, 0.83], stochastic rounding 0.44 [0.12, 0.76]; without
    either 4.2 are lost, on CIFAR-10 14.6 (`results/int8_training_*`).

    Caveats: the mean range of samples clamps, which cost 3 points in the first 500 steps on CIFAR-10 (2 seeds);
    `input_range="batch"` lost nothing there. The arithmetic is simulated in float32 and slower than float training;
    sums of codes are exact below 2^24, and at any length with `exact=True`, which an artifact cannot hold. The
    bias and the optimizer's state stay in float.

    Source: arXiv 1805.11046, sections 3 to 5.

    Args:
        weights: integer format, 2 to 8 bits, or None to leave the weights.
        activations: integer format of the layers' inputs, or None.
        gradients: integer format of the neural gradient in the product towards the input, or None.
        update_gradients: integer format of the neural gradient in the product towards the weight; None for float.
        bifurcate: False feeds both products the one quantized gradient, the ablation.
        grad_rounding: "stochastic" or "nearest_even".
        granularity: of weight ranges, "channel" (an output channel) or "tensor".
        master: integer format of the latent weights between steps, up to 24 bits; None for float.
        input_range: of the layers' inputs, "sample", the method's mean over samples of their extremes, or "batch", the
            batch's extremes.
        norm: "range" for quantized Range BN, "batch" for quantized batch norm, "keep" for the net's own.
        norm_bits: of the normalization, 2 to 8.
        norm_gradient_bits: of the gradient a norm receives; None for norm_bits.
        num_chunks: of Range BN.
        scale: of Range BN.
        exact: sum integer codes exactly at any length, by blocks; without it sums above 2^24 are rounded to float32.
        seed: root of all draws.
    """

    weights: str | None = "int8"
    activations: str | None = "uint8"
    gradients: str | None = "int8"
    update_gradients: str | None = None
    bifurcate: bool = True
    grad_rounding: Rounding = "stochastic"
    granularity: str = "channel"
    master: str | None = None
    input_range: Literal["sample", "batch"] = "sample"
    norm: Literal["range", "batch", "keep"] = "range"
    norm_bits: int = 8
    norm_gradient_bits: int | None = None
    num_chunks: int = 16
    scale: RangeScale = "exact"
    exact: bool = False
    seed: int = 0

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset(
        {
            "gemm.weight.quantize",
            "gemm.input.quantize",
            "gemm.grad_output.input",
            "gemm.grad_output.update",
            "gemm.backend",
            "norm",
        }
    )
    paper: ClassVar[Paper] = Paper("1805.11046", "Scalable Methods for 8-bit Training of Neural Networks", 2018)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        for role in ("weights", "activations", "gradients", "update_gradients"):
            if getattr(self, role) is not None:
                integer_format(role, getattr(self, role))
        master = None if self.master is None else parse_format(self.master)
        if master is not None and not (isinstance(master, IntFormat) and 2 <= master.bits <= 24):
            raise MethodError(f"master={self.master!r}: latent weights take an integer format of 2 to 24 bits, or None")
        if master is not None and self.weights is None:
            raise MethodError(f"master={self.master!r} is the format of quantized weights' latent ones: give weights=")
        if not self.bifurcate and self.update_gradients is not None:
            raise MethodError(
                f"bifurcate=False gives both products the copy in gradients={self.gradients!r}; "
                f"update_gradients={self.update_gradients!r} would be a second one: drop one of the two"
            )
        if not self.bifurcate and self.gradients is None:
            raise MethodError("bifurcate=False shares one quantized gradient: it has no use with gradients=None")
        if self.norm == "keep" and (self.norm_bits != 8 or self.norm_gradient_bits is not None):
            raise MethodError("norm='keep' quantizes no norms: norm_bits and norm_gradient_bits have no use")
        if self.grad_rounding not in ("stochastic", "nearest_even"):
            raise MethodError(f"grad_rounding={self.grad_rounding!r}: valid are 'stochastic' and 'nearest_even'")
        if isinstance(parse_granularity(self.granularity), PerGroup):
            raise MethodError(f"granularity={self.granularity!r}: valid are 'channel' and 'tensor'")
        for name, bits in (("norm_bits", self.norm_bits), ("norm_gradient_bits", self.norm_gradient_bits)):
            if bits is not None and not 2 <= bits <= 8:
                raise MethodError(f"{name}={bits}: quantized normalization takes 2 to 8 bits")
        if self.num_chunks < 1:
            raise MethodError(f"num_chunks={self.num_chunks}: the values are split into at least 1 chunk")
        if self.exact and (self.weights is None or self.activations is None):
            raise MethodError("exact=True multiplies integer codes: give weights= and activations=")

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The slots that are filled, and the batch norms that are replaced."""
        layers, norms = self._matched(model)
        slots = {
            "gemm.weight.quantize": self.weights is not None,
            "gemm.input.quantize": self.activations is not None,
            "gemm.grad_output.input": self.gradients is not None,
            "gemm.grad_output.update": self._update_format() is not None,
            "gemm.backend": self.exact,
        }
        taken = frozenset(slot for slot, is_filled in slots.items() if is_filled)
        return dict.fromkeys(layers, taken) | dict.fromkeys(norms, frozenset({"norm"}))

    def _matched(self, model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        """Layers and batch norms that the patterns leave; without a layer there is nothing to train in few bits."""
        norms: tuple[type[nn.Module], ...] = () if self.norm == "keep" else tuple(RANGE_OF)
        found = match(model, self.include, self.exclude, (*self.targets, *norms))
        layers = {fqn: module for fqn, module in found.items() if isinstance(module, self.targets)}
        if not layers:
            match(model, targets=self.targets)  # says so where there is none at all
            raise MethodError(f"include={self.include} matches batch norms alone: name a layer, or use RangeBatchNorm")
        return layers, {fqn: module for fqn, module in found.items() if fqn not in layers}

    def _update_format(self) -> str | None:
        return self.update_gradients if self.bifurcate else self.gradients

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        layers, norms = self._matched(model)
        for fqn, layer in layers.items():
            assert isinstance(layer.weight, Tensor)
            require_finite(layer.weight, f"weight of layer {fqn!r}")
        skipped = {} if self.norm == "keep" else _norms_in_float(model, norms)
        swaps: dict[str, nn.Module] = {fqn: as_gemm(layer) for fqn, layer in layers.items()}
        for fqn, swap in swaps.items():
            self._fill(fqn, swap)
        for fqn, norm in norms.items():
            if type(norm) not in QUANTIZED_OF:
                skipped[fqn] = f"{type(norm).__name__} is a batch norm with behaviour of its own"
            else:
                swaps[fqn] = self._normalization(fqn, norm)
        swap_modules_(model, swaps)
        if context.data is not None:
            measure_ranges_(model, first_samples(context.data, _MAX_SAMPLES))
        return Applied(method=self, changed=tuple(swaps), skipped=skipped)

    def _fill(self, fqn: str, layer: nn.Module) -> None:
        assert isinstance(layer, GemmModule)
        key = Key(self.seed).fold("int8 training", fqn)
        if self.weights is not None:
            master = None if self.master is None else parse_format(self.master)
            assert master is None or isinstance(master, IntFormat)
            content = MeasuredWeight(
                integer_format("weights", self.weights),
                parse_granularity(self.granularity),
                master,
                None if master is None else key.fold("master"),
            )
            layer.slots.fill("weight", content)
        if self.activations is not None:
            layer.slots.fill(
                "input", MeasuredInput(integer_format("activations", self.activations), over=self.input_range)
            )
        # One key: where both products take the quantized gradient, they take one and the same.
        for slot, spec in (("grad_output_input", self.gradients), ("grad_output_update", self._update_format())):
            if spec is not None:
                format = integer_format("gradients", spec)
                layer.slots.fill(slot, MeasuredGradient(format, self.grad_rounding, key.fold("gradient")))
        if self.exact:
            assert self.weights is not None
            assert self.activations is not None
            operands = (integer_format("activations", self.activations), integer_format("weights", self.weights))
            layer.slots.fill("backend", BlockedProduct(*operands))
        layer.slots.to(layer.weight.device).train(layer.training)

    def _normalization(self, fqn: str, norm: nn.Module) -> nn.Module:
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        layer = QUANTIZED_OF[type(norm)].quantized(
            norm,
            self.norm_bits,
            "range" if self.norm == "range" else "variance",
            self.num_chunks,
            self.scale,
            gradient_bits=self.norm_gradient_bits,
            grad_rounding=self.grad_rounding,
            key=Key(self.seed).fold("norm gradient", fqn),
        )
        return layer.to(norm.weight.device) if isinstance(norm.weight, Tensor) else layer


def _norms_in_float(model: nn.Module, replaced: Mapping[str, nn.Module]) -> dict[str, str]:
    """Normalizations that stay as they are, by name, so that nobody takes them for quantized."""
    return {
        fqn: "left out by include/exclude"
        if isinstance(module, tuple(RANGE_OF))
        else f"{type(module).__name__} stays in float: quantized normalization takes BatchNorm1d and BatchNorm2d"
        for fqn, module in model.named_modules()
        if isinstance(module, _NORMS) and fqn not in replaced
    }
