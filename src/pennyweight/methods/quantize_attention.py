"""`QuantizeAttention`: integer codes for the operands of attention's two products, which belong to no layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pennyweight.errors import MethodError
from pennyweight.methods.attention_products import attached_attention
from pennyweight.methods.base import Applied, Batches, Context, Method, Paper
from pennyweight.methods.calibration import first_samples, heavy_tailed, observe_inputs
from pennyweight.methods.rounding import Ranges, integer_format
from pennyweight.nn.slots.chain import SlotChain
from pennyweight.nn.slots.integer import IntegerInput
from pennyweight.nn.surgery import match
from pennyweight.numerics.ranges import Estimator
from pennyweight.numerics.statistics import sqnr_db


@dataclass(frozen=True, kw_only=True)
class QuantizeAttention(Method):
    """Quantize queries, keys, values and attention probabilities, wherever a model multiplies them.

    What: the calls of `torch.matmul`, `bmm`, `@` and `scaled_dot_product_attention` in the model's modules are found
    by running it once; each operand gets affine codes with one scale, from a few calibration batches. Softmax and
    normalization stay float. Weighted layers are left to other methods, such as `RoundToNearest`.

    When to use: with 8-bit weights and activations, so that a transformer has no float product left.

    Measured here: with `RoundToNearest` W8A8 on the public 233k-parameter decoder, perplexity 6.046 against 6.013 in
    float, over 16256 tokens it drew itself; the products add less than 0.005 nats of it (`tests/claims`).

    Caveats: simulated in float32. A forward must make the same products each time. Products inside
    `torch.nn.MultiheadAttention` and `torch.einsum` are not seen.

    Source: the wrapped products of the BERT experiments of arXiv 2006.10518.

    Args:
        activations: integer format of the operands, 2 to 8 bits.
        activation_range: how ranges are estimated: "minmax", "percentile" or "mse".
        percentile: share of values inside the range, for "percentile".
        max_samples: calibration samples read at most.
    """

    activations: str = "int8"
    activation_range: Estimator = "mse"
    percentile: float = 99.99
    max_samples: int = 512

    targets: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    touches: ClassVar[frozenset[str]] = frozenset({"attention"})
    paper: ClassVar[Paper] = Paper("2006.10518", "Improving Post Training Neural Quantization", 2020)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        integer_format("activations", self.activations)
        self._ranges()
        if self.max_samples < 1:
            raise MethodError(f"max_samples={self.max_samples}: calibration needs at least 1 sample")

    def _ranges(self) -> Ranges:
        return Ranges(activations=self.activation_range, percentile=self.percentile)

    def needs_data(self) -> bool:
        """The products are found, and their ranges measured, by running the model."""
        return True

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """Every module that may turn out to multiply activations; torch's own layers do not."""
        matched = match(model, self.include, self.exclude, self.targets)
        own = [fqn for fqn, module in matched.items() if not type(module).__module__.startswith("torch.nn.")]
        return dict.fromkeys(own, self.touches)

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        assert context.data is not None
        matched = match(model, self.include, self.exclude, self.targets)
        data = first_samples(context.data, self.max_samples)
        with attached_attention(model, matched, data[0]) as attention:
            metrics = self._fill(model, attention.owners, data)
        return Applied(method=self, changed=attention.owners, skipped=attention.skipped, metrics=metrics)

    def _fill(self, model: nn.Module, owners: Sequence[str], data: Batches) -> dict[str, float | str]:
        """Observe every operand of the products, then put its quantizer into its slot."""
        format = integer_format("activations", self.activations)
        ranges = self._ranges()
        operands = {
            f"{owner}.products.{name}": chain
            for owner in owners
            for name, chain in model.get_submodule(f"{owner}.products").named_modules()
            if isinstance(chain, SlotChain)
        }
        seen = observe_inputs(model, list(operands), data, self.max_samples)
        metrics: dict[str, float | str] = {"products": len(operands) // 2}
        for fqn, chain in operands.items():
            content = IntegerInput(ranges.of_input(seen[fqn], format))
            metrics[f"{fqn}.sqnr_db"] = round(float(sqnr_db(seen[fqn], content(seen[fqn]))), 2)
            chain.fill(content, fqn)
        return metrics | heavy_tailed(seen)
