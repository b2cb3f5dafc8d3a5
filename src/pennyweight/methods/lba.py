"""`LBA`: every sum of products in a floating-point accumulator of few bits."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pennyweight.errors import MethodError, NumericsError
from pennyweight.methods.accumulator_bias import calibrated_biases
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.reconstruction.gathering import gathered
from pennyweight.nn.calling import take_samples
from pennyweight.nn.gemm import GemmModule, as_gemm
from pennyweight.nn.slots.low_bit_accumulator import LowBitAccumulator
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.accumulate import AccumulatorRounding, AccumulatorSpec
from pennyweight.numerics.accumulation_gradients import Estimator


@dataclass(frozen=True, kw_only=True)
class LBA(Method):
    """Sum each layer's products in an accumulator of few bits, as cheap hardware would.

    What: in each linear layer and convolution every product and every partial sum is cut to a sign, some exponent and
    some mantissa bits, in chunks that start from 0; what is too large saturates, what is too small becomes 0. Biases,
    normalization and softmax stay float32. Backward, the plain product's gradients or finer ones that know which
    additions were lost.

    When to use: to see what a narrower accumulator costs a net, and to fine-tune it back: apply with
    `underflow=False`, train some epochs, then `nn.accumulators.set_underflow_(model, True)` and train one more with a
    tenth of the rate. Below 12 bits take "recursive-of" where sums overflow.

    Claim: 12-bit accumulators without significant loss on ImageNet and SQuAD after fine-tuning; below that finer
    gradients improve accuracy (arXiv 2401.14110).

    Measured here: see `benchmarks/lba_training.py` and `results/lba_training-*`.

    Caveats: simulated: it says what accuracy such hardware has, never how fast it is. In C++ some 6 GMAC/s a core;
    finer gradients run in torch at a hundredth of that. Three-dimensional convolutions are refused. The exact bits
    depend on the order of the sum: channel, row, column.

    Source: arXiv 2401.14110, sections 3 and 4.

    Args:
        mantissa: bits behind the leading one.
        exponent: bits.
        product_bias: largest exponents are 2^exponent - 1 - bias; None measures it, layer by layer.
        sum_bias: the same of partial sums.
        chunk: products that are summed from 0.
        underflow: False lets exponents reach down to -100.
        rounding: "toward_zero", or "nearest_even", which is slow.
        estimator: of gradients, "identity", "immediate-of", "recursive-of" or "immediate-diff".
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
    overflow_share: float = 1e-6
    max_samples: int = 64

    targets: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, nn.Conv1d, nn.Conv2d)
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.accumulator"})
    paper: ClassVar[Paper] = Paper("2401.14110", "Towards Cheaper Inference with Lower Bit-Width Accumulators", 2024)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
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
        return AccumulatorSpec(
            mantissa=self.mantissa,
            exponent=self.exponent,
            product_bias=product_bias,
            sum_bias=sum_bias,
            chunk=self.chunk,
            underflow=self.underflow,
            rounding=self.rounding,
        )

    def needs_data(self) -> bool:
        """Where a bias is measured."""
        return self.product_bias is None or self.sum_bias is None

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        layers = match(model, self.include, self.exclude, self.targets)
        swaps: dict[str, nn.Module] = {fqn: as_gemm(layer) for fqn, layer in layers.items()}
        metrics: dict[str, float | str] = {}
        skipped: dict[str, str] = {}
        biases = dict.fromkeys(swaps, (self.product_bias or 0, self.sum_bias or 0))
        swap_modules_(model, swaps)
        if self.needs_data():
            assert context.data is not None
            inputs = take_samples(gathered(context.data, self.max_samples), slice(None))
            found = calibrated_biases(model, list(swaps), inputs, self.spec(0, 0), self.overflow_share)
            skipped = {fqn: "the model's forward never calls it" for fqn in swaps if fqn not in found}
            for fqn, (product, total) in found.items():
                biases[fqn] = (
                    product if self.product_bias is None else self.product_bias,
                    total if self.sum_bias is None else self.sum_bias,
                )
                metrics |= {f"{fqn}.product_bias": biases[fqn][0], f"{fqn}.sum_bias": biases[fqn][1]}
        for fqn, layer in swaps.items():
            if fqn not in skipped:
                assert isinstance(layer, GemmModule)
                layer.slots.fill("accumulator", LowBitAccumulator(self.spec(*biases[fqn]), self.estimator))
        changed = tuple(fqn for fqn in swaps if fqn not in skipped)
        return Applied(method=self, changed=changed, skipped=skipped, metrics=metrics)
