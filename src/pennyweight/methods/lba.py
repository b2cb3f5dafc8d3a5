"""`LBA`: every sum of products in a floating-point accumulator of few bits."""

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pennyweight.errors import MethodError, NumericsError
from pennyweight.methods.accumulator_bias import calibrated_biases
from pennyweight.methods.attention_products import attached_attention
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.reconstruction.gathering import gathered
from pennyweight.nn.accumulators import accumulator_slots
from pennyweight.nn.calling import take_samples
from pennyweight.nn.gemm import as_gemm
from pennyweight.nn.slots.chain import GemmSlots
from pennyweight.nn.slots.low_bit_accumulator import CalibratedAccumulator, LowBitAccumulator
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.accumulate import AccumulatorRounding, AccumulatorSpec
from pennyweight.numerics.accumulation_gradients import ESTIMATORS, Estimator
from pennyweight.numerics.formats import IntFormat


@dataclass(frozen=True, kw_only=True)
class LBA(Method):
    """Sum each layer's products in an accumulator of few bits, as cheap hardware would.

    What: in each linear layer and convolution every product and every partial sum is cut to a sign, some exponent and
    some mantissa bits, in chunks that start from 0; what is too large saturates, what is too small becomes 0. Biases,
    normalization and softmax stay float32. Backward, the plain product's gradients or finer ones that know which
    additions were lost.

    When to use: to see what a narrower accumulator costs a net, and to fine-tune it back in two stages: apply with
    `underflow=False` and train; then apply `AccumulatorUnderflow()` and train a little more with a tenth of the rate.
    Below 12 bits take "recursive-of" where sums overflow.

    Claim: 12-bit accumulators without significant loss on ImageNet and SQuAD after fine-tuning; below that finer
    gradients improve accuracy (arXiv 2401.14110).

    Measured here: a perceptron without batch norm on digits, 5 seeds: 12 bits 0.00 points from float [-0.24, +0.24]; 7
    bits that saturate at 1.9 lose 40.8 with "identity", and "recursive-of" gives back 41.1 [+31.6, +50.5]. In 12 bits,
    a vision transformer with attention -0.22 [-0.79, +0.34]; the public ResNet-20 -0.10 as converted, +0.10 [-0.40,
    +0.60] fine-tuned (`results/lba_training-*`; more in `docs/lba.md`).

    Caveats: simulated: it says what accuracy such hardware has, never how fast it is. In C++ some 6 GMAC/s a core;
    finer gradients run in torch at a hundredth of that. Three-dimensional convolutions are left out. The exact bits
    depend on the order of the sum: channel, row, column. Where a layer's slots hold integer codes the accumulator sums
    codes, as an engine would: quantize first, then apply with `product_bias=None, sum_bias=None`.

    Source: arXiv 2401.14110, sections 3 and 4.

    Args:
        mantissa: bits behind the leading one.
        exponent: bits.
        product_bias: largest exponents are 2^exponent - 1 - bias; None measures it, product by product.
        sum_bias: the same of partial sums.
        chunk: products that are summed from 0.
        underflow: False lets exponents reach down to -100.
        rounding: "toward_zero", or "nearest_even", which is slow.
        estimator: of gradients, "identity", "immediate-of", "recursive-of" or "immediate-diff".
        attention: also the products of two activations, wherever a model multiplies them; found by running it.
        overflow_share: where biases are measured, share of products and of sums that may saturate.
        max_samples: calibration samples read at most.
    """

    mantissa: int = 7
    exponent: int = 4
    product_bias: int | None = 12
    sum_bias: int | None = 10
    chunk: int = 16
    underflow: bool = True
    rounding: AccumulatorRounding = "toward_zero"
    estimator: Estimator = "identity"
    attention: bool = False
    overflow_share: float = 1e-6
    max_samples: int = 64

    targets: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, nn.Conv1d, nn.Conv2d)
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.accumulator", "gemm.backend", "attention.accumulator"})
    paper: ClassVar[Paper] = Paper("2401.14110", "Towards Cheaper Inference with Lower Bit-Width Accumulators", 2024)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.estimator not in ESTIMATORS:
            raise MethodError(f"estimator={self.estimator!r}: valid are {', '.join(map(repr, ESTIMATORS))}")
        if not 0 <= self.overflow_share < 1:
            raise MethodError(f"overflow_share={self.overflow_share}: a share, in [0, 1)")
        if self.max_samples < 1:
            raise MethodError(f"max_samples={self.max_samples}: at least 1 sample is measured")
        try:
            self.spec(self.product_bias or 0, self.sum_bias or 0)
        except NumericsError as error:
            raise MethodError(str(error)) from error

    def spec(self, product_bias: int, sum_bias: int) -> AccumulatorSpec:
        """The accumulator with these biases."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(AccumulatorSpec)}
        return AccumulatorSpec(**shared | {"product_bias": product_bias, "sum_bias": sum_bias})

    def needs_data(self) -> bool:
        """Where a bias is measured, or attention's products have to be found."""
        return self._measures() or self.attention

    def _measures(self) -> bool:
        return self.product_bias is None or self.sum_bias is None

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The layers' accumulators, which leave no room for a backend; of attention every module that may have some."""
        layers = match(model, self.include, self.exclude, self.targets)
        claims = dict.fromkeys(layers, frozenset({"gemm.accumulator", "gemm.backend"}))
        for fqn in self._may_attend(model):
            claims[fqn] = claims.get(fqn, frozenset()) | {"attention.accumulator"}
        return claims

    def _may_attend(self, model: nn.Module) -> dict[str, nn.Module]:
        if not self.attention:
            return {}
        matched = match(model, self.include, self.exclude, (nn.Module,))
        return {fqn: module for fqn, module in matched.items() if not type(module).__module__.startswith("torch.nn.")}

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        layers = match(model, self.include, self.exclude, self.targets)
        swaps: dict[str, nn.Module] = {fqn: as_gemm(layer) for fqn, layer in layers.items()}
        data = None if context.data is None or not self.needs_data() else gathered(context.data, self.max_samples)
        swap_modules_(model, swaps)
        with ExitStack() as stack:
            attending: tuple[str, ...] = ()
            skipped: dict[str, str] = {}
            if self.attention:
                assert data is not None
                example = take_samples(data, slice(2))
                attention = stack.enter_context(attached_attention(model, self._may_attend(model), example))
                attending, skipped = attention.owners, dict(attention.skipped)
            below = tuple(f"{fqn}.products." for fqn in attending)
            slots = {n: s for n, s in accumulator_slots(model).items() if n in swaps or (below and n.startswith(below))}
            biases = dict.fromkeys(slots, (self.product_bias or 0, self.sum_bias or 0))
            if self._measures():
                assert data is not None
                found = calibrated_biases(model, list(slots), data, self.spec(0, 0), self.overflow_share)
                skipped |= {fqn: "the model's forward never calls it" for fqn in slots if fqn not in found}
                biases = {fqn: self._given_or(*pair) for fqn, pair in found.items()}
            for fqn, (product_bias, sum_bias) in biases.items():
                spec = self.spec(product_bias, sum_bias)
                self._require_room(fqn, slots[fqn], spec)
                content = (CalibratedAccumulator if self._measures() else LowBitAccumulator)(spec, self.estimator)
                content.to(next((p.device for p in model.parameters()), torch.device("cpu")))
                if isinstance(holder := slots[fqn], GemmSlots):
                    holder.fill("accumulator", content)
                else:
                    holder.accumulator = content
        metrics: dict[str, float | str] = {}
        if self._measures():
            for fqn, pair in biases.items():
                metrics |= {f"{fqn}.product_bias": pair[0], f"{fqn}.sum_bias": pair[1]}
        changed = (*(fqn for fqn in swaps if fqn in biases), *attending)
        return Applied(method=self, changed=changed, skipped=skipped, metrics=metrics)

    def _given_or(self, product_bias: int, sum_bias: int) -> tuple[int, int]:
        return (
            product_bias if self.product_bias is None else self.product_bias,
            sum_bias if self.sum_bias is None else self.sum_bias,
        )

    def _require_room(self, fqn: str, slots: nn.Module, spec: AccumulatorSpec) -> None:
        """A given bias is for real values; products of integer codes would saturate without a word."""
        if not isinstance(slots, GemmSlots):
            return
        formats = [getattr(chain.quantizer, "format", None) for chain in (slots.input, slots.weight)]
        integers = [format for format in formats if isinstance(format, IntFormat)]
        largest = (integers[0].num_levels - 1) * (integers[1].num_levels - 1) if len(integers) == 2 else 0
        for name, end in (("product_bias", spec.largest_product), ("sum_bias", spec.largest_sum)):
            if getattr(self, name) is not None and largest > end:
                raise MethodError(
                    f"layer {fqn!r} multiplies integer codes, up to {largest}; {name}={getattr(self, name)} ends at "
                    f"{end:g}: product_bias=None, sum_bias=None measures what codes need"
                )
