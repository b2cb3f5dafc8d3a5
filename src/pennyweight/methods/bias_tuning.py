"""`BiasTuning`: biases tuned together until the quantized outputs follow the float ones; no labels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.allocation.sensitivity import kl_divergence, outputs_of
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.reconstruction.gathering import gathered
from pennyweight.methods.reconstruction.samples import PASS
from pennyweight.methods.statistics import Inputs, require_bias_
from pennyweight.nn.calling import call, num_samples, output_tensor, take_samples
from pennyweight.nn.gemm import WEIGHTED
from pennyweight.nn.modes import in_mode, only_learning
from pennyweight.nn.surgery import match
from pennyweight.numerics.random import Key, permutation


@dataclass(frozen=True, kw_only=True)
class BiasTuning(Method):
    """Tune biases by gradient so that the softmax outputs stay close to the float model's.

    What: the float model's outputs on the calibration samples are kept; stochastic gradient descent on the biases
    alone minimises KL(float || quantized). The best state over the whole set is kept, the start included.

    When to use: as the last step after layer-wise methods: it sees the whole net, at the price of back-propagation.

    Measured here: after `AdaQuant` and `StatisticsTuning` on the public CIFAR-10 ResNet-20, 1,000 images: W4A4 91.04
    becomes 91.09, W3A3 88.78 becomes 88.91: within the noise of the draws (`results/post_training_accuracy-*`).

    Caveats: fits the calibration samples; with few of them watch a held-out loss. For classifiers and language models,
    whose outputs are logits.

    Source: arXiv 2006.10518, section 5 and its code (KL without labels).

    Deviations: outputs are kept by sample, not by class; the loss is a mean over samples, not over classes too.

    Args:
        steps: of gradient descent.
        lr: its rate for the mean over samples of KL.
        momentum: in [0, 1).
        batch_size: samples a step.
        evaluate_every: steps between looks at the whole set.
        max_samples: calibration samples read at most.
        seed: of the order of samples.
    """

    steps: int = 200
    lr: float = 1e-3
    momentum: float = 0.9
    batch_size: int = 50
    evaluate_every: int = 50
    max_samples: int = 1024
    seed: int = 0

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.bias.tuning"})
    paper: ClassVar[Paper] = Paper("2006.10518", "Improving Post Training Neural Quantization", 2020)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        for name in ("steps", "batch_size", "evaluate_every", "max_samples"):
            if getattr(self, name) < 1:
                raise MethodError(f"{name}={getattr(self, name)}: must be at least 1")
        if not self.lr > 0 or not 0 <= self.momentum < 1:
            raise MethodError(f"lr={self.lr}, momentum={self.momentum}: lr is positive, momentum in [0, 1)")

    def needs_data(self) -> bool:
        """Outputs are compared on data."""
        return True

    def needs_reference(self) -> bool:
        """The outputs to follow are the float model's."""
        return True

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        assert context.data is not None
        assert context.reference is not None
        chosen = match(model, self.include, self.exclude, self.targets)
        inputs = gathered(context.data, 2 if context.rehearsal else self.max_samples)
        batches = [take_samples(inputs, slice(s, s + PASS)) for s in range(0, num_samples(inputs), PASS)]
        targets = torch.cat(outputs_of(context.reference, batches))
        for layer in chosen.values():
            require_bias_(layer)
        biases = [layer.bias for layer in chosen.values() if isinstance(layer.bias, nn.Parameter)]
        with in_mode(model, training=False), only_learning(biases, model.parameters()):
            before, after, best_step = self._descend(model, biases, inputs, targets, context.rehearsal)
        metrics: dict[str, float | str] = {"kl_before": before, "kl_after": after, "best_step": best_step}
        return Applied(method=self, changed=tuple(chosen), metrics=metrics)

    def _descend(
        self, model: nn.Module, biases: list[nn.Parameter], inputs: Inputs, targets: Tensor, rehearsal: bool
    ) -> tuple[float, float, int]:
        """KL before and after over all samples, and the step the state kept was seen at."""
        optimizer = torch.optim.SGD(biases, lr=self.lr, momentum=self.momentum)
        count = len(targets)
        start = best = _divergence(model, inputs, targets)
        best_state, best_step = [bias.detach().clone() for bias in biases], 0
        order = torch.empty(0, dtype=torch.int64)
        for step in range(0 if rehearsal else self.steps):
            if len(order) < min(self.batch_size, count):
                order = permutation(count, Key(self.seed).fold("bias tuning", step))
            chosen, order = order[: self.batch_size], order[self.batch_size :]
            with torch.enable_grad():
                outputs = output_tensor(call(model, take_samples(inputs, chosen)))
                loss = F.kl_div(
                    F.log_softmax(outputs, -1), F.log_softmax(targets[chosen], -1), log_target=True, reduction="none"
                )
                (loss.sum() / loss[..., 0].numel()).backward()
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % self.evaluate_every == 0 or step + 1 == self.steps:
                now = _divergence(model, inputs, targets)
                if now < best:
                    best, best_step = now, step + 1
                    best_state = [bias.detach().clone() for bias in biases]
        with torch.no_grad():
            for bias, value in zip(biases, best_state, strict=True):
                bias.copy_(value)
        return start, best, best_step


@torch.no_grad()
def _divergence(model: nn.Module, inputs: Inputs, targets: Tensor) -> float:
    """Mean KL over all samples; what is no number counts as worse than anything."""
    total = 0.0
    for start in range(0, len(targets), PASS):
        part = slice(start, start + PASS)
        outputs = output_tensor(call(model, take_samples(inputs, part)))
        total += float(kl_divergence(targets[part], outputs))
    if total != total:
        return float("inf")
    return total / targets[..., 0].numel()
