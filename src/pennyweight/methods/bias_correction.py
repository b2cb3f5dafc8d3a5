"""`BiasCorrection`: the mean error of each output channel taken out of the bias, in closed form."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.reconstruction.gathering import gathered
from pennyweight.methods.retarget import Matching, retarget_
from pennyweight.methods.statistics import not_movable
from pennyweight.methods.statistics_tuning import float_statistics
from pennyweight.nn.calling import take_samples
from pennyweight.nn.execution import execution_of
from pennyweight.nn.gemm import WEIGHTED
from pennyweight.nn.surgery import match


@dataclass(frozen=True, kw_only=True)
class BiasCorrection(Method):
    """Subtract from each bias the mean error of its channel: b -= E[quantized output - float output].

    What: the outputs of the float and of the quantized model are compared on calibration data, layer by layer, each
    with the layers before it corrected already.

    When to use: models without batch norm, or where `StatisticsTuning` may not touch the spread.

    Caveats: the mean alone; a channel that became wider or narrower stays so.

    Source: arXiv 1906.04721, section 4.2, with data in the place of its analytic estimate.

    Args:
        max_samples: calibration samples read at most.
    """

    max_samples: int = 1024

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.bias.correction"})
    paper: ClassVar[Paper] = Paper("1906.04721", "Data-Free Quantization Through Weight Equalization", 2019)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.max_samples < 1:
            raise MethodError(f"max_samples={self.max_samples}: a mean needs at least 1 sample")

    def needs_data(self) -> bool:
        """Means are measured."""
        return True

    def needs_reference(self) -> bool:
        """The targets are the float model's."""
        return True

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        assert context.data is not None
        assert context.reference is not None
        chosen = match(model, self.include, self.exclude, self.targets)
        inputs = gathered(context.data, 2 if context.rehearsal else self.max_samples)
        execution = execution_of(model, take_samples(inputs, slice(2)))
        calls = {layer.fqn: layer.calls for layer in execution.layers if layer.fqn in chosen}
        skipped = {fqn: "the model's forward never calls it" for fqn in chosen if fqn not in calls}
        skipped |= not_movable(model, calls)
        targets = float_statistics(context.reference, [name for name in calls if name not in skipped], inputs)
        matching = Matching(strength=1.0, spread=False, clip=(1.0, 1.0), min_std=0.0)
        done = retarget_(model, targets, inputs, execution, matching)
        return Applied(method=self, changed=tuple(done.moved), skipped=skipped)
