"""`StatisticsTuning`: batch-norm statistics estimated again for a quantized net, its codes unchanged."""

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.reconstruction.gathering import gathered
from pennyweight.methods.reconstruction.samples import PASS
from pennyweight.methods.retarget import Matching, retarget_
from pennyweight.methods.statistics import (
    ChannelStatistics,
    Inputs,
    batchnorm_statistics,
    measured_statistics,
    not_movable,
)
from pennyweight.nn.calling import num_samples, take_samples
from pennyweight.nn.execution import Execution, execution_of
from pennyweight.nn.folding import fold_batchnorm_
from pennyweight.nn.gemm import WEIGHTED
from pennyweight.nn.surgery import match

Target = Literal["float", "batchnorm"]


@dataclass(frozen=True, kw_only=True)
class StatisticsTuning(Method):
    """Give each layer's output channels the mean and spread they have in the float net.

    What: quantization shifts and widens what layers give. Each channel is measured on calibration data and moved back
    by a gain and an offset that its scale and bias take up, so integer codes stay as they are. Targets are what the
    float model gives on the same data, or the parameters of its batch norms.

    When to use: after rounding to nearest, always: it needs no labels, no gradients and a few forwards. After a method
    that fits outputs already, such as `AdaQuant`, there is nothing left for it.

    Claim: recovers most of the accuracy lost at 4 bits together with layer-wise calibration (arXiv 2006.10518, there
    called para-normalization).

    Measured here: the public CIFAR-10 ResNet-20, all test images, float 91.73, first and last layer at 8 bits: rounded
    W4A4 88.95 becomes 90.06 (five draws of 1,000 images), W3A3 46.78 becomes 85.30; after `AdaQuant` W4A4 91.06 becomes
    91.04, W3A3 89.28 becomes 88.78 (`results/post_training_accuracy-*`).

    Caveats: weights with one scale for the whole tensor, weights that another module holds too, and linear layers over
    tokens are matched in the mean alone.

    Source: arXiv 2006.10518, section 5.

    Deviations: the paper's targets are the batch norms' parameters ("batchnorm"). They hold for training images as
    they were augmented: on the public ResNet-20 for CIFAR-10 they cost a net in float 2.6 points on clean images, and
    float targets nothing, so these are the default, and serve nets without batch norm. Statistics are those of all
    samples at once instead of a running average; the paper's code moves 1 - 0.9^5 = 41 % of the way, which
    strength=0.41 repeats.

    Args:
        target: "float" takes what the float model gives on the calibration data, "batchnorm" what its batch norms
            stored in training; layers without batch norm are then left alone.
        strength: share of the way from measured statistics, in (0, 1].
        match_spread: match the spread too; else the mean alone.
        clip: the least and the greatest gain of a channel.
        min_std: channels quieter than this are left alone.
        max_samples: calibration samples read at most.
    """

    target: Target = "float"
    strength: float = 1.0
    match_spread: bool = True
    clip: tuple[float, float] = (0.5, 2.0)
    min_std: float = 1e-5
    max_samples: int = 1024

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.statistics"})
    paper: ClassVar[Paper] = Paper("2006.10518", "Improving Post Training Neural Quantization", 2020)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if not 0 < self.strength <= 1:
            raise MethodError(f"strength={self.strength}: a share in (0, 1]")
        if not 0 < self.clip[0] <= 1 <= self.clip[1]:
            raise MethodError(f"clip={self.clip}: the least gain lies in (0, 1], the greatest is at least 1")
        if self.max_samples < 2:
            raise MethodError(f"max_samples={self.max_samples}: a spread needs at least 2 samples")

    def needs_data(self) -> bool:
        """Statistics are measured."""
        return True

    def needs_reference(self) -> bool:
        """The targets are the float model's."""
        return True

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        assert context.data is not None
        assert context.reference is not None
        chosen = match(model, self.include, self.exclude, self.targets)
        inputs = gathered(context.data, 8 if context.rehearsal else self.max_samples)
        example = take_samples(inputs, slice(2))
        execution = execution_of(model, example)
        calls = {layer.fqn: layer.calls for layer in execution.layers if layer.fqn in chosen}
        skipped = {fqn: "the model's forward never calls it" for fqn in chosen if fqn not in calls}
        skipped |= not_movable(model, calls)
        wanted = [name for name in calls if name not in skipped]
        targets = self._targets(context.reference, wanted, inputs, execution_of(context.reference, example))
        skipped |= {name: "no batch norm follows it in the float model" for name in wanted if name not in targets}
        matching = Matching(strength=self.strength, spread=self.match_spread, clip=self.clip, min_std=self.min_std)
        done = retarget_(model, targets, inputs, execution, matching)
        metrics: dict[str, float | str] = {"clipped_channels": done.clipped, "quiet_channels": done.left}
        metrics |= {f"{name}.mean_only": reason for name, reason in done.mean_only.items()}
        return Applied(method=self, changed=tuple(done.moved), skipped=skipped, metrics=metrics)

    def _targets(
        self, reference: nn.Module, wanted: list[str], inputs: Inputs, execution: Execution
    ) -> dict[str, ChannelStatistics]:
        if self.target == "float":
            return float_statistics(reference, wanted, inputs)
        pairs = [(layer, norm) for layer, norm in execution.norms if layer in wanted]
        known = batchnorm_statistics(reference, pairs)
        if not known:
            raise MethodError(
                "target='batchnorm', but no batch norm follows a layer in the float model: pass the model from before "
                "folding as reference, or target='float'"
            )
        return known


def float_statistics(reference: nn.Module, names: list[str], inputs: Inputs) -> dict[str, ChannelStatistics]:
    """What layers give in the float model once its batch norms are folded, as those of the quantized model are.

    Raises:
        MethodError: the reference lacks one of the layers.
    """
    known = dict(reference.named_modules())
    if absent := [name for name in names if name not in known]:
        raise MethodError(f"the reference has no layer {absent[0]!r}: pass a copy of this model in float")
    if not names:
        return {}
    folded = copy.deepcopy(reference)
    batches = [take_samples(inputs, slice(s, s + PASS)) for s in range(0, num_samples(inputs), PASS)]
    fold_batchnorm_(folded, batches[0])
    return measured_statistics(folded, names, batches)
