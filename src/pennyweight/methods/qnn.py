"""`QNN`: weights, activations and gradients of 1 to 8 bits while training."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.latent import glorot_lr_scale, rectifiers, refuse_functional_rectifiers, spread_latent_
from pennyweight.nn.gemm import WEIGHTED, GemmModule, as_gemm
from pennyweight.nn.slots.binary import BinaryInput, BinaryWeight
from pennyweight.nn.slots.blocks import BlockScaled
from pennyweight.nn.slots.chain import SlotContent
from pennyweight.nn.slots.clipped import ClippedInput, ClippedWeight, ScaledGradient
from pennyweight.nn.slots.integer import RunningInput
from pennyweight.nn.slots.measured import MeasuredInput, MeasuredWeight
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.affine import PerChannel
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import BinaryFormat, BlockFormat, Format, IntFormat, LogFormat, parse_format
from pennyweight.numerics.random import Key
from pennyweight.numerics.rounding import Rounding

_MOST_BITS = 8


@dataclass(frozen=True, kw_only=True)
class QNN(Method):
    """Train with weights, activations and, if asked, gradients on a few levels of a fixed range.

    What: each matched Linear and convolution multiplies quantized weights by quantized activations. A format says how:
    "binary" is the sign; "int2" to "int8" the linear levels of [-1, 1], "int2n" and its like the symmetric ones;
    "uint1" to "uint8" those of [0, 1]; "log2" to "log8" powers of two. Gradients pass a quantizer where the value lies
    in its range. Latent weights are float, start with the spread of U(-1, 1) and are clipped to [-1, 1] after each
    step. Signed activations are clipped as by a hard tanh, which replaces the net's rectifiers; unsigned ones follow
    the rectifiers that are there. The net's first layer sees 8-bit integers. Gradients of 6 bits and their like share
    one scale a tensor, max |g|, and one copy serves both backward products. Block-scaled formats ("mxfp4", "nvfp4",
    "mxfp8e4m3", ...) scale themselves: nothing is spread, clipped or replaced for them.

    When to use: for nets with batch norm, trained from scratch, that are to run on 1 to 4 bits; `BNN` for 1-bit
    activations with the binary paper's own presets, `Int8Training` for 8 bits with measured ranges.

    Claim: 1-bit weights and 2-bit activations reach 51 % top-1 on ImageNet (arXiv 1609.07061, abstract).

    Measured here: VGG-small a sixteenth as wide, 250 steps of CIFAR-10, 5 seeds: W1A1 36.8 %, W1A2 41.1, W2A2 41.5,
    W4A4 47.5, float 48.9. W1A2 and W2A2 are not told apart; W4A4 is 1.35 points below float [-3.02, 0.32], 6-bit
    gradients 0.85 below float ones [-2.27, 0.58] (`results/qnn_cifar10-*`). A 1024 x 1024 layer of W1A2 runs 2.9 to 5.9
    times as fast as float32, of W4A4 1.2 to 1.8 times (`results/bitplanes-*`).

    Caveats: without batch norm it hardly trains. Training is simulated in float32 and slower than float. Linear layers
    of at most 4 bits run packed by bit planes; convolutions do not. Biases, norms and the optimizer's state stay float.

    Source: arXiv 1609.07061, section 3 and algorithm 1.

    Args:
        weights: "binary", a signed integer format of 2 to 8 bits, "log2" to "log8", a block format; None leaves them.
        activations: the same, or an unsigned integer format of 1 to 8 bits; None leaves them.
        gradients: neural gradients: a signed integer format such as "int6n", "log6", "binary", a block format; None.
        grad_rounding: "stochastic" or "nearest_even".
        first_last: the first and last weighted layer: "same" as all, the paper's, "int8" with measured ranges, or
            "float", which leaves them as they are.
        glorot_scaling: multiply each latent weight's learning rate by sqrt((fan_in + fan_out) / 1.5).
        clip: clip latent weights to [-1, 1] after each step.
        seed: root of the stochastic draws.
    """

    weights: str | None = "binary"
    activations: str | None = "int2n"
    gradients: str | None = None
    grad_rounding: Rounding = "stochastic"
    first_last: Literal["same", "int8", "float"] = "same"
    glorot_scaling: bool = True
    clip: bool = True
    seed: int = 0

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset(
        {"gemm.weight.quantize", "gemm.input.quantize", "gemm.grad_output.input", "gemm.grad_output.update"}
    )
    paper: ClassVar[Paper] = Paper(
        "1609.07061",
        "Quantized Neural Networks: Training Neural Networks with Low Precision Weights and Activations",
        2016,
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.weights is None and self.activations is None and self.gradients is None:
            raise MethodError("weights, activations and gradients are all None: nothing to quantize")
        for role in ("weights", "activations", "gradients"):
            self._format(role)
        if self.grad_rounding != "stochastic" and self.gradients is None:
            raise MethodError(f"grad_rounding={self.grad_rounding!r} has no effect: give gradients=")
        if self.grad_rounding not in ("stochastic", "nearest_even"):
            raise MethodError(f"grad_rounding={self.grad_rounding!r}: valid are 'stochastic' and 'nearest_even'")

    def _format(self, role: str) -> Format | None:
        value = getattr(self, role)
        if value is None:
            return None
        format = parse_format(value)
        fits = format.bits <= _MOST_BITS and (
            isinstance(format, BinaryFormat | BlockFormat)
            or (isinstance(format, IntFormat) and (format.signed or role == "activations"))
            or (isinstance(format, LogFormat) and format.max_exponent == 0)
        )
        if not fits:
            unsigned = ", 'uint1' to 'uint8'" if role == "activations" else ""
            raise MethodError(
                f"{role}={value!r}: takes 'binary', 'int2' to 'int8', 'int2n' to 'int8n'{unsigned}, 'log2' to 'log8', "
                f"or a block format such as 'mxfp4'"
            )
        return format

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The slots that are filled, of the layers that are not left in float."""
        slots = {
            "gemm.weight.quantize": self.weights,
            "gemm.input.quantize": self.activations,
            "gemm.grad_output.input": self.gradients,
            "gemm.grad_output.update": self.gradients,
        }
        taken = frozenset(slot for slot, format in slots.items() if format is not None)
        if isinstance(self._format("weights"), BinaryFormat):
            taken |= {"gemm.weight.mask"}  # the sign of a pruned weight would be +1
        layers, _ = self._layers(model)
        return dict.fromkeys(layers, taken)

    def _layers(self, model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
        """Layers to quantize, and those that the policy leaves, with the reason."""
        layers = match(model, self.include, self.exclude, self.targets)
        left: dict[str, str] = {}
        if self.first_last == "float":
            first, last = _ends(model)
            names = {first: "first", last: "last"}
            left = {fqn: f"the {names[fqn]} layer stays float: first_last='float'" for fqn in layers if fqn in names}
            layers = {fqn: layer for fqn, layer in layers.items() if fqn not in left}
        if not layers:
            raise MethodError(
                "first_last='float' leaves no module to quantize: only the first and the last layer match; "
                "first_last='same' quantizes them"
            )
        return layers, left

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        activations = self._format("activations")
        has_both_signs = isinstance(activations, BinaryFormat | LogFormat) or (
            isinstance(activations, IntFormat) and activations.signed
        )
        if has_both_signs:
            refuse_functional_rectifiers(model)
        layers, left = self._layers(model)
        for fqn, layer in layers.items():
            assert isinstance(layer.weight, Tensor)
            require_finite(layer.weight, f"weight of layer {fqn!r}")
        first, last = _ends(model)
        swaps: dict[str, nn.Module] = {fqn: as_gemm(layer) for fqn, layer in layers.items()}
        for fqn, layer in swaps.items():
            assert isinstance(layer, GemmModule)
            self._fill(fqn, layer, is_first=fqn == first, is_end=fqn in (first, last))
        if has_both_signs:
            swaps |= {fqn: nn.Hardtanh() for fqn in rectifiers(model)}
        swap_modules_(model, swaps)
        metrics: dict[str, float | str] = {
            "latent_weights": "float32",
            "biases_norms_and_optimizer": "float32",
            "arithmetic_of_training": "simulated in float32",
        }
        return Applied(method=self, changed=tuple(swaps), skipped=left, metrics=metrics)

    def _fill(self, fqn: str, layer: GemmModule, is_first: bool, is_end: bool) -> None:
        axis = -1 if layer.weight.dim() == 2 else 1  # channels
        weights, activations, gradients = map(self._format, ("weights", "activations", "gradients"))
        wide = is_end and self.first_last == "int8"
        if weights is not None:
            content = MeasuredWeight(IntFormat(8), PerChannel()) if wide else self._weight(layer, weights, axis)
            layer.slots.fill("weight", content)
        if activations is not None:
            layer.slots.fill("input", _input(activations, axis, is_first=is_first, wide=wide))
        if gradients is not None:
            # One key: both products take one and the same quantized gradient.
            key = Key(self.seed).fold("qnn gradient", fqn)
            for slot in ("grad_output_input", "grad_output_update"):
                layer.slots.fill(slot, _gradient(gradients, axis, self.grad_rounding, key))
        layer.slots.to(layer.weight.device).train(layer.training)

    def _weight(self, layer: GemmModule, format: Format, axis: int) -> SlotContent:
        if isinstance(format, BlockFormat):
            return BlockScaled(format, axis, what="the weight to quantize")
        spread_latent_(layer.weight)
        lr_scale = glorot_lr_scale(layer.weight) if self.glorot_scaling else 1.0
        if isinstance(format, BinaryFormat):
            return BinaryWeight(clip=self.clip, lr_scale=lr_scale)
        assert isinstance(format, IntFormat | LogFormat)
        return ClippedWeight(format, clip=self.clip, lr_scale=lr_scale)


def _ends(model: nn.Module) -> tuple[str, str]:
    """Names of the first and the last weighted layer."""
    weighted = [fqn for fqn, module in model.named_modules() if isinstance(module, WEIGHTED)]
    return weighted[0], weighted[-1]


def _input(format: Format, axis: int, *, is_first: bool, wide: bool) -> SlotContent:
    if isinstance(format, BlockFormat) and not wide:
        return BlockScaled(format, axis, what="the activations to quantize")
    if is_first:
        return RunningInput(IntFormat(8))
    if wide:
        return MeasuredInput(IntFormat(8, signed=False), over="batch")
    if isinstance(format, BinaryFormat):
        return BinaryInput()
    assert isinstance(format, IntFormat | LogFormat)
    return ClippedInput(format)


def _gradient(format: Format, axis: int, rounding: Rounding, key: Key) -> SlotContent:
    if isinstance(format, BlockFormat):
        return BlockScaled(format, axis, rounding, key if rounding == "stochastic" else None, what=None)
    return ScaledGradient(format, rounding, key if rounding == "stochastic" else None)
